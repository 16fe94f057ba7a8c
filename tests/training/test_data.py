from __future__ import annotations

from dataclasses import replace

import pytest

from shala_audio.data.rows import Row
from shala_audio.errors import UserError
from shala_audio.training.data import Batcher, build_dataset, training_rows
from tests.tiny import tiny_model
from tests.training.helpers import tiny_rows


def test_rows_that_must_not_be_learnt_from(tiny_lm):
    model = tiny_model(tiny_lm)
    rows, _ = tiny_rows(model)
    assert training_rows([*rows, replace(rows[0], id="x", votes={}, speaker="x")], model) == rows
    with pytest.raises(UserError, match="s0 is in train and in test"):
        training_rows([*rows, replace(rows[0], id="y", split="test")], model)
    with pytest.raises(UserError, match="of task other"):
        training_rows([replace(rows[0], task="other")], model)
    with pytest.raises(UserError, match="no `train` row"):
        training_rows([replace(row, split="test") for row in rows], model)
    with pytest.raises(UserError, match="row bad: votes for joy"):
        build_dataset(
            [Row("bad", "tiny_text", "train", text={"comment": "a"}, votes={"joy": 1})], model, None, "off", 0
        )


def test_batches_hold_prompt_human_and_weight(tiny_lm, tiny_encoder):
    model = tiny_model(tiny_lm, tiny_encoder)
    rows, store = tiny_rows(model, 4)
    dataset = build_dataset(rows, model, store, "static", 0.5)
    batch = Batcher(model, store)([dataset[index] for index in range(4)])
    places = (batch["prompt"]["input_ids"] == model.model.audio_token_id).sum(dim=1)
    assert places.tolist() == [-(-length // 4) for length in batch["prompt"]["audio_lengths"].tolist()]
    assert batch["human"].sum(dim=1).tolist() == pytest.approx([1] * 4)
    assert batch["weight"].mean().item() == pytest.approx(1, abs=1e-6)
    assert batch["prompt"]["attention_mask"][0, 0] == 0, "padded on the left"

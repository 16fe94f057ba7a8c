"""Arousal, valence and dominance beside the distribution."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from shala_audio.cli.main import app
from shala_audio.errors import UserError
from shala_audio.evaluation.metrics import attribute_measures, concordance
from shala_audio.evaluation.score import score
from shala_audio.inference.predictor import Predictor
from shala_audio.io import write_json
from shala_audio.manifest import Row, row_attributes, write_manifest
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.task import Attribute, load_task
from shala_audio.training.ambiguity import AmbiguityWeights
from shala_audio.training.data import Batcher, build_dataset
from shala_audio.training.direct import DirectTrainer
from shala_audio.training.losses import concordance_loss
from shala_audio.votes import vote_counts
from tests.tiny import TEXT_TASK, tiny_config
from tests.training.helpers import VOTES, config

TASK = replace(TEXT_TASK, attributes=(Attribute("arousal", 1, 7), Attribute("valence", 1, 7)))


def textbook(x: np.ndarray, y: np.ndarray) -> float:
    """Lin 1989, from Pearson's correlation."""
    rho = np.corrcoef(x, y)[0, 1]
    return 2 * rho * x.std() * y.std() / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


@given(st.integers(0, 10**6), st.integers(3, 30))
def test_concordance_is_lin_s(seed, rows):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, rows)) + rng.normal(size=(2, 1))
    assert concordance(x, y) == pytest.approx(textbook(x, y))
    loss = concordance_loss(torch.tensor(x)[:, None], torch.tensor(y)[:, None])
    assert loss.item() == pytest.approx(1 - textbook(x, y), abs=1e-6)


def test_rows_without_a_value_do_not_count():
    x, y = (
        torch.tensor([[1.0, 5.0], [2.0, 1.0], [4.0, 2.0]]),
        torch.tensor([[1.0, 3.0], [torch.nan] * 2, [3.0, torch.nan]]),
    )
    expected = (1 - textbook(np.array([1.0, 4.0]), np.array([1.0, 3.0]))) / 2  # the second attribute has one row: 0
    assert concordance_loss(x, y).item() == pytest.approx(expected, abs=1e-6)
    found = attribute_measures(x.numpy(), y.numpy(), ["arousal", "valence"], draws=50)
    assert found.keys() == {"ccc_arousal"} and found["ccc_arousal"]["n"] == 2


def test_attributes_come_from_the_rows():
    rows = [Row("a", "t", "train", extra={"arousal": 3}), Row("b", "t", "train", extra={"valence": None})]
    assert np.array_equal(row_attributes(rows, TASK), [[3, np.nan], [np.nan, np.nan]], equal_nan=True)
    with pytest.raises(UserError, match="row c: arousal is 'loud'"):
        row_attributes([Row("c", "t", "train", extra={"arousal": "loud"})], TASK)


@pytest.mark.parametrize("method", ["warm_start", "shala"])
def test_they_are_learnt_saved_and_predicted(tiny_lm, tmp_path, method):
    torch.manual_seed(0)
    model = SpeechLM.build(tiny_config(tiny_lm), TASK, "label_token", attributes=True)
    rows = [
        Row(
            f"r{i}", TASK.name, "train", f"s{i}", None, {"comment": "x" * (1 + i)}, VOTES[i % 4], {"arousal": 1 + i % 7}
        )
        for i in range(14)
    ]
    settings = config(tmp_path, method=method, max_steps=80, attribute_weight=1.0, per_device_train_batch_size=14)
    batcher = Batcher(model, None)
    dataset = build_dataset(rows, model, None)
    weights = None
    if method == "shala":
        weights = AmbiguityWeights(vote_counts(rows, TASK.label_names), settings.ambiguity_settings())
    trainer = DirectTrainer(model, settings, dataset, batcher, weights)
    trainer.train()
    model.save_pretrained(tmp_path / "saved")
    answers = dict(Predictor.from_pretrained(tmp_path / "saved", device="cpu").predict_rows(rows))
    stated = np.array([answers[row.id].attributes["arousal"] for row in rows])
    true = row_attributes(rows, TASK)[:, 0]
    assert concordance(stated, true) > 0.5 and (stated > 1).all() and (stated < 7).all()
    assert set(answers["r0"].to_record()) == {"probs", "entropy", "attributes"}


def test_a_head_needs_attributes_and_label_tokens(tiny_lm):
    for task, readout in ((TEXT_TASK, "label_token"), (TASK, "slots")):
        with pytest.raises(UserError, match="readout label_token and a task with attributes"):
            SpeechLM.build(tiny_config(tiny_lm), task, readout, attributes=True)


def test_they_are_scored_and_reported(tmp_path):
    labels = load_task("msp_podcast").label_names
    rng = np.random.default_rng(0)
    rows, lines = [], []
    for index in range(30):
        value = float(rng.uniform(1, 7))
        rows.append(
            Row(
                f"r{index}",
                "msp_podcast",
                "test",
                votes={"anger": 3, "fear": 2},
                text={"a": "b"},
                extra={"arousal": value},
            )
        )
        probs = dict.fromkeys(labels, 1 / len(labels))
        stated = {"attributes": {"arousal": value + rng.normal()}} if index % 3 else {}
        lines.append(json.dumps({"id": f"r{index}", "probs": probs, **stated}))
    write_manifest(tmp_path / "m.jsonl", rows)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "predictions.jsonl").write_text("\n".join(lines))
    found = score(tmp_path / "s" / "predictions.jsonl", tmp_path / "m.jsonl", draws=50)
    assert found["ccc_arousal"]["n"] == 20 and "ccc_valence" not in found
    assert found["ccc_arousal"]["low"] < found["ccc_arousal"]["value"] < found["ccc_arousal"]["high"]
    write_json(tmp_path / "s" / "score.json", found)
    report = ["evaluate", "report", str(tmp_path / "s"), "--out", str(tmp_path / "R.md")]
    assert CliRunner().invoke(app, report, catch_exceptions=False).exit_code == 0
    assert "ccc_arousal" in (tmp_path / "R.md").read_text()
    (tmp_path / "bad.jsonl").write_text(json.dumps({**json.loads(lines[0]), "attributes": {"arousal": "loud"}}))
    with pytest.raises(UserError, match="bad.jsonl:1: attributes must be an object of numbers"):
        score(tmp_path / "bad.jsonl", tmp_path / "m.jsonl", draws=0)

"""The same seed gives the same bytes; a row's prediction depends on nothing but the row."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from shala_audio.inference.predictor import Predictor
from shala_audio.manifest import Audio, Row
from tests.cli.test_cli import invoke
from tests.tiny import random_features, tiny_model
from tests.training.helpers import TinyStore, shala_trainer, supervised_trainer

TOLERANCE = 1e-5  # of probabilities: sums of float32 in another order


@pytest.mark.parametrize("corpus", ["mini", "mini_text"])
def test_manifests_are_the_same_bytes(corpus, tmp_path):
    for name in ("a", "b"):
        invoke("data", "prepare", corpus, "--out", tmp_path / name, "--seed", 3, "--max-rows", 24)
    for file in ("manifest.jsonl", "splits.json", "summary.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_predictions_and_measures_are_the_same_bytes(tiny_lm, tmp_path):
    invoke("data", "prepare", "mini_text", "--out", tmp_path, "--max-rows", 40)
    from shala_audio.task import load_task

    tiny_model(tiny_lm, task=load_task("mini_text")).save_pretrained(tmp_path / "model")
    for name in ("a", "b"):
        predictions = tmp_path / f"{name}.jsonl"
        invoke("predict", tmp_path / "model", tmp_path / "manifest.jsonl", "--format", "jsonl", "--out", predictions)
        invoke("evaluate", "score", predictions, tmp_path / "manifest.jsonl", "--out", tmp_path / f"{name}.json")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize("make", [shala_trainer, supervised_trainer])
def test_training_is_the_same_bytes(make, tiny_lm, tmp_path):
    states = []
    for name in ("a", "b"):
        trainer = make(tiny_model(tiny_lm), tmp_path / name, max_steps=4, seed=1)
        trainer.train()
        trainer.save_model(str(tmp_path / name))
        states.append((tmp_path / name / "trained.safetensors").read_bytes())
    assert states[0] == states[1]


@pytest.mark.parametrize("make", [shala_trainer, supervised_trainer])
def test_the_number_of_data_workers_changes_nothing(make, tiny_lm, tiny_encoder, tmp_path):
    states = []
    for workers in (0, 2):
        model = tiny_model(tiny_lm, tiny_encoder, "slots")
        trainer = make(model, tmp_path / str(workers), count=16, max_steps=3, dataloader_num_workers=workers)
        trainer.train()
        trainer.save_model(str(tmp_path / str(workers)))
        states.append((tmp_path / str(workers) / "trained.safetensors").read_bytes())
    assert states[0] == states[1]


@pytest.mark.parametrize("make", [shala_trainer, supervised_trainer, partial(shala_trainer, ambiguity="dynamic")])
@pytest.mark.parametrize("speech", [False, True])
def test_one_row_accumulated_eight_times_is_a_batch_of_eight(make, speech, tiny_lm, tiny_encoder, tmp_path):
    losses, states = [], []
    for size, accumulation in ((8, 1), (1, 8), (2, 4)):
        model = tiny_model(tiny_lm, tiny_encoder if speech else None)
        out = tmp_path / str(size)
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation, "optim": "sgd"}
        trainer = make(model, out, count=16, max_steps=2, **options)
        trainer.train()
        losses.append([record["loss"] for record in trainer.state.log_history if "loss" in record])
        trainer.save_model(str(out))
        states.append(load_file(out / "trained.safetensors"))
    for other, state in zip(losses[1:], states[1:], strict=True):
        np.testing.assert_allclose(other, losses[0], atol=1e-5)
        for name, value in states[0].items():
            np.testing.assert_allclose(state[name], value, atol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def predictors(tiny_lm, tiny_encoder):
    return {
        (readout, speech): Predictor(tiny_model(tiny_lm, tiny_encoder if speech else None, readout), device="cpu")
        for readout in ("label_token", "slots", "verbalized")
        for speech in (False, True)
    }


ROWS = 9


def rows_and_features(speech: bool) -> tuple[list[Row], TinyStore | None]:
    rows = [
        Row(
            f"r{n}",
            "tiny_speech" if speech else "tiny_text",
            "test",
            audio=Audio(f"{n}.wav") if speech else None,
            text={} if speech else {"comment": "word " * (1 + 3 * n)},
        )
        for n in range(ROWS)
    ]
    store = TinyStore({row.id: clip for row, clip in zip(rows, random_features(ROWS), strict=True)}) if speech else None
    return rows, store


@pytest.mark.parametrize("speech", [False, True])
@pytest.mark.parametrize("readout", ["label_token", "slots", "verbalized"])
@settings(max_examples=6)
@given(order=st.permutations(range(ROWS)), keep=st.integers(1, ROWS), size=st.integers(1, ROWS + 2))
def test_a_prediction_depends_on_its_row_alone(predictors, readout, speech, order, keep, size):
    predictor = predictors[readout, speech]
    rows, store = rows_and_features(speech)
    predictor.batch_size = 1
    alone = dict(predictor.predict_rows(rows, store))
    predictor.batch_size = size
    chosen = [rows[index] for index in order[:keep]]
    together = list(predictor.predict_rows(chosen, store))
    assert sorted(identity for identity, _ in together) == sorted(row.id for row in chosen), "none missed, none twice"
    for identity, distribution in together:
        np.testing.assert_allclose(distribution.probs, alone[identity].probs, atol=TOLERANCE)

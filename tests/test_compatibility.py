"""What commit 3f7934f wrote still loads, and predicts the same: model folders, features, manifests, predictions."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from shala_audio.audio.features import FeatureStore
from shala_audio.evaluation.predictions import read_predictions
from shala_audio.inference.predictor import Predictor
from shala_audio.manifest import read_manifest

FOLDER = Path("tests/fixtures/commit_3f7934f")


@pytest.fixture(autouse=True)
def _in_the_clone(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])  # the models name their base models from here


def assert_same(found, model: str, labels) -> None:
    identities, expected = read_predictions(FOLDER / f"{model}_predictions.jsonl", labels)
    found = dict(found)
    np.testing.assert_allclose(np.stack([found[identity].probs for identity in identities]), expected, atol=1e-5)


@pytest.mark.parametrize("model", ["text", "text_slots", "text_verbalized"])
def test_text_models_predict_the_same(model):
    predictor = Predictor.from_pretrained(FOLDER / model)
    assert_same(predictor.predict_rows(read_manifest(FOLDER / "text.jsonl")), model, predictor.task.label_names)


@pytest.mark.parametrize("cached", [True, False])
def test_the_speech_model_predicts_the_same(cached, tmp_path):
    predictor = Predictor.from_pretrained(FOLDER / "speech")
    rows = read_manifest(FOLDER / "speech.jsonl")
    store = None
    if cached:
        shutil.copytree(FOLDER / "features", tmp_path / "features")  # reading may lock the folder
        store = FeatureStore(tmp_path / "features", predictor.model.model_config.encoder_identity())
        store.check(rows)
    found = predictor.predict_rows(rows, store, FOLDER / "sound")
    assert_same(found, "speech", predictor.task.label_names)

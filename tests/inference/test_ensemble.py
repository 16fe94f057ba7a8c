"""Several models that answer together."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

import shala_audio
from shala_audio.errors import UserError
from shala_audio.inference.ensemble import Ensemble
from shala_audio.inference.predictor import Predictor
from shala_audio.models.speech_lm import SpeechLM
from shala_audio.task import Label, Task
from tests.cli.test_cli import invoke
from tests.tiny import SPEECH_TASK, tiny_config, tiny_model

OTHER = Task("other", "text", (Label("up", "up"), Label("down", "down")), "Mood of: {{ text.comment }}", "It is")


@pytest.fixture(scope="module")
def folders(tiny_lm, tiny_encoder, tmp_path_factory):
    root = tmp_path_factory.mktemp("members")
    for seed in range(3):
        model = tiny_model(tiny_lm, tiny_encoder)
        torch.manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.2 * torch.randn_like(parameter)
        model.save_pretrained(root / str(seed))
    tiny_model(tiny_lm, task=OTHER).save_pretrained(root / "other")
    return root


def test_the_answer_is_the_mean_of_the_members(folders, tmp_path):
    samples = (0.1 * np.random.default_rng(0).standard_normal(24_000)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    names = [folders / str(seed) for seed in range(3)]
    alone = np.stack([Predictor.from_pretrained(name).predict(tmp_path / "a.wav").probs for name in names])
    assert np.abs(alone[0] - alone[1]).max() > 1e-3, "or the test says nothing"
    together = Ensemble.from_folders(names).predict(tmp_path / "a.wav")
    np.testing.assert_allclose(together.probs, alone.mean(axis=0), atol=1e-6)
    options = ("--ensemble", names[1], "--ensemble", names[2], "--format", "jsonl")
    line = json.loads(invoke("predict", names[0], tmp_path / "a.wav", *options).splitlines()[-1])
    assert list(line["probs"].values()) == pytest.approx(alone.mean(axis=0), abs=1e-4)


def test_models_that_do_not_go_together(folders):
    with pytest.raises(UserError, match="an ensemble of one"):
        Ensemble.from_folders([folders / "0"])
    with pytest.raises(UserError, match="other: is of task other with other labels"):
        Ensemble.from_folders([folders / "0", folders / "other"])


def test_members_with_other_trained_layers_do_not_go_together(tiny_lm, tiny_encoder, tmp_path):
    """Both have layers 1 and 2 in the cache; the one's trained layer would have been run for the other."""
    for name, mixed, trained in (("a", (1, 2), 0), ("b", (2,), 1)):
        config = replace(tiny_config(tiny_lm, tiny_encoder), encoder_layers=mixed, encoder_trained_layers=trained)
        SpeechLM.build(config, SPEECH_TASK, "label_token").save_pretrained(tmp_path / name)
    with pytest.raises(UserError, match="has another frozen encoder, or other layers of it"):
        Ensemble.from_folders([tmp_path / "a", tmp_path / "b"])


def test_the_examples_are_sound():
    for name in ("clear", "contested"):
        samples, rate = soundfile.read(shala_audio.example(name))
        assert 1.5 < len(samples) / rate < 5 and np.abs(samples).max() > 0.05
    with pytest.raises(UserError, match="example is 'happy'"):
        shala_audio.example("happy")

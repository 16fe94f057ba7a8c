"""Sound without speech is said to have none."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

import shala_audio
from shala_audio.audio.augment import over_telephone, perturb
from shala_audio.audio.io import read_sound
from shala_audio.audio.speech import speech_remark, voiced_seconds
from shala_audio.cli.main import app
from tests.tiny import tiny_model

TIMES = np.arange(48_000) / 16_000
RNG = np.random.default_rng(0)
NO_SPEECH = {
    "white noise": 0.1 * RNG.standard_normal(48_000),
    "hardly any noise": 1e-4 * RNG.standard_normal(48_000),
    "brown noise": 1e-3 * np.cumsum(RNG.standard_normal(48_000)),
    "mains hum": 0.1 * np.sin(2 * np.pi * 50 * TIMES) + 0.05 * np.sin(2 * np.pi * 150 * TIMES),
    "a tone": 0.3 * np.sin(2 * np.pi * 440 * TIMES),
    "clicks": 0.5 * (np.arange(48_000) % 8_000 == 0),
}


@pytest.mark.parametrize("name", NO_SPEECH)
def test_silence_noise_hum_and_tones_are_no_speech(name):
    samples = NO_SPEECH[name].astype(np.float32)
    assert voiced_seconds(samples) == 0.0 and "no speech" in str(speech_remark(samples))
    assert voiced_seconds(samples[:3_000]) == 0.0


@pytest.mark.parametrize("name", ["clear", "contested"])
def test_speech_is_speech_in_a_room_in_noise_and_over_the_telephone(name):
    samples = read_sound(shala_audio.example(name))
    for sound in (samples, 0.1 * samples, over_telephone(samples), *(perturb(samples, seed, 1) for seed in range(20))):
        assert voiced_seconds(sound) > 0.3 and speech_remark(sound) is None


def test_predict_says_that_there_is_no_speech(tiny_lm, tiny_encoder, tmp_path):
    tiny_model(tiny_lm, tiny_encoder).save_pretrained(tmp_path / "model")
    soundfile.write(tmp_path / "noise.wav", NO_SPEECH["white noise"], 16_000)
    command = ["predict", str(tmp_path / "model"), str(tmp_path / "noise.wav"), shala_audio.example()]
    for more in ([], ["--window", "1"]):
        told = CliRunner().invoke(app, [*command, *more], catch_exceptions=False).stderr
        assert "noise.wav: no speech was found in it, so the answer says nothing" in told and "clear.ogg" not in told

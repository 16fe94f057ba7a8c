from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from shala_audio.audio.sound import read_sound, to_mono_16k
from shala_audio.errors import UserError


def tone(seconds: float = 0.5, rate: int = 16_000) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_any_rate_and_channel_count(tmp_path, rate, channels, suffix):
    path = tmp_path / f"ein Ton{suffix}"
    soundfile.write(path, np.stack([tone(rate=rate)] * channels, axis=1), rate)
    samples = read_sound(path)
    assert samples.dtype == np.float32 and samples.shape == pytest.approx((8000,), abs=2)
    middle = slice(2000, 6000)
    assert np.abs(samples[middle] - tone()[middle]).max() < 0.05


def test_stretch_and_file_object(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(2.0), 16_000)
    assert len(read_sound(path, offset=0.5, duration=1.0)) == 16_000
    assert np.array_equal(read_sound(io.BytesIO(path.read_bytes())), read_sound(path))
    with pytest.raises(UserError, match=r"a\.wav: ends 0\.50 s before"):
        read_sound(path, offset=1.5, duration=1.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"", "empty"), (b"this is a text, not sound" * 20, "cannot be read as sound")],
)
def test_bad_files_are_named_in_one_line(tmp_path, content, message):
    path = tmp_path / "bad.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"bad.wav: .*{message}") as caught:
        read_sound(path)
    assert "\n" not in str(caught.value)


def test_integers_are_scaled():
    whole = (tone() * 32_767).astype(np.int16)
    assert np.abs(to_mono_16k(whole, 16_000) - tone()).max() < 1e-3


def test_what_cannot_be_heard_is_refused():
    with pytest.raises(UserError, match="ms"):
        to_mono_16k(np.zeros(10, dtype=np.float32), 16_000)
    with pytest.raises(UserError, match="not numbers"):
        to_mono_16k(np.full(16_000, np.nan), 16_000)

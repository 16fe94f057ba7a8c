from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from shala_audio.audio.io import (
    SHORTEST,
    frame_levels,
    read_sound,
    remarks,
    row_path,
    set_loudness,
    to_mono_16k,
    trim_silence,
    voiced_share,
)
from shala_audio.errors import UserError
from shala_audio.manifest import Audio
from tests.audio.broken import BROKEN, ODD, voice


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


@pytest.mark.parametrize("name", BROKEN)
def test_broken_sound_is_named_in_one_line(tmp_path, name):
    make, message = BROKEN[name]
    make(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: .*({message})") as caught:
        read_sound(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ODD)
def test_odd_sound_is_heard(tmp_path, name):
    make, remark = ODD[name]
    make(tmp_path / name)
    samples = read_sound(tmp_path / name)
    assert samples.shape == pytest.approx((8000,), abs=2) and np.isfinite(samples).all()
    middle = slice(1000, 7000)
    assert np.corrcoef(samples[middle], voice()[middle])[0, 1] > 0.9
    assert len(remarks(samples)) == (remark is not None)
    with open(tmp_path / name, "rb") as file:
        assert np.array_equal(read_sound(file), samples)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    soundfile.write(tmp_path / "secret.wav", voice(), 16_000)
    (tmp_path / "secret.wav").chmod(0)
    with pytest.raises(UserError, match="secret.wav: permission denied"):
        read_sound(tmp_path / "secret.wav")


def test_permissions_are_named_whoever_asks(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match="secret.wav: permission denied"):
        read_sound(tmp_path / "secret.wav")


@pytest.mark.slow
def test_three_hours_in_bounded_memory(tmp_path):
    """Nothing but the mono sound at 16 kHz is kept: of 8 channels at 4 kHz it is half of what the file holds."""
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 4_000, 8, "PCM_U8") as file:
        minute = np.stack([voice(60, 4_000)] * 8, axis=1)
        for _ in range(180):
            file.write(minute)
    measure = (
        "import resource, sys; from shala_audio.audio.io import read_sound;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; samples = read_sound(sys.argv[1]);"
        "print(len(samples), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", measure, str(path)], capture_output=True, text=True, check=True)
    samples, kilobytes = map(int, done.stdout.split())
    assert samples == pytest.approx(3 * 3600 * 16_000, abs=4)
    assert kilobytes * 1024 < 2.5 * 4 * samples, "samples, and once more while they are joined"


def test_a_wav_beyond_what_its_header_can_tell_is_refused(tmp_path):
    """Whose size has wrapped around: what is told is a part of what is there."""
    soundfile.write(tmp_path / "a.wav", voice(1.0), 16_000)
    os.truncate(tmp_path / "a.wav", (1 << 32) + 1000)  # nothing but a hole: takes no room
    with pytest.raises(UserError, match=r"a.wav: holds more than the header of a wav file can tell"):
        read_sound(tmp_path / "a.wav")


def test_blocks_are_resampled_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr("shala_audio.audio.io.BLOCK", 1000)
    soundfile.write(tmp_path / "a.wav", voice(1.0, 44_100), 44_100, subtype="FLOAT")
    expected = soxr.resample(voice(1.0, 44_100), 44_100, 16_000)
    found = read_sound(tmp_path / "a.wav")
    assert len(found) == pytest.approx(len(expected), abs=1)
    shared = slice(0, min(len(found), len(expected)))
    assert np.abs(found[shared] - expected[shared]).max() < 1e-4


def test_an_mp3_that_goes_on_after_its_header_is_not_cut_in_silence(tmp_path):
    """Two files joined: libsndfile reads the first one's length."""
    soundfile.write(tmp_path / "a.mp3", voice(1.0), 16_000)
    once = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "twice.mp3").write_bytes(once * 2)
    with pytest.raises(UserError, match=r"twice.mp3: goes on after the 1.\d s that its header tells of"):
        read_sound(tmp_path / "twice.mp3")
    (tmp_path / "tagged.mp3").write_bytes(once + b"TAG" + bytes(125))
    assert np.array_equal(read_sound(tmp_path / "tagged.mp3"), read_sound(tmp_path / "a.mp3"))


def test_mp3_and_what_a_pipe_leaves(tmp_path):
    soundfile.write(tmp_path / "a.mp3", voice(1.0), 16_000)
    assert len(read_sound(tmp_path / "a.mp3")) == pytest.approx(16_000, abs=1200)
    with open(tmp_path / "a.mp3", "rb") as file:

        class Pipe(io.RawIOBase):
            name = "a pipe"

            def readable(self) -> bool:
                return True

            def readinto(self, target) -> int:
                return file.readinto(target)

        assert np.array_equal(read_sound(io.BufferedReader(Pipe())), read_sound(tmp_path / "a.mp3"))
    with pytest.raises(UserError, match="no file can have this name"):
        read_sound("a\0b.wav")


HEADS = [b"", b"RIFF\xff\xff\xff\xffWAVEfmt ", b"fLaC", b"OggS", b"ID3", b"FORM", b"RF64", b".snd"]


@settings(max_examples=300)
@given(st.sampled_from(HEADS), st.binary(max_size=300))
def test_no_bytes_end_in_a_traceback(head, rest):
    try:
        samples = read_sound(io.BytesIO(head + rest))
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert len(samples) >= SHORTEST


@settings(max_examples=200)
@given(st.data())
def test_no_damage_to_a_file_ends_in_a_traceback(data):
    whole = bytearray(_encoded(data.draw(st.sampled_from(["WAV", "FLAC", "OGG", "AIFF"]))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, min(len(whole) - 1, 200)))] = data.draw(st.integers(0, 255))
    del whole[data.draw(st.integers(0, len(whole))) :]
    try:
        assert np.isfinite(read_sound(io.BytesIO(bytes(whole)))).all()
    except UserError as error:
        assert "\n" not in str(error)


def _encoded(kind: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, voice(0.1), 16_000, format=kind)
    return file.getvalue()


def test_silence_is_trimmed_and_voice_found():
    sound = np.concatenate([np.zeros(16_000), voice(1.0), np.zeros(8_000)]).astype(np.float32)
    trimmed = trim_silence(sound, 40.0)
    assert 16_000 <= len(trimmed) <= 16_000 + 4 * SHORTEST
    assert np.array_equal(trim_silence(voice(1.0), 40.0), voice(1.0))
    assert len(trim_silence(voice(0.025), 40.0)) == SHORTEST
    loudest = float(frame_levels(sound).max())
    assert voiced_share(sound[:16_000], loudest) < 0.05 < 0.9 < voiced_share(sound[16_000:32_000], loudest)


@given(st.floats(-40, 40))
def test_speech_is_brought_to_a_level_whatever_the_gain(gain_db):
    sound = np.concatenate([np.zeros(8_000), voice(1.0), np.zeros(8_000)]).astype(np.float32)
    louder = (sound * 10 ** (gain_db / 20)).astype(np.float32)
    np.testing.assert_allclose(set_loudness(louder, -26.0), set_loudness(sound, -26.0), rtol=1e-3, atol=1e-6)
    spoken = set_loudness(louder, -26.0)[8_400:23_600]
    assert 20 * np.log10(np.sqrt(np.mean(spoken**2))) == pytest.approx(-26.0, abs=0.5), "pauses do not count"


def test_silence_is_not_made_loud():
    assert not set_loudness(np.zeros(16_000, dtype=np.float32), -26.0).any()


def test_integers_are_scaled():
    whole = (tone() * 32_767).astype(np.int16)
    assert np.abs(to_mono_16k(whole, 16_000) - tone()).max() < 1e-3
    unsigned = (tone() * 127 + 128).astype(np.uint8)
    assert np.abs(to_mono_16k(unsigned, 16_000) - tone()).max() < 2e-2


def test_what_cannot_be_heard_is_refused():
    with pytest.raises(UserError, match="ms"):
        to_mono_16k(np.ones(10, dtype=np.float32), 16_000)
    with pytest.raises(UserError, match="not numbers"):
        to_mono_16k(np.full(16_000, np.nan), 16_000)


def test_a_clip_in_a_closed_folder_is_a_clip_that_cannot_be_read(tmp_path, monkeypatch):
    """It stopped the whole run as if the disk were full."""

    def closed(path, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "exists", closed)
        assert row_path(Audio("sub/a.wav"), tmp_path) == tmp_path / "sub/a.wav"

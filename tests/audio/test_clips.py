"""Clips in every form in which libraries hand them over."""

from __future__ import annotations

import io
import re
from array import array
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shala_audio.audio.clips import is_recording, samples_of
from shala_audio.audio.io import read_sound, scale, to_mono_16k
from shala_audio.errors import UserError

RATE = 16_000
SOUND = (0.4 * np.sin(np.arange(8_000) / 25) * np.linspace(0.2, 1, 8_000)).astype(np.float32)


@pytest.fixture
def clip(tmp_path):
    soundfile.write(tmp_path / "a.wav", SOUND, RATE, subtype="FLOAT")
    return tmp_path / "a.wav"


def forms(path):
    """The same sound in every form that is taken."""
    decoded = SimpleNamespace(data=torch.from_numpy(SOUND)[None], sample_rate=RATE)
    return {
        "path": path,
        "string": str(path),
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "open file": io.BytesIO(path.read_bytes()),
        "soundfile": soundfile.SoundFile(path),
        "array, rate": (SOUND, RATE),
        "rate, array (Gradio, scipy)": (RATE, SOUND),
        "numpy's rate": (SOUND, np.int64(RATE)),
        "float64": (SOUND.astype(np.float64), RATE),
        "int16": (np.int16(SOUND * 32768), RATE),
        "int32": (np.int32(SOUND.astype(np.float64) * 2**31), RATE),
        "int64": (np.int64(SOUND.astype(np.float64) * 2**63), RATE),
        "uint16": (np.uint16(SOUND * 32768 + 32768), RATE),
        "list": (SOUND.tolist(), RATE),
        "tensor": (torch.from_numpy(SOUND), RATE),
        "tensor of torchaudio": (torch.from_numpy(SOUND)[None], RATE),
        "with a gradient": (torch.from_numpy(SOUND).requires_grad_(), RATE),
        "(samples, channels)": (np.stack([SOUND, SOUND], axis=1), RATE),
        "(channels, samples)": (np.stack([SOUND, SOUND]), RATE),
        "a batch of one": (SOUND[None, None], RATE),
        "datasets": {"path": "x.wav", "array": SOUND, "sampling_rate": RATE},
        "pipelines": {"raw": SOUND, "sampling_rate": RATE},
        "datasets, not decoded": {"bytes": path.read_bytes(), "path": "x.wav"},
        "datasets, a path alone": {"bytes": None, "path": str(path)},
        "torchcodec's samples": decoded,
        "a rate of no dimensions": (SOUND, torch.tensor(RATE)),
        "array of the standard library": (array("f", SOUND.tolist()), RATE),
        "a row of datasets": {"audio": {"array": SOUND, "sampling_rate": RATE}, "label": 3},
        "torchaudio's names": {"waveform": torch.from_numpy(SOUND)[None], "sample_rate": RATE},
        "a row of datasets that is decoded when it is read": {
            "audio": SimpleNamespace(get_all_samples=lambda: decoded)
        },
        "a decoder": SimpleNamespace(get_all_samples=lambda: decoded),
    }


def test_every_form_gives_the_samples_of_the_file(clip):
    for name, form in forms(clip).items():
        atol = 1e-4 if "16" in name else 1e-6
        np.testing.assert_allclose(samples_of(form), read_sound(clip), atol=atol, err_msg=name)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.float32(SOUND * 32768), "samples as large as 13...*divide them by 32768"),
        (np.int32(SOUND * 32768), "int32 samples no larger than 1.*divide them by 32768"),
        (np.int64(SOUND * 32768), "int64 samples no larger than 1.*divide them by 32768"),
        (np.int32(SOUND * 2**22), "fewer bits in a wide type; divide them by 8388608"),
        ((SOUND * 32768).astype(int).tolist(), "divide them by 32768"),
        (np.int32(np.clip(SOUND * 2**24, -(2**23), 2**23 - 1)), "divide them by 8388608"),
        (np.uint32(SOUND * 32768 + 32768), "uint32 samples.*divide them by 32768"),
        (np.round(SOUND * 90), "samples as large as 36"),
        (SOUND > 0, "samples of type bool"),
        (SOUND.astype(complex), "samples of type complex"),
        (np.zeros((70, 70)), r"sound of shape \(70, 70\)"),
        (np.zeros((3, 4, 5000)), r"sound of shape \(3, 4, 5000\)"),
        ([SOUND.tolist(), SOUND.tolist()[:5]], "the samples are no array"),
        (SOUND[:100], "lasts 6.2 ms"),
    ],
)
def test_arrays_whose_scale_or_shape_cannot_be_told(clip, message):
    """Integers were cast, and 16 bits in a wider type became near silence."""
    with pytest.raises(UserError, match=message):
        samples_of((clip, RATE))


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (SOUND, "needs its sampling rate"),
        (SOUND.tolist(), "needs its sampling rate"),
        (torch.from_numpy(SOUND), "needs its sampling rate"),
        ({"array": SOUND}, "`array` needs `sampling_rate`"),
        ({"wav": SOUND}, "a mapping with 'wav'"),
        ({}, "a mapping with nothing"),
        ({"bytes": "abc"}, "a mapping with 'bytes'"),
        ({"path": 5}, "a mapping with 'path'"),
        ((SOUND, "16000"), r"a clip as a tuple of 2 \(ndarray, str\)"),
        ((tuple(SOUND.tolist()), RATE), r"a clip as a tuple of 2 \(tuple, int\)"),
        ([SOUND, SOUND], r"a clip as a list of 2 \(ndarray, ndarray\)"),
        ((SOUND, 16), "sampling rate is 16; 1,000 to"),
        ((SOUND, float("nan")), "sampling rate is nan"),
        ((SOUND, -8000), "sampling rate is -8000"),
        (3, "a clip of type int: give a path"),
        (io.StringIO("x"), "mode 'rb'"),
        ({"bytes": b"hello there", "path": "b.wav"}, "b.wav: is text, not sound"),
    ],
)
def test_what_is_no_clip_is_named(clip, message):
    """AttributeError and TypeError came out."""
    with pytest.raises(UserError, match=message):
        samples_of(clip)


def test_a_text_beside_a_clip_is_no_rate():
    assert (
        not is_recording(("a.wav", "a text"))
        and not is_recording((None, "a text"))
        and not is_recording(("a.wav", None))
    )
    assert is_recording((SOUND, 8_000)) and is_recording((8_000, torch.zeros(3)))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["i1", "i2", "i4", "i8", "u1", "u2"]), st.floats(0.02, 1), st.integers(0, 2**31))
def test_integers_are_scaled_by_their_range(kind, loudness, seed):
    x = np.random.default_rng(seed).uniform(-loudness, loudness, 500)
    x[0] = loudness  # so that the scale can be told
    bits = np.dtype(kind).itemsize * 8
    whole = np.round(x * (2.0 ** (bits - 1) - 2 ** max(0, bits - 53)))
    made = (whole + (2 ** (bits - 1) if kind[0] == "u" else 0)).astype(kind)
    np.testing.assert_allclose(scale(made), x, atol=2 * 2.0 ** (1 - min(bits, 20)))


@settings(max_examples=40, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(500, 900)), elements=st.floats(-1, 1, width=32)))
def test_channels_may_come_first_or_last(channels):
    def read(array):
        try:
            return to_mono_16k(array, RATE)
        except UserError as error:
            return str(error)

    np.testing.assert_array_equal(read(channels), read(channels.T))


def test_channels_that_cancel_out_are_told_and_one_can_be_chosen(tmp_path):
    """Stereo in opposite phase was averaged to rounding noise, and that was judged."""
    for name, other, remark in [
        ("phase", -SOUND, "the channels cancel out: their mean is .* dB softer"),
        ("call", np.random.default_rng(0).standard_normal(8_000) * 0.1, "hold different sound, perhaps two speakers"),
    ]:
        stereo = np.stack([SOUND, other], axis=1).astype(np.float32)
        stereo[0, 1] += 1e-4  # so that not every sample of the mean is 0
        soundfile.write(tmp_path / f"{name}.wav", stereo, RATE, subtype="FLOAT")
        for clip in (tmp_path / f"{name}.wav", (stereo, RATE)):
            notes: list[str] = []
            samples_of(clip, note=notes.append)
            assert len(notes) == 1 and re.search(remark, notes[0]), notes
            notes.clear()
            np.testing.assert_allclose(samples_of(clip, channel=0, note=notes.append), SOUND, atol=1e-6)
            assert not notes
            with pytest.raises(UserError, match="channel 2: use 0 to 1"):
                samples_of(clip, channel=2)


@pytest.mark.parametrize("second", [SOUND, 0.3 * SOUND, np.zeros_like(SOUND)])
def test_ordinary_stereo_gets_no_note(second):
    notes: list[str] = []
    to_mono_16k(np.stack([SOUND, second], axis=1), RATE, note=notes.append)
    assert not notes


def test_channels_in_exactly_opposite_phase_are_refused_with_the_remedy(tmp_path):
    """ "Silence" was said of it."""
    stereo = np.stack([SOUND, -SOUND], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, RATE, subtype="FLOAT")
    for clip in (tmp_path / "a.wav", (stereo, RATE)):
        with pytest.raises(UserError, match="the channels cancel out.*--channel"):
            samples_of(clip)
        np.testing.assert_allclose(samples_of(clip, channel=1), -SOUND, atol=1e-6)


@pytest.mark.parametrize("channel", ["0", 1.0, True, -1])
def test_a_channel_is_a_whole_number(channel):
    with pytest.raises(UserError, match="channel"):
        samples_of((np.stack([SOUND, SOUND]), RATE), channel=channel)

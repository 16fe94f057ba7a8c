"""Sound files that something is wrong with, or odd about."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

Maker = Callable[[Path], None]


def voice(seconds: float = 0.5, rate: int = 16_000) -> np.ndarray:
    t = np.arange(int(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * 220 * t) * (1 + 0.3 * np.sin(2 * np.pi * 3 * t))).astype(np.float32)


def write(samples: np.ndarray, subtype: str = "PCM_16", rate: int = 16_000) -> Maker:
    return lambda path: soundfile.write(path, samples, rate, subtype=subtype)


def cut(path: Path) -> None:
    soundfile.write(path, voice(), 16_000)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def wav_with_a_length_of_0(path: Path) -> None:
    """As programs write that were stopped before they could fill in the header."""
    data = (voice() * 32767).astype("<i2").tobytes()
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36, b"WAVE", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16, b"data", 0)
    path.write_bytes(head + data)


def wav_of_unknown_length(path: Path) -> None:
    """As programs write into a pipe."""
    data = (voice() * 32767).astype("<i2").tobytes()
    unknown = 0xFFFFFFFF
    fields = (b"RIFF", unknown, b"WAVE", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16, b"data", unknown)
    path.write_bytes(struct.pack("<4sI4s4sIHHIIHH4sI", *fields) + data)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


NAN = np.where(np.arange(8000) == 4000, np.nan, voice()).astype(np.float32)

# name: how it is made, and why it cannot be used
BROKEN: dict[str, tuple[Maker, str]] = {
    "empty.wav": (lambda path: path.write_bytes(b"") and None, "the file is empty"),
    "text.wav": (lambda path: path.write_text("not sound " * 50) and None, "is text, not sound"),
    "length 0.wav": (wav_with_a_length_of_0, "the header says that there is no sound in it"),
    "no samples.wav": (write(np.zeros(0, np.float32)), "lasts 0.0 ms"),
    "cut.wav": (cut, "cut short: 16000 bytes of sound are promised, 7978 are there"),
    "cut.flac": (cut, "cannot be read as sound|cut short"),
    "not numbers.wav": (write(NAN, "FLOAT"), "values that are not numbers"),
    "silence.wav": (write(np.zeros(8000, np.float32)), "silence: every sample is 0"),
    "one sample.wav": (write(np.array([0.5], np.float32)), "lasts 0.1 ms; 25 ms or more"),
    "missing.wav": (lambda path: None, "no such file"),
    "a folder.wav": (lambda path: path.mkdir(), "is a folder"),
    "loop.wav": (link_to_itself, "too many levels of symbolic links"),
}
# name: how it is made, and what is said of it
ODD: dict[str, tuple[Maker, str | None]] = {
    "8 bit.wav": (write(voice(), "PCM_U8"), None),
    "float.wav": (write(8 * voice(), "FLOAT"), "values up to 4.*beyond full scale"),
    "clipped.wav": (write(np.clip(4 * voice(), -1, 1)), "clipped: .*% of the samples"),
    "12 channels.wav": (write(np.stack([voice()] * 12, axis=1)), None),
    "unknown length.wav": (wav_of_unknown_length, None),
    "grüße 日本 .wav": (write(voice()), None),
    "44100.wav": (write(np.stack([voice(rate=44_100)] * 2, axis=1), rate=44_100), None),
}

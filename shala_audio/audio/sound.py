"""Reading sound: any rate and channel count in, mono float32 at 16 kHz out. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from shala_audio.data.rows import Audio
from shala_audio.errors import UserError

SAMPLE_RATE = 16_000  # Hz, what every encoder here expects
SHORTEST = 400  # samples (25 ms): one analysis window; less than that cannot be heard
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif", ".au")

Samples = NDArray[np.float32]


def to_mono_16k(samples: NDArray, rate: int) -> Samples:
    """Average the channels and resample.

    Args:
        samples: shape (samples,) or (samples, channels), values about -1 to 1, or signed integers of any width.
        rate: samples a second.

    Raises:
        UserError: nothing to hear: shorter than 25 ms, or values that are not numbers.
    """
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples / (np.iinfo(samples.dtype).max + 1)
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if samples.ndim != 1:
        raise UserError(f"sound of shape {samples.shape}: (samples,) or (samples, channels) is needed")
    if not np.isfinite(samples).all():
        raise UserError("the sound holds values that are not numbers (NaN or infinity)")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    if len(samples) < SHORTEST:
        raise UserError(f"the sound lasts {len(samples) / SAMPLE_RATE * 1000:.1f} ms; 25 ms or more are needed")
    return np.ascontiguousarray(samples, dtype=np.float32)


def read_sound(source: str | Path | BinaryIO, offset: float = 0.0, duration: float | None = None) -> Samples:
    """Read a stretch of a sound file (wav, flac, ogg, mp3) as mono float32 at 16 kHz, shape (samples,).

    Args:
        source: path or open binary file.
        offset, duration: seconds; `duration` None reads to the end.

    Raises:
        UserError: the file is missing, empty or not sound, or is shorter than the stretch; the message names it.
    """
    name = source if isinstance(source, (str, Path)) else getattr(source, "name", "sound")
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.exists():
            raise UserError(f"{path}: no such file")
        if path.is_dir():
            raise UserError(f"{path}: is a folder, not a sound file")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: the file is empty")
    try:
        with soundfile.SoundFile(source) as file:
            rate = file.samplerate
            file.seek(min(round(offset * rate), file.frames))
            frames = -1 if duration is None else round(duration * rate)
            samples = file.read(frames, dtype="float32")
    except (soundfile.LibsndfileError, PermissionError, TypeError) as error:
        reason = getattr(error, "error_string", str(error)).strip().rstrip(".")
        raise UserError(f"{name}: cannot be read as sound ({reason})") from None
    # A stretch may end a rounding error after the file does, not more.
    if duration is not None and len(samples) < frames - max(2, rate // 100):
        raise UserError(f"{name}: ends {(frames - len(samples)) / rate:.2f} s before the stretch that was asked for")
    try:
        return to_mono_16k(samples, rate)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def read_row_audio(audio: Audio, root: str | Path) -> Samples:
    """Sound of a manifest's row, whose path is relative to `root`."""
    return read_sound(Path(root) / audio.path, audio.offset, audio.duration)

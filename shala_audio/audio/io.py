"""Reading sound: any rate and channel count in, mono float32 at 16 kHz out. No torch."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from shala_audio.errors import UserError
from shala_audio.manifest import Audio

SAMPLE_RATE = 16_000  # Hz, what every encoder here expects
SHORTEST = 400  # samples (25 ms): one analysis window; less than that cannot be encoded
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif", ".au")
BLOCK = 1 << 22  # samples read at once, of all channels: long files need not fit into memory at their own rate
FRAME, HOP = 400, 160  # samples (25 ms, 10 ms) over which energy is taken
FRAMES_AT_ONCE = 6000  # a minute: hours of sound need no more memory
UNKNOWN = 0x7FFFF000  # bytes; from here on, a header's size stands for one that was not known yet (SoX, ffmpeg)
FULL_SCALE = 0.9999  # a sample of so much or more may have been clipped
CLIPPED = 0.001  # share of such samples from which on a clip is called clipped

Samples = NDArray[np.float32]


def to_mono_16k(samples: NDArray, rate: int) -> Samples:
    """Average the channels and resample.

    Args:
        samples: shape (samples,) or (samples, channels), values about -1 to 1, or integers of any width.
        rate: samples a second.

    Raises:
        UserError: nothing to encode: shorter than 25 ms, all zeros, or values that are not numbers.
    """
    mono = _mono(samples)
    return _heard(mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE))


def _mono(samples: NDArray) -> Samples:
    if np.issubdtype(samples.dtype, np.unsignedinteger):
        middle = (np.iinfo(samples.dtype).max + 1) / 2
        samples = (samples - middle) / middle
    elif np.issubdtype(samples.dtype, np.integer):
        samples = samples / (np.iinfo(samples.dtype).max + 1)
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if samples.ndim != 1:
        raise UserError(f"sound of shape {samples.shape}: (samples,) or (samples, channels) is needed")
    if not np.isfinite(samples).all():
        raise UserError("the sound holds values that are not numbers (NaN or infinity)")
    return samples


def _heard(samples: Samples) -> Samples:
    if len(samples) < SHORTEST:
        raise UserError(f"the sound lasts {len(samples) / SAMPLE_RATE * 1000:.1f} ms; 25 ms or more are needed")
    if not samples.any():
        raise UserError("the sound is silence: every sample is 0")
    return np.ascontiguousarray(samples, dtype=np.float32)


def read_sound(
    source: str | Path | BinaryIO, offset: float = 0.0, duration: float | None = None, longest: float | None = None
) -> Samples:
    """Read a segment of a sound file (wav, flac, ogg, mp3) as mono float32 at 16 kHz, shape (samples,).

    Args:
        source: path or open binary file.
        offset, duration: seconds; `duration` None reads to the end.
        longest: seconds; more is refused before it is read.

    Raises:
        UserError: the file is missing, empty, cut short or not sound, is shorter than the segment, or too long; the message
            names it.
    """
    name = source if isinstance(source, (str, Path)) else getattr(source, "name", "sound")
    name = repr(str(name))[1:-1] if isinstance(name, (str, Path)) else "sound"  # some open files have numbers for names
    if not isinstance(source, (str, Path)) and not source.seekable():
        source = io.BytesIO(source.read())
    try:
        with _opened(source) as file:
            check_wav_header(file)
            return _heard(_read(file, offset, duration, longest))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


@contextmanager
def _opened(source: str | Path | BinaryIO) -> Iterator[BinaryIO]:
    if not isinstance(source, (str, Path)):
        yield source
        return
    path = Path(source)
    try:
        if path.is_dir():
            raise UserError("is a folder, not a sound file")
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise UserError("the file is empty")
            yield file
    except (OSError, ValueError) as error:  # missing, unreadable, a link that leads back to itself, or no name at all
        if isinstance(error, ValueError):
            raise UserError(f"no file can have this name ({error})") from None
        raise UserError(
            (error.strerror or "cannot be read").lower().replace("no such file or directory", "no such file")
        ) from None


def check_wav_header(file: BinaryIO) -> None:
    """Raise UserError where a wav file promises more than it holds: libsndfile would read what is there and say nothing."""
    head = file.read(12)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        while len(chunk := file.read(8)) == 8:
            kind, size = struct.unpack("<4sI", chunk)
            if kind == b"data":
                start = file.tell()
                there = file.seek(0, os.SEEK_END) - start
                if size == 0 and there:
                    raise UserError("the header says that there is no sound in it")
                if there >= 1 << 32:
                    raise UserError("holds more than the header of a wav file can tell (4 GiB); convert it to flac")
                if there < size < UNKNOWN:
                    raise UserError(f"cut short: {size} bytes of sound are promised, {there} are there")
                break
            file.seek(size + size % 2, os.SEEK_CUR)
    file.seek(0)


def _read(source: BinaryIO, offset: float, duration: float | None, longest: float | None) -> Samples:
    """Mono samples at 16 kHz of a segment of an open file, block by block."""
    try:
        with soundfile.SoundFile(source) as file:
            rate, frames = file.samplerate, file.frames
            start = min(round(offset * rate), frames)
            if start:  # what was written to a pipe cannot be sought in
                file.seek(start)
            wanted = frames - start if duration is None else round(duration * rate)
            if longest is not None and wanted > longest * rate:
                raise UserError(f"lasts {wanted / rate:,.0f} s; at most {longest:,.0f} s are taken")
            stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
            parts: list[Samples] = []
            read = 0
            while read < wanted:
                block = file.read(min(BLOCK // file.channels, wanted - read), dtype="float32")
                read += len(block)
                last = read >= wanted or not len(block)
                mono = _mono(block)
                parts.append(mono if rate == SAMPLE_RATE else stream.resample_chunk(mono, last=last))
                if last:
                    break
            guessed = file.format == "MP3"  # whose length libsndfile estimates, and reads no further
            behind = source.read(2) if guessed and duration is None else b""
    except UserError:
        raise
    except (soundfile.LibsndfileError, OSError, TypeError, ValueError, MemoryError) as error:
        reason = getattr(error, "error_string", str(error)).strip().rstrip(".")
        raise UserError(f"cannot be read as sound ({reason})") from None
    if len(behind) == 2 and behind[0] == 0xFF and behind[1] >= 0xE0:  # another frame of MP3, and not a tag
        raise UserError(f"goes on after the {read / rate:.1f} s that its header tells of; convert it to wav or flac")
    # A segment may end a rounding error after the file does, not more.
    if read < wanted - max(2, rate // 100):
        if duration is not None:
            raise UserError(f"ends {(wanted - read) / rate:.2f} s before the segment that was asked for")
        if not guessed:
            raise UserError(f"cut short: {wanted / rate:.2f} s of sound are promised, {read / rate:.2f} are there")
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)


def read_row_audio(audio: Audio, root: str | Path) -> Samples:
    """Sound of a manifest's row, whose path is relative to `root`.

    Raises:
        UserError: a link leads out of `root`, or the sound cannot be read.
    """
    return read_sound(row_path(audio, root), audio.offset, audio.duration)


def row_path(audio: Audio, root: str | Path) -> Path:
    """Where the sound of a manifest's row lies.

    Raises:
        UserError: a link leads out of `root`, or it is a pipe or a device, which may never end.
    """
    path = Path(root) / audio.path
    try:
        inside = path.resolve().is_relative_to(Path(root).resolve())
    except (OSError, ValueError, RuntimeError):  # a link that leads back to itself, or no name: reading it says so
        inside = True
    if not inside:
        raise UserError(f"{path}: leads out of the audio root {root}; name a root that holds what it links to")
    if path.exists() and not path.is_file() and not path.is_dir():  # a folder is named as such where it is opened
        raise UserError(f"{path}: is no file")
    return path


def remarks(samples: Samples) -> list[str]:
    """What is odd about sound that can be used all the same: clipped, or beyond full scale.

    >>> remarks(np.full(800, 1.5, dtype=np.float32))
    ['values up to 1.5, beyond full scale']
    """
    peak = float(np.abs(samples).max())
    if peak > 1.05:  # resampling may overshoot a little
        return [f"values up to {peak:.1f}, beyond full scale"]
    clipped = float(np.mean(np.abs(samples) >= FULL_SCALE))
    return [f"clipped: {clipped:.1%} of the samples are at full scale"] if clipped >= CLIPPED else []


def frame_levels(samples: Samples) -> NDArray[np.float64]:
    """(frames,) level in dB of every 25 ms, each 10 ms."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, min(FRAME, len(samples)))[::HOP]
    blocks = (frames[at : at + FRAMES_AT_ONCE] for at in range(0, len(frames), FRAMES_AT_ONCE))
    powers = [np.square(block, dtype=np.float64).mean(axis=1) for block in blocks]
    return 10 * np.log10(np.concatenate(powers) + 1e-12)


def trim_silence(samples: Samples, below_db: float) -> Samples:
    """Cut off both ends, up to the first and from the last frame that is less than `below_db` softer than the loudest.

    >>> quiet, loud = np.zeros(8000, dtype=np.float32), np.ones(8000, dtype=np.float32)
    >>> len(trim_silence(np.concatenate([quiet, loud, quiet]), 40.0))
    8560
    """
    levels = frame_levels(samples)
    kept = np.flatnonzero(levels > levels.max() - below_db)
    start, end = kept[0] * HOP, kept[-1] * HOP + FRAME
    if kept[-1] == len(levels) - 1:  # what is left after the last whole frame belongs to it
        end = len(samples)
    start = max(0, min(start, end - SHORTEST))
    return samples[start : max(end, start + SHORTEST)]


def voiced_share(samples: Samples, loudest_db: float, below_db: float = 40.0) -> float:
    """Share of frames that are less than `below_db` softer than `loudest_db`: voice activity by energy, 0 to 1.

    Args:
        samples: a window.
        loudest_db: level of the loudest frame of the whole sound that the window is cut from (`frame_levels(...).max()`).
        below_db: what counts as silence.
    """
    return float(np.mean(frame_levels(samples) > loudest_db - below_db))

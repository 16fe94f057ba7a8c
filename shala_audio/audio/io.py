"""Reading sound: any rate and channel count in, mono float32 at 16 kHz out. No torch."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from shala_audio.audio.containers import HEAD, check_header, needs_ffmpeg, not_sound, through_ffmpeg
from shala_audio.errors import Note, UserError, no_note
from shala_audio.manifest import Audio

SAMPLE_RATE = 16_000  # Hz, what every encoder here expects
SHORTEST = 400  # samples (25 ms): one analysis window; less than that cannot be encoded
RATES = (1_000, 1_000_000)  # samples a second that sound may have
MOST_CHANNELS = 64
BLOCK = 1 << 22  # samples read at once, of all channels: long files need not fit into memory at their own rate
FRAME, HOP = 400, 160  # samples (25 ms, 10 ms) over which energy is taken
SPEECH_DB = 25.0  # frames this much softer than the loudest count as pauses
FRAMES_AT_ONCE = 6000  # a minute: hours of sound need no more memory
FULL_SCALE = 0.9999  # a sample of so much or more may have been clipped
CLIPPED = 0.001  # share of such samples from which on a clip is called clipped
LOUDEST = 100.0  # of a floating-point sample: no gain makes so much of sound between -1 and 1
FEWEST_BITS = 8  # that integers of 32 bits or more may leave unused: -48 dB of full scale
CANCELLED_DB = 10.0  # by how much the mean of the channels may be softer than the loudest
UNLIKE = 0.5  # correlation of two channels, below which they hold different sound

Samples = NDArray[np.float32]


def to_mono_16k(samples: NDArray, rate: float, channel: int | None = None, note: Note = no_note) -> Samples:
    """Take one channel, or the mean of all, and resample.

    Args:
        samples: shape (samples,), (samples, channels) or (channels, samples) with fewer channels than samples; floats about
            -1 to 1, or integers, which are divided by their type's range.
        rate: samples a second.
        channel: which, from 0; the mean of all where None.
        note: told what is odd about the channels.

    Raises:
        UserError: nothing to encode: shorter than 25 ms, all zeros, values that are not numbers, or whose scale cannot be
            told; no such channel; no such rate.
    """
    rate = checked_rate(rate)
    scaled = scale(_by_sample(samples))
    levels = _Levels(scaled.shape[1])
    levels.add(scaled)
    mono = _channel(scaled, channel)
    _tell(levels, channel, mono, note)
    return _heard(mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE))


def checked_rate(rate: float) -> float:
    """The rate, if sound can have it.

    >>> checked_rate(44_100)
    44100
    """
    if isinstance(rate, bool) or not isinstance(rate, (int, float, np.integer, np.floating)):
        raise UserError(f"the sampling rate is {rate!r}; a number of samples a second is needed")
    if not RATES[0] <= rate <= RATES[1]:
        raise UserError(f"the sampling rate is {rate:g}; {RATES[0]:,} to {RATES[1]:,} samples a second are taken")
    return rate


def _by_sample(samples: NDArray) -> NDArray:
    """(samples, channels) of an array; of two dimensions, the shorter one is that of the channels where it can be only that."""
    if samples.ndim == 1:
        return samples[:, None]
    if samples.ndim == 2:
        first, second = samples.shape
        if first <= MOST_CHANNELS and second > first:
            return samples.T
        if second <= MOST_CHANNELS:
            return samples
    raise UserError(
        f"sound of shape {samples.shape}: one clip is needed, (samples,), (samples, channels) or (channels, samples)"
    )


def scale(samples: NDArray) -> Samples:
    """Samples as float32 between about -1 and 1: integers are divided by the range of their type.

    >>> scale(np.array([-32768, 16384], dtype=np.int16)).tolist()
    [-1.0, 0.5]

    Raises:
        UserError: values that are not numbers, or whose scale cannot be told: 16 bits in a wider type, or floats far above 1.
    """
    kind = samples.dtype
    if np.issubdtype(kind, np.integer):
        bits, most = kind.itemsize * 8, np.iinfo(kind).max
        middle = 0 if np.issubdtype(kind, np.signedinteger) else int(most) // 2 + 1
        top = int(samples.max(initial=0))
        largest = max(top, -int(samples.min(initial=0)))
        if bits >= 32 and 0 < largest <= 2 ** (bits - FEWEST_BITS - (0 if middle else 1)):
            range_ = next(
                2**wide for wide in (15, 23, 31) if largest <= 2 ** (wide + (1 if middle else 0)) or wide == 31
            )
            taken = f"take {range_} off, and " if middle else ""
            raise UserError(
                f"{kind} samples no larger than {largest}: these look like samples of fewer bits in a wide type; {taken}divide "
                f"them by {range_}"
            )
        if middle:
            return ((samples - float(middle)) / middle).astype(np.float32)
        return (samples / (most + 1)).astype(np.float32)
    if not np.issubdtype(kind, np.floating):
        raise UserError(f"samples of type {kind}: integers or real numbers are needed")
    samples = np.asarray(samples, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise UserError("the sound holds values that are not numbers (NaN or infinity)")
    peak = float(np.abs(samples).max()) if samples.size else 0.0
    if peak > LOUDEST or (peak > 2 and np.array_equal(samples, np.round(samples))):  # whole numbers were integers once
        raise UserError(
            f"samples as large as {peak:.0f}, where -1 to 1 is full scale; divide them by 32768 if they are of 16 bits"
        )
    return samples


def _channel(samples: Samples, channel: int | None) -> Samples:
    """(samples,) of a channel, or the mean of all."""
    count = samples.shape[1]
    if channel is not None and (isinstance(channel, bool) or not isinstance(channel, (int, np.integer))):
        raise UserError(f"channel {channel!r}: a whole number from 0 on is needed")
    if channel is None:
        return samples[:, 0] if count == 1 else samples.mean(axis=1)
    if not 0 <= channel < count:
        raise UserError(
            f"channel {channel}: there is only channel 0" if count == 1 else f"channel {channel}: use 0 to {count - 1}"
        )
    return samples[:, channel]


def _tell(levels: _Levels, channel: int | None, mono: Samples, note: Note) -> None:
    """Note what is odd about the channels; raise UserError where nothing is left of them."""
    if channel is None and (remark := levels.remark()):
        if not mono.any():
            raise UserError(remark)
        note(remark)


class _Levels:
    """Power of the channels of sound that comes block by block, of their mean, and of how alike they are."""

    def __init__(self, channels: int) -> None:
        self.products = np.zeros((channels, channels))
        self.sums, self.count = np.zeros(channels), 0
        self.mean = 0.0

    def add(self, block: Samples) -> None:
        if len(self.products) > 1:
            exact = block.astype(np.float64)
            self.products += exact.T @ exact
            self.sums, self.count = self.sums + exact.sum(axis=0), self.count + len(exact)
            self.mean += float(np.square(exact.mean(axis=1)).sum())

    def remark(self) -> str | None:
        """What is odd about taking the mean of the channels, if anything."""
        powers = self.products.diagonal()
        loudest = float(powers.max()) if len(powers) > 1 else 0.0
        if not loudest:
            return None
        if self.mean < loudest * 10 ** (-CANCELLED_DB / 10):
            softer = 10 * np.log10(loudest / max(self.mean, loudest * 1e-12))
            return (
                f"the channels cancel out: their mean is {softer:.0f} dB softer than the loudest; choose one with --channel "
                f"(channel=), 0 to {len(powers) - 1}"
            )
        sounding = np.flatnonzero(powers > loudest * 1e-6)
        if len(sounding) > 1:
            around = self.products - np.outer(self.sums, self.sums) / self.count  # the mean, which is no sound
            spread = np.sqrt(np.maximum(around.diagonal()[sounding], 1e-12))
            alike = np.abs(around[np.ix_(sounding, sounding)] / np.outer(spread, spread))
            if alike[np.triu_indices(len(sounding), 1)].min() < UNLIKE:
                return (
                    "the channels hold different sound, perhaps two speakers; their mean is judged: choose one with --channel "
                    f"(channel=), 0 to {len(powers) - 1}"
                )
        return None


def _heard(samples: Samples) -> Samples:
    if len(samples) < SHORTEST:
        raise UserError(f"the sound lasts {len(samples) / SAMPLE_RATE * 1000:.1f} ms; 25 ms or more are needed")
    if not samples.any():
        raise UserError("the sound is silence: every sample is 0")
    return np.ascontiguousarray(samples, dtype=np.float32)


def read_sound(
    source: str | Path | BinaryIO,
    offset: float = 0.0,
    duration: float | None = None,
    longest: float | None = None,
    channel: int | None = None,
    note: Note = no_note,
) -> Samples:
    """Read a segment of a sound file as mono float32 at 16 kHz, shape (samples,).

    Wav, flac, ogg, opus, mp3, aiff, au, caf and w64 are read here; m4a, mp4, aac, webm, wma and amr through ffmpeg, where it is
    installed.

    Args:
        source: path or open binary file.
        offset, duration: seconds; `duration` None reads to the end.
        longest: seconds; more is refused before it is read.
        channel: which, from 0; the mean of all where None.
        note: told what is odd about the channels.

    Raises:
        UserError: the file is missing, empty, cut short or not sound, its header does not tell the truth, it is shorter than
            the segment, or too long, or has no such channel; the message names it.
    """
    name = source if isinstance(source, (str, Path)) else getattr(source, "name", "sound")
    name = repr(str(name))[1:-1] if isinstance(name, (str, Path)) else "sound"  # some open files have numbers for names
    name = name if len(name) < 500 else f"{name[:60]}..."
    if name.startswith(("http:/", "https:/", "s3:/", "gs:/", "data:")):
        raise UserError(f"{name}: is an address, and not a file; download it first")
    if not isinstance(source, (str, Path)) and not source.seekable():
        source = io.BytesIO(source.read())
    try:
        with _opened(source, None if longest is None else offset + longest) as file:
            return _heard(_read(file, offset, duration, longest, channel, note))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


@contextmanager
def _opened(source: str | Path | BinaryIO, longest: float | None) -> Iterator[BinaryIO]:
    """The file, or what ffmpeg makes of it, once its first bytes and its header are checked."""
    if not isinstance(source, (str, Path)):
        yield _checked(source, source, longest)
        return
    path = Path(source)
    try:
        if path.is_dir():
            raise UserError("is a folder, not a sound file")
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise UserError("the file is empty")
            yield _checked(file, path, longest)
    except (OSError, ValueError) as error:  # missing, unreadable, a link that leads back to itself, or no name at all
        if isinstance(error, ValueError):
            raise UserError(f"no file can have this name ({error})") from None
        raise UserError(
            (error.strerror or "cannot be read").lower().replace("no such file or directory", "no such file")
        ) from None


def _checked(file: BinaryIO, source: Path | BinaryIO, longest: float | None) -> BinaryIO:
    file.seek(0)
    head = file.read(HEAD)
    if reason := not_sound(head):
        raise UserError(reason)
    if what := needs_ffmpeg(head):
        return through_ffmpeg(source, what, longest)
    check_header(file)
    return file


def _read(
    source: BinaryIO, offset: float, duration: float | None, longest: float | None, channel: int | None, note: Note
) -> Samples:
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
            levels = _Levels(file.channels)
            parts: list[Samples] = []
            read = 0
            while read < wanted:
                block = file.read(min(BLOCK // file.channels, wanted - read), dtype="float32", always_2d=True)
                read += len(block)
                last = read >= wanted or not len(block)
                block = scale(block)
                levels.add(block)
                mono = _channel(block, channel)
                parts.append(
                    mono if rate == SAMPLE_RATE else stream.resample_chunk(np.ascontiguousarray(mono), last=last)
                )
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
    samples = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
    _tell(levels, channel, samples, note)
    return samples


def read_row_audio(audio: Audio, root: str | Path, note: Note = no_note) -> Samples:
    """Sound of a manifest's row, whose path is relative to `root`.

    Raises:
        UserError: a link leads out of `root`, or the sound cannot be read.
    """
    return read_sound(row_path(audio, root), audio.offset, audio.duration, channel=audio.channel, note=note)


def row_path(audio: Audio, root: str | Path) -> Path:
    """Where the sound of a manifest's row lies.

    Raises:
        UserError: a link leads out of `root`, or it is a pipe or a device, which may never end.
    """
    path = Path(root) / audio.path
    try:
        inside = path.resolve().is_relative_to(Path(root).resolve())
        odd = path.exists() and not path.is_file() and not path.is_dir()  # a folder is named as such where it is opened
    except (OSError, ValueError, RuntimeError):  # a link back to itself, no name, a closed folder: reading it says so
        inside, odd = True, False
    if not inside:
        raise UserError(f"{path}: leads out of the audio root {root}; name a root that holds what it links to")
    if odd:
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


def set_loudness(samples: Samples, loudness_db: float) -> Samples:
    """A clip whose speech is at a level: the mean power of frames at most `SPEECH_DB` softer than the loudest. Silence stays silent.

    Args:
        samples: mono float32; what comes out may go beyond full scale.
        loudness_db: the level, in dB of full scale.

    >>> soft = np.full(8000, 0.001, dtype=np.float32)
    >>> round(float(set_loudness(soft, -26.0)[0]), 3)
    0.05
    """
    levels = frame_levels(samples)
    power = np.mean(10 ** (levels[levels > levels.max() - SPEECH_DB] / 10))
    return samples * np.float32(10 ** (loudness_db / 20) / np.sqrt(power))


def voiced_share(samples: Samples, loudest_db: float, below_db: float = 40.0) -> float:
    """Share of frames that are less than `below_db` softer than `loudest_db`: voice activity by energy, 0 to 1.

    Args:
        samples: a window.
        loudest_db: level of the loudest frame of the whole sound that the window is cut from (`frame_levels(...).max()`).
        below_db: what counts as silence.
    """
    return float(np.mean(frame_levels(samples) > loudest_db - below_db))

"""A clip in any form in which libraries hand one over, to samples."""

from __future__ import annotations

import io
import numbers
import os
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from shala_audio.audio.io import Samples, read_sound, to_mono_16k
from shala_audio.errors import Note, UserError, no_note

Clip = str | os.PathLike[str] | bytes | BinaryIO | Mapping[str, Any] | tuple[Any, Any]
FORMS = "a path, bytes, an open binary file, (array, rate), or `datasets`' {'array', 'sampling_rate'}"


def samples_of(clip: Any, channel: int | None = None, note: Note = no_note) -> Samples:
    """A clip's sound, mono float32 at 16 kHz, shape (samples,).

    Args:
        clip: path; bytes of a file; open binary file; (array, rate), or (rate, array) as Gradio and scipy have it, the array
            numpy's, torch's or a list; a mapping with `array` or `raw` and `sampling_rate`, or with `bytes` or `path`, as
            `datasets` has it; an audio decoder of torchcodec, or what it decodes.
        channel: which, from 0; the mean of all where None.
        note: told what is odd about the channels.

    Raises:
        UserError: it is none of these, or cannot be used.

    >>> tone = np.sin(np.arange(8_000, dtype=np.float32))
    >>> samples_of({"array": tone, "sampling_rate": 8_000}).shape, samples_of((8_000, np.int16(tone * 9_000))).shape
    ((16000,), (16000,))
    """
    if isinstance(clip, (str, os.PathLike)):
        return read_sound(Path(clip), channel=channel, note=note)
    if isinstance(clip, (bytes, bytearray, memoryview)):
        return read_sound(io.BytesIO(bytes(clip)), channel=channel, note=note)
    if is_recording(clip):
        first, second = clip
        swapped = _is_number(first)
        rate: Any = first if swapped else second
        return _of_array(second if swapped else first, rate, channel, note)
    if isinstance(clip, Mapping):
        return _of_mapping(clip, channel, note)
    if hasattr(clip, "get_all_samples"):  # torchcodec's and `datasets`' decoders
        clip = clip.get_all_samples()
    if hasattr(clip, "data") and hasattr(clip, "sample_rate"):  # torchcodec's AudioSamples
        return _of_array(clip.data, clip.sample_rate, channel, note)
    if hasattr(clip, "samplerate") and callable(getattr(clip, "read", None)):  # soundfile's open file
        return _of_array(clip.read(dtype="float32", always_2d=True), clip.samplerate, channel, note)
    if callable(getattr(clip, "read", None)):
        if isinstance(clip, io.TextIOBase):
            raise UserError("the file is open as text; open it with mode 'rb'")
        return read_sound(clip, channel=channel, note=note)
    if is_array(clip):
        raise UserError("an array of samples needs its sampling rate: give (array, rate)")
    if isinstance(clip, (tuple, list)):
        shown = ", ".join(type(part).__name__ for part in clip[:3])
        raise UserError(f"a clip as a {type(clip).__name__} of {len(clip)} ({shown}): give {FORMS}")
    raise UserError(f"a clip of type {type(clip).__name__}: give {FORMS}")


def _of_array(value: Any, rate: Any, channel: int | None, note: Note) -> Samples:
    rate = rate.item() if hasattr(rate, "item") else rate
    return to_mono_16k(_array(value), rate, channel, note)


def is_array(value: Any) -> bool:
    """Whether a value is an array of samples: numpy's, torch's, or a list of numbers."""
    if isinstance(value, (list, array)):
        return len(value) > 0 and (isinstance(value[0], (numbers.Real, list)))
    return hasattr(value, "shape") and hasattr(value, "dtype") and len(value.shape) > 0


def is_recording(value: Any) -> bool:
    """Whether a value is an array of samples and its rate, in either order.

    >>> is_recording((np.zeros(9), 16_000)), is_recording(("clip.wav", "a text"))
    (True, False)
    """
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        return False
    first, second = value
    return (is_array(first) and _is_number(second)) or (_is_number(first) and is_array(second))


def _is_number(value: Any) -> bool:
    """Whether a value is a number, of Python or in an array of no dimensions."""
    return isinstance(value, numbers.Real) or (hasattr(value, "item") and getattr(value, "shape", None) == ())


def _array(value: Any) -> NDArray:
    """Samples as numpy's array, whatever library and device they are of."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # which numpy does not have
            value = value.float()
        value = value.numpy()
    try:
        samples = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise UserError(f"the samples are no array ({error})") from None
    if samples.dtype == object:
        raise UserError("the samples are no array of numbers")
    while samples.ndim > 2 and samples.shape[0] == 1:  # a batch of one
        samples = samples[0]
    return samples


def _of_mapping(clip: Mapping[str, Any], channel: int | None, note: Note) -> Samples:
    if clip.get("audio") is not None:  # a whole row of `datasets`
        return samples_of(clip["audio"], channel, note)
    for name in ("array", "raw", "waveform"):
        if clip.get(name) is not None:
            rate = next(
                (clip[key] for key in ("sampling_rate", "sample_rate", "sr") if clip.get(key) is not None), None
            )
            if rate is None:
                raise UserError(f"a clip with `{name}` needs `sampling_rate` beside it")
            return _of_array(clip[name], rate, channel, note)
    if isinstance(clip.get("bytes"), (bytes, bytearray, memoryview)):
        try:
            return read_sound(io.BytesIO(bytes(clip["bytes"])), channel=channel, note=note)
        except UserError as error:
            raise UserError(f"{clip.get('path') or 'bytes'}: {str(error).removeprefix('sound: ')}") from None
    if isinstance(clip.get("path"), (str, os.PathLike)):
        return read_sound(Path(clip["path"]), channel=channel, note=note)
    raise UserError(f"a clip as a mapping with {', '.join(map(repr, clip)) or 'nothing'}: give {FORMS}")

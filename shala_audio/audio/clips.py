"""A clip in any form in which libraries hand one over, to samples."""

from __future__ import annotations

import io
import numbers
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from shala_audio.audio.io import Note, Samples, no_note, read_sound, to_mono_16k
from shala_audio.errors import UserError

Clip = str | os.PathLike[str] | bytes | BinaryIO | Mapping[str, Any] | tuple[Any, Any]
FORMS = "a path, bytes, an open binary file, (array, rate), or `datasets`' {'array', 'sampling_rate'}"


def samples_of(clip: Any, channel: int | None = None, note: Note = no_note, longest: float | None = None) -> Samples:
    """A clip's sound, mono float32 at 16 kHz, shape (samples,).

    Args:
        clip: path; bytes of a file; open binary file; (array, rate), or (rate, array) as Gradio and scipy have it, the array
            numpy's, torch's or a list; a mapping with `array` or `raw` and `sampling_rate`, or with `bytes` or `path`, as
            `datasets` has it; an audio decoder of torchcodec, or what it decodes.
        channel: which, from 0; the mean of all where None.
        note: told what is odd about the channels.
        longest: seconds; a longer file is refused.

    Raises:
        UserError: it is none of these, or cannot be used.

    >>> tone = np.sin(np.arange(8_000, dtype=np.float32))
    >>> samples_of({"array": tone, "sampling_rate": 8_000}).shape, samples_of((8_000, np.int16(tone * 9_000))).shape
    ((16000,), (16000,))
    """
    if isinstance(clip, (str, os.PathLike)):
        return read_sound(Path(clip), channel=channel, note=note, longest=longest)
    if isinstance(clip, (bytes, bytearray, memoryview)):
        return read_sound(io.BytesIO(bytes(clip)), channel=channel, note=note, longest=longest)
    if is_recording(clip):
        first, second = clip
        swapped = isinstance(first, numbers.Real)
        rate: Any = first if swapped else second
        return to_mono_16k(_array(second if swapped else first), rate, channel, note)
    if isinstance(clip, Mapping):
        return _of_mapping(clip, channel, note)
    if hasattr(clip, "get_all_samples"):  # torchcodec's and `datasets`' decoders
        clip = clip.get_all_samples()
    if hasattr(clip, "data") and hasattr(clip, "sample_rate"):  # torchcodec's AudioSamples
        return to_mono_16k(_array(clip.data), clip.sample_rate, channel, note)
    if hasattr(clip, "samplerate") and callable(getattr(clip, "read", None)):  # soundfile's open file
        return to_mono_16k(clip.read(dtype="float32", always_2d=True), clip.samplerate, channel, note)
    if callable(getattr(clip, "read", None)):
        if isinstance(clip, io.TextIOBase):
            raise UserError("the file is open as text; open it with mode 'rb'")
        return read_sound(clip, channel=channel, note=note, longest=longest)
    if is_array(clip):
        raise UserError("an array of samples needs its sampling rate: give (array, rate)")
    raise UserError(f"a clip of type {type(clip).__name__}: give {FORMS}")


def is_array(value: Any) -> bool:
    """Whether a value is an array of samples: numpy's, torch's, or a list of numbers."""
    if isinstance(value, list):
        return len(value) > 0 and (isinstance(value[0], numbers.Real) or is_array(value[0]))
    return isinstance(value, np.ndarray) or (hasattr(value, "shape") and hasattr(value, "dtype"))


def is_recording(value: Any) -> bool:
    """Whether a value is an array of samples and its rate, in either order.

    >>> is_recording((np.zeros(9), 16_000)), is_recording(("clip.wav", "a text"))
    (True, False)
    """
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        return False
    first, second = value
    return (is_array(first) and isinstance(second, numbers.Real)) or (
        isinstance(first, numbers.Real) and is_array(second)
    )


def _array(value: Any) -> NDArray:
    """Samples as numpy's array, whatever library and device they are of."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # which numpy does not have
            value = value.float()
        value = value.numpy()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise UserError(f"the samples are no array ({error})") from None
    if array.dtype == object:
        raise UserError("the samples are no array of numbers")
    while array.ndim > 2 and array.shape[0] == 1:  # a batch of one
        array = array[0]
    return array


def _of_mapping(clip: Mapping[str, Any], channel: int | None, note: Note) -> Samples:
    for name in ("array", "raw"):
        if clip.get(name) is not None:
            rate = clip.get("sampling_rate", clip.get("sample_rate"))
            if rate is None:
                raise UserError(f"a clip with `{name}` needs `sampling_rate` beside it")
            return to_mono_16k(_array(clip[name]), rate, channel, note)
    if clip.get("bytes") is not None:
        try:
            return read_sound(io.BytesIO(clip["bytes"]), channel=channel, note=note)
        except UserError as error:
            raise UserError(f"{clip.get('path') or 'bytes'}: {str(error).removeprefix('sound: ')}") from None
    if clip.get("path") is not None:
        return read_sound(clip["path"], channel=channel, note=note)
    raise UserError(f"a clip as a mapping with {', '.join(map(repr, clip)) or 'nothing'}: give {FORMS}")

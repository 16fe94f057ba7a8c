"""What people hand over, clips and texts, in the form that a model takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shala_audio.audio.sound import SAMPLE_RATE, Samples, read_row_audio, read_sound, to_mono_16k
from shala_audio.data.rows import Row
from shala_audio.errors import UserError
from shala_audio.tasks import Task

Clip = str | Path | BinaryIO | tuple[np.ndarray, int]
Text = str | Mapping[str, str]


def as_pair(item: Any) -> tuple[Clip | None, Text | None]:
    """(clip, text) of an input, which may be a clip alone; (samples, rate) is a clip."""
    if isinstance(item, tuple) and not isinstance(item[0], np.ndarray):
        clip, text = item
        return clip, text
    return item, None


def samples_of(clip: Clip) -> Samples:
    """A clip's sound, mono at 16 kHz."""
    if isinstance(clip, tuple):
        return to_mono_16k(*clip)
    return read_sound(clip)


def named_fields(task: Task, text: Text | None) -> Mapping[str, str]:
    """A text's fields by the names that the task's prompt has for them; none where there is no text."""
    if text and "text" not in task.modality:
        raise UserError(f"this model of task {task.name} hears sound alone and takes no text")
    if isinstance(text, str):
        names = task.text_fields()
        if len(names) != 1:
            raise UserError(f"task {task.name} has the text fields {', '.join(names) or 'none'}; name them")
        return {names[0]: text}
    return text or {}


def sound_of(row: Row, root: str | Path) -> tuple[Samples, int]:
    """A row's sound, and its rate.

    Raises:
        UserError: it has none, or it cannot be read.
    """
    if row.audio is None:
        raise UserError(f"row {row.id} has no sound")
    return read_row_audio(row.audio, root), SAMPLE_RATE

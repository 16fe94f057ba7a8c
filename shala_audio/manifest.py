"""The manifest: JSON Lines, one row for each item, the same for speech and text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from shala_audio.distribution import Floats
from shala_audio.errors import UserError
from shala_audio.io import atomic_write, has_half_characters, readable
from shala_audio.task import Task, load_task, task_of_rows

SPLITS = ("train", "dev", "test", "test2", "test3", "predict")


@dataclass(frozen=True)
class Audio:
    """A segment of a sound file. `path` is relative to a root given once; `offset`, `duration` in seconds.

    `duration` is None where the segment runs to the end of the file. `channel` is counted from 0; None is the mean of all.
    """

    path: str
    offset: float = 0.0
    duration: float | None = None
    channel: int | None = None


@dataclass(frozen=True)
class Row:
    """One item: what is judged (`audio`, `text` or both), and how often raters chose each label (`votes`).

    `votes` are counts, or mass where a rater's one vote was split; never a normalised distribution, because the number
    of raters is information. Empty votes: the row is for prediction only.
    """

    id: str
    task: str
    split: str
    speaker: str | None = None
    audio: Audio | None = None
    text: Mapping[str, str] = field(default_factory=dict)
    votes: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        fields = {name: value for name, value in asdict(self).items() if value is not None}
        if self.audio is not None and self.audio.channel is None:
            del fields["audio"]["channel"]
        return json.dumps(fields, ensure_ascii=False)


def row_attributes(rows: Sequence[Row], task: Task) -> Floats:
    """Attributes of a task that rows hold in `extra`, (rows, A); NaN where a row does not have one.

    Raises:
        UserError: a value that is not a number; the message names the row.
    """
    names = [attribute.name for attribute in task.attributes]
    values = np.full((len(rows), len(names)), np.nan)
    for index, row in enumerate(rows):
        for column, name in enumerate(names):
            value = row.extra.get(name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise UserError(f"row {row.id}: {name} is {value!r}; a number is needed")
            if value is not None:
                values[index, column] = value
    return values


def row_from_json(line: str, where: str) -> Row:
    """Parse and check one line of a manifest.

    >>> row_from_json('{"id": "a", "task": "t", "split": "train", "text": {"comment": "hi"}, "votes": {"x": 2}}', "m:1").id
    'a'

    Raises:
        UserError: the line is not a row; the message begins with `where`.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise UserError(f"{where}: a row is a JSON object")
    if "\\u" in line and has_half_characters(fields):
        raise UserError(f"{where}: holds a lone surrogate such as \\ud800, which is half a character")
    known = set(Row.__dataclass_fields__)
    if unknown := sorted(set(fields) - known):
        raise UserError(f"{where}: unknown fields {', '.join(unknown)}")
    for name in ("id", "task", "split"):
        if not isinstance(fields.get(name), str) or not fields[name]:
            raise UserError(f"{where}: `{name}` must be a string and not empty")
    if not_printed := re.search(r"[\x00-\x1f\x7f]", fields["id"]):
        raise UserError(f"{where}: `id` holds the control character {not_printed[0]!r}")
    if fields["split"] not in SPLITS:
        raise UserError(f"{where}: split is {fields['split']!r}; use one of {', '.join(SPLITS)}")
    if not fields.get("audio") and not fields.get("text"):
        raise UserError(f"{where}: neither `audio` nor `text`")
    if fields.get("audio") is not None:
        fields["audio"] = _audio(fields["audio"], where)
    for name in ("text", "votes", "extra"):
        if not isinstance(fields.get(name, {}), dict):
            raise UserError(f"{where}: `{name}` must be an object")
    if not all(isinstance(value, str) for value in fields.get("text", {}).values()):
        raise UserError(f"{where}: every field of `text` must be a string")
    if not isinstance(fields.get("speaker"), (str, type(None))):
        raise UserError(f"{where}: `speaker` must be a string")
    for label, count in fields.get("votes", {}).items():
        if not isinstance(count, (int, float)) or isinstance(count, bool) or not 0 <= count < 1e12:
            raise UserError(f"{where}: votes for {label!r} are {count!r}; a count of 0 or more is needed")
    return Row(**fields)


def _audio(fields: Any, where: str) -> Audio:
    if not isinstance(fields, dict) or not isinstance(fields.get("path"), str):
        raise UserError(f"{where}: `audio` needs a `path`")
    if unknown := sorted(set(fields) - set(Audio.__dataclass_fields__)):
        raise UserError(f"{where}: unknown audio fields {', '.join(unknown)}")
    path = PurePosixPath(fields["path"])
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{where}: audio path {fields['path']} must be relative and stay under the audio root")
    for name in ("offset", "duration"):
        value = fields.get(name, 0.0)
        if value is None and name == "duration":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise UserError(f"{where}: audio {name} is {value!r}; seconds of 0 or more are needed")
    channel = fields.get("channel")
    if channel is not None and (isinstance(channel, bool) or not isinstance(channel, int) or channel < 0):
        raise UserError(f"{where}: audio channel is {channel!r}; a number from 0 on is needed")
    return Audio(**fields)


def iterate_manifest(path: str | Path) -> Iterator[Row]:
    """Rows of a manifest, one at a time.

    Raises:
        UserError: the file is missing, a line is not a row, or an id appears twice.
    """
    seen: set[str] = set()
    with readable(path, "no such manifest; `shala-audio data prepare` makes one"), open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            row = row_from_json(line, f"{path}:{number}")
            if row.id in seen:
                raise UserError(f"{path}:{number}: id {row.id!r} appears twice")
            seen.add(row.id)
            yield row


def read_manifest(path: str | Path, split: str | None = None) -> list[Row]:
    """All rows of a manifest, or those of one split."""
    return [row for row in iterate_manifest(path) if split is None or row.split == split]


def rows_and_task(path: str | Path, task: Task | str | None = None) -> tuple[list[Row], Task]:
    """All rows of a manifest, and the task that is given or named, or theirs (`task.task_of_rows`).

    Raises:
        UserError: it has no rows, or there is no such task.
    """
    rows = read_manifest(path)
    if not rows:
        raise UserError(f"{path}: has no rows")
    if isinstance(task, Task):
        return rows, task
    return rows, load_task(task) if task else task_of_rows(rows[0].task, path)


def write_manifest(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows beside and rename."""
    with atomic_write(path) as beside, open(beside, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(row.to_json() + "\n")

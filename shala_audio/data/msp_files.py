"""The files of MSP-Podcast's labels as they lie there: lines, CSV, JSON and the numbers in them, read forgivingly."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from shala_audio.errors import UserError
from shala_audio.files import readable

BLOCKS = "labels.txt"

# MSP-PODCAST_9999_0001.wav; H; A:5.200000; V:5.600000; D:4.800000;
HEAD = re.compile(r"([^;]+\.wav);\s*(\w*);\s*A:([^;]*);\s*V:([^;]*);\s*D:([^;]*);?\s*")


def first_file(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of several possible files that is there."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def lines(path: Path) -> Iterator[tuple[int, str]]:
    with readable(path), open(path, encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            yield number, line.rstrip("\n")


def csv_lines(path: Path, needed: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Records with their place; blanks around names of columns, and before values, do not matter.

    Raises:
        UserError: no such column, or a record is cut short.
    """
    with readable(path), open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.reader(file, skipinitialspace=True)
        header = [name.strip() for name in next(reader, [])]
        if needed not in header:
            raise UserError(f"{path}:1: has no column {needed}")
        try:
            for values in reader:
                if (len(values) < len(header) and any(values)) or any(values[len(header) :]):
                    raise UserError(f"{path}:{reader.line_num}: {len(values)} columns, {len(header)} are needed")
                if any(values):
                    yield f"{path}:{reader.line_num}", dict(zip(header, values, strict=False))
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: not CSV ({error})") from None


def json_records(path: Path) -> dict[str, Any]:
    try:
        with readable(path):
            found = json.loads(path.read_text(encoding="utf-8-sig", errors="replace"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(found, dict) or not all(isinstance(record, dict) for record in found.values()):
        raise UserError(f"{path}: an object with an object for each file is needed")
    return found


def read_attributes(values: Iterable[Any], where: str) -> tuple[float | None, float | None, float | None]:
    try:
        arousal, valence, dominance = (_number(value) for value in values)
        return arousal, valence, dominance
    except (ValueError, TypeError):
        raise UserError(f"{where}: arousal, valence and dominance must be numbers") from None


def _number(value: Any) -> float | None:
    """A number, or None where the field is empty or NaN."""
    text = str(value).strip() if value is not None else ""
    number = float(text) if text else None
    return None if number is None or number != number else number

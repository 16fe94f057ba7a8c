"""What is known of every single row of a score: its distance, the ceiling's, and which rows it does not stand apart from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shala_audio.data.rows import Row

# By column ("jsd", "ceiling" and "split_half": distances; "group": the key of the group's first row), by key of the row.
ByRow = Mapping[str, Mapping[str, Any]]


def distances_beside(score: Path) -> Path:
    """The file of the rows' distances that belongs to a file of measures.

    >>> distances_beside(Path("exp/score_temperature.json")).name, distances_beside(Path("mine.json")).name
    ('distances_temperature.json', 'distances_mine.json')
    """
    name = score.name.removeprefix("score")
    return score.with_name("distances" + name if name != score.name else f"distances_{name}")


def row_key(row: Row) -> str:
    """12 hexadecimal digits that tell a row from others; an id alone may mean another one in another corpus of its name.

    They follow from the votes too, which could be guessed from them, so they are not for strangers.

    >>> row_key(Row("a", "mini", "test", votes={"anger": 1})) == row_key(Row("a", "mini", "test", votes={"anger": 2}))
    False
    """
    told = [row.id, row.text, row.votes, row.extra]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def groups_of(rows: Sequence[Row], manifest: Sequence[Row]) -> list[str]:
    """The group of every row: rows of one speaker, or on one premise, are not independent of each other.

    Args:
        rows: some of the manifest's.
        manifest: all; a group is named by the key of its first row there, so that the speakers of two corpora differ even
            where their names do not.

    >>> rows = [Row("a", "t", "test", "Ann"), Row("b", "t", "test", "Ben"), Row("c", "t", "test", "Ann")]
    >>> groups = groups_of(rows, rows)
    >>> groups[0] == groups[2], len(set(groups))
    (True, 2)
    """
    first: dict[tuple[str, str], str] = {}
    for row in manifest:
        shared = _shared(row)
        if shared not in first:
            first[shared] = row_key(row)
    return [first[_shared(row)] for row in rows]


def _shared(row: Row) -> tuple[str, str]:
    if row.speaker is not None:
        return "speaker", row.speaker
    return ("premise", row.text["premise"]) if "premise" in row.text else ("id", row.id)

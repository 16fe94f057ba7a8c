"""What is known of every single row of a score: its distance, the ceiling's, and which rows it does not stand apart from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shala_audio.data.rows import Row
from shala_audio.distribution import NATS_PER_BIT_ROOT
from shala_audio.evaluation.intervals import mean_interval, places

# By column ("jsd", "prior", "ceiling" and "split_half": distances; "group": the key of its group), by key of the row.
ByRow = Mapping[str, Mapping[str, Any]]


def distances_beside(score: Path) -> Path:
    """The file of the rows' distances that belongs to a file of measures.

    >>> distances_beside(Path("exp/score_temperature.json")).name, distances_beside(Path("mine.json")).name
    ('distances_temperature.json', 'mine_distances.json')
    """
    if score.stem == "score" or score.stem.startswith("score_"):
        return score.with_name("distances" + score.name.removeprefix("score"))
    return score.with_name(f"{score.stem}_distances{score.suffix}")


def row_key(row: Row) -> str:
    """12 hexadecimal digits that tell a row from others; an id alone may mean another one in another corpus of its name.

    They follow from the votes too, which could be guessed from them, so they are not for strangers.

    >>> row_key(Row("a", "mini", "test", votes={"anger": 1})) == row_key(Row("a", "mini", "test", votes={"anger": 2}))
    False
    """
    return _short_hash([row.id, row.text, row.votes, row.extra])


def groups_of(rows: Sequence[Row]) -> list[str]:
    """The group of every row, by a key: rows of one speaker, or on one premise, are not independent of each other.

    >>> rows = [Row("a", "t", "test", "Ann"), Row("b", "t", "test", "Ben"), Row("c", "t", "test", "Ann")]
    >>> groups = groups_of(rows)
    >>> groups[0] == groups[2], len(set(groups))
    (True, 2)
    """
    return [_short_hash([row.task, *_shared(row)]) for row in rows]


def mean_by_row(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """jsd of every row, averaged over the runs that have it."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for key, value in run.items():
            found.setdefault(key, []).append(value)
    return {key: float(np.mean(values)) for key, values in found.items()}


def set_jsd_intervals(measures: dict[str, Any], runs: Sequence[ByRow]) -> None:
    """Give jsd and jsd_nats, also of the prior and the ceilings, their intervals over speakers (or premises), where rows
    share them; of several runs, over the rows' means in any case, and `n` counts the rows that differ.

    Args:
        measures: of `score`, or means of several; changed in place.
        runs: what each of one or more runs knows of single rows.
    """
    groups = {key: group for run in runs for key, group in run["group"].items()}
    for column, found in (
        ("jsd", measures),
        *((name, measures.get(name)) for name in ("prior", "ceiling", "split_half")),
    ):
        if found is None or not all(column in run for run in runs):
            continue
        means = runs[0][column] if len(runs) == 1 else mean_by_row([run[column] for run in runs])
        shared = [groups[key] for key in means]
        several = found["jsd"].get("sd") is not None
        if several:
            found["n"] = len(means)
        elif places(shared) is None:
            continue  # it has its interval over rows already
        ends = mean_interval(np.array(list(means.values())), shared)
        found["jsd"] |= ends
        if "jsd_nats" in found:
            in_nats = {
                end: None if at is None else at * NATS_PER_BIT_ROOT for end, at in ends.items() if end != "groups"
            }
            found["jsd_nats"] |= {**ends, **in_nats}


def _shared(row: Row) -> tuple[str, str]:
    if row.speaker is not None:
        return "speaker", row.speaker
    return ("premise", row.text["premise"]) if "premise" in row.text else ("id", row.id)


def _short_hash(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]

"""Is one system better than another? A paired permutation test on the rows that both predict. No torch.

Clips of one speaker are not independent, nor are sentences on one premise, so the signs of such rows are flipped together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from shala_audio.distribution import Floats
from shala_audio.errors import UserError
from shala_audio.evaluation.metrics import Measures
from shala_audio.evaluation.score import groups_of, load_judged, mean_by_row
from shala_audio.evaluation.stats import Paired, paired_test
from shala_audio.task import Task


def compare(
    first: Path, second: Path, votes: Path, task: Task | None = None, split: str | None = None
) -> dict[str, Any]:
    """Mean differences (first less second) of jsd, kl and accuracy, tested on the rows that both predict.

    Args:
        first, second: predictions (`evaluation.predictions`).
        votes: manifest or CSV of votes.
        task: labels; where not given, as in `load_judged`.
        split: compare its rows alone.

    Returns:
        `n`, `only_first`, `only_second` (rows that the other lacks), `splits` (how many rows of which), and for each measure
        {first, second} and what `Paired` holds. Accuracy is over the rows that have a plurality label.

    Raises:
        UserError: no row is predicted by both.
    """
    one, two = load_judged(first, votes, task, split), load_judged(second, votes, task, split)
    place = {row.id: index for index, row in enumerate(two.rows)}
    shared = [(index, place[row.id]) for index, row in enumerate(one.rows) if row.id in place]
    if not shared:
        raise UserError(f"{first} and {second} have no row in common")
    mine, theirs = map(list, zip(*shared, strict=True))
    human, rows = one.human[mine], [one.rows[index] for index in mine]
    groups = groups_of(rows)
    result: dict[str, Any] = {
        "n": len(shared),
        "only_first": len(one.rows) - len(shared),
        "only_second": len(two.rows) - len(shared),
        "splits": dict(Counter(row.split for row in rows)),
    }
    measures = Measures(human, one.predicted[mine]), Measures(human, two.predicted[theirs])
    for name in ("jsd", "kl"):
        mean, other = (found.in_order(found.row_means[name]) for found in measures)
        result[name] = _test(mean, other, groups)
    clear = measures[0].in_order(measures[0].clear)
    if clear.any():
        winner = human.argmax(axis=1)
        right = [found.argmax(axis=1) == winner for found in (one.predicted[mine], two.predicted[theirs])]
        kept = [groups[index] for index in np.flatnonzero(clear)]
        result["accuracy"] = _test(right[0][clear].astype(float), right[1][clear].astype(float), kept)
    return result


def _test(first: Floats, second: Floats, groups: Sequence[str]) -> Mapping[str, Any]:
    return {"first": float(first.mean()), "second": float(second.mean()), **asdict(paired_test(first - second, groups))}


def paired(
    first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]], groups: Mapping[str, str]
) -> Paired | None:
    """Compare two systems, each with one or several runs; a row that several runs have predicted counts once, by its mean.

    Args:
        first, second: of each run, jsd by row (`score`).
        groups: of every row.

    Returns:
        None where no row is in both.
    """
    ours, theirs = mean_by_row(first), mean_by_row(second)
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return None
    return paired_test(np.array([ours[key] - theirs[key] for key in shared]), [groups[key] for key in shared])

"""Is one system better than another? A paired permutation test on the rows that both predict. No torch.

Clips of one speaker are not independent, nor are sentences on one premise, so the signs of such rows are flipped together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from shala_audio.distribution import Floats
from shala_audio.errors import UserError
from shala_audio.evaluation.by_row import groups_of, mean_by_row
from shala_audio.evaluation.intervals import jackknife_interval, places
from shala_audio.evaluation.measures import Measures
from shala_audio.evaluation.score import load_judged
from shala_audio.tasks import Task

PERMUTATIONS = 10_000
CHUNK = 64  # permutations computed at once


def paired_permutation(differences: Floats, permutations: int = PERMUTATIONS, seed: int = 0) -> float:
    """Two-sided p-value of a mean paired difference: how often random signs give one as large (Fisher 1935).

    Args:
        differences: (rows,) of one system from the other; or the sums of groups of rows, which then are flipped together.
        permutations: random ones; the observed one counts as one more, so that p is never 0. All signs are tried where there
            are not more than so many.
        seed: of the signs.

    >>> paired_permutation(np.full(20, 0.1)) < 0.001
    True
    """
    total, rows = float(differences.sum()), len(differences)
    if 2**rows <= permutations:  # all signs there are
        every = 1 - 2 * (np.arange(2**rows)[:, None] >> np.arange(rows) & 1)
        return float((np.abs(every @ differences) >= abs(total) * (1 - 1e-6)).mean())
    rng = np.random.default_rng(seed)
    extreme = 0
    for start in tqdm(range(0, permutations, CHUNK), unit=f"x{CHUNK}", desc="permutations", disable=None, leave=False):
        count = min(CHUNK, permutations - start)
        bits = np.unpackbits(np.frombuffer(rng.bytes(count * -(-rows // 8)), dtype=np.uint8).reshape(count, -1), axis=1)
        sums = total - 2 * (bits[:, :rows].astype(np.float32) @ differences.astype(np.float32))
        extreme += int((np.abs(sums) >= abs(total) * (1 - 1e-6)).sum())
    return (extreme + 1) / (permutations + 1)


@dataclass(frozen=True)
class Paired:
    """How much nearer to the raters one system is than another.

    Attributes:
        rows: that both were judged on; groups: of how many speakers (or premises) they are, as many as rows where none are
            shared.
        difference: mean of the first less that of the second; low, high: its 95 % interval, None of a single row.
        p: two-sided, of the permutation test.
        by_group: whether the signs of groups were flipped, and not those of single rows; where there are fewer groups than
            `FEWEST_GROUPS`, interval and p are about other rows of the same speakers alone.
    """

    rows: int
    groups: int
    difference: float
    low: float | None
    high: float | None
    p: float
    by_group: bool


def paired_test(gaps: Floats, groups: Sequence[str]) -> Paired:
    """Test whether differences (rows,) are 0 on average, where rows of one group need not be independent.

    The interval is that of `jackknife_interval`.

    Args:
        gaps: (rows,) first less second.
        groups: of every row.

    >>> gaps = np.full(8, -0.1)
    >>> paired_test(gaps, list("abcdefgh")).p < 0.02, paired_test(gaps, list("aaaabbbb")).by_group
    (True, False)
    """
    shared = places(groups)
    place = np.arange(len(gaps)) if shared is None else shared
    p = paired_permutation(np.bincount(place, weights=gaps).astype(np.float64))
    return Paired(
        len(gaps), len(set(groups)), float(gaps.mean()), *jackknife_interval(gaps, place), p, shared is not None
    )


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


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the order given.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected

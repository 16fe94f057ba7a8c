"""Is one system better than another? A paired permutation test on the rows that both predict. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from shala_audio.distribution import Floats
from shala_audio.errors import UserError
from shala_audio.evaluation.measures import Measures
from shala_audio.evaluation.score import load_judged

PERMUTATIONS = 10_000
CHUNK = 64  # permutations computed at once


def paired_permutation(differences: Floats, permutations: int = PERMUTATIONS, seed: int = 0) -> float:
    """Two-sided p-value of a mean paired difference: how often random signs give one as large (Fisher 1935).

    Args:
        differences: (rows,) of one system from the other.
        permutations: random ones; the observed one counts as one more, so that p is never 0.
        seed: of the signs.

    >>> paired_permutation(np.full(20, 0.1)) < 0.001
    True
    """
    rng = np.random.default_rng(seed)
    total, rows = float(differences.sum()), len(differences)
    extreme = 0
    for start in tqdm(range(0, permutations, CHUNK), unit=f"x{CHUNK}", desc="permutations", disable=None, leave=False):
        count = min(CHUNK, permutations - start)
        bits = np.unpackbits(np.frombuffer(rng.bytes(count * -(-rows // 8)), dtype=np.uint8).reshape(count, -1), axis=1)
        sums = total - 2 * (bits[:, :rows].astype(np.float32) @ differences.astype(np.float32))
        extreme += int((np.abs(sums) >= abs(total) * (1 - 1e-6)).sum())
    return (extreme + 1) / (permutations + 1)


def compare(
    first: Path, second: Path, manifest: Path, labels: tuple[str, ...] | None = None, split: str | None = None
) -> dict[str, Any]:
    """Mean differences (first less second) of jsd, kl and accuracy, with p-values, on the rows that both predict.

    Args:
        first, second: predictions (`evaluation.predictions`).
        manifest: rows with votes.
        labels: in order; those of the rows' task where not given.
        split: compare its rows alone.

    Returns:
        `n`, `only_first`, `only_second` (rows that the other lacks), and for each measure {first, second, difference, p}.
        Accuracy is over the rows that have a plurality label.

    Raises:
        UserError: no row is predicted by both.
    """
    one, two = load_judged(first, manifest, labels, split), load_judged(second, manifest, labels, split)
    place = {row.id: index for index, row in enumerate(two.rows)}
    shared = [(index, place[row.id]) for index, row in enumerate(one.rows) if row.id in place]
    if not shared:
        raise UserError(f"{first} and {second} have no row in common")
    mine, theirs = map(list, zip(*shared, strict=True))
    human = one.human[mine]
    result: dict[str, Any] = {
        "n": len(shared),
        "only_first": len(one.rows) - len(shared),
        "only_second": len(two.rows) - len(shared),
    }
    measures = Measures(human, one.predicted[mine]), Measures(human, two.predicted[theirs])
    for name in ("jsd", "kl"):
        result[name] = _test(*(one.in_order(one.row_means[name]) for one in measures))
    clear = measures[0].in_order(measures[0].clear)
    if clear.any():
        winner = human.argmax(axis=1)
        right = [found.argmax(axis=1) == winner for found in (one.predicted[mine], two.predicted[theirs])]
        result["accuracy"] = _test(right[0][clear].astype(float), right[1][clear].astype(float))
    return result


@dataclass(frozen=True)
class Paired:
    """How much nearer to the raters one system is than another, row by row.

    Attributes:
        rows: that both were judged on; difference: mean jsd of the first less that of the second, negative where the first is
            nearer; low, high: its 95 % bootstrap interval over the rows; p: two-sided, of the permutation test.
    """

    rows: int
    difference: float
    low: float
    high: float
    p: float


def paired(
    first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]], draws: int = 1000
) -> Paired | None:
    """Compare two systems, each with one or several runs; a row that several runs have predicted counts once, by its mean.

    Args:
        first, second: of each run, jsd by row (`row_jsd` of `score`).
        draws: of the bootstrap.

    Returns:
        None where no row is in both.
    """
    ours, theirs = mean_by_row(first), mean_by_row(second)
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return None
    gaps = np.array([ours[key] - theirs[key] for key in shared])
    return Paired(len(gaps), float(gaps.mean()), *mean_interval(gaps, draws), paired_permutation(gaps))


def mean_interval(values: Floats, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean of the values (rows,): percentiles of means of rows drawn with replacement."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def mean_by_row(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """jsd of every row, averaged over the runs that have it."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for key, value in run.items():
            found.setdefault(key, []).append(value)
    return {key: float(np.mean(values)) for key, values in found.items()}


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


def _test(first: Floats, second: Floats) -> Mapping[str, float]:
    return {
        "first": float(first.mean()),
        "second": float(second.mean()),
        "difference": float((first - second).mean()),
        "p": paired_permutation(first - second),
    }

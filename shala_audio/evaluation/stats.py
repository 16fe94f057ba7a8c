"""Statistics of few and clustered rows: intervals of metrics and means, and paired tests. No torch.

Clips of one speaker are not independent, nor are sentences on one premise, so such rows go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from tqdm import tqdm

from shala_audio.distribution import Floats

DRAWS = 1000


def percentiles(value: float, drawn: list[float]) -> dict[str, float | None]:
    """A value with the 2.5th and 97.5th percentile of its bootstrap draws (Efron 1979); None for what does not exist.

    >>> percentiles(0.5, [0.0, float("nan"), 1.0])
    {'value': 0.5, 'low': 0.025, 'high': 0.975}
    """
    kept = [draw for draw in drawn if not np.isnan(draw)]
    if np.isnan(value) or not kept:
        return {"value": None if np.isnan(value) else value, "low": None, "high": None}
    low, high = np.percentile(kept, [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high)}


def jackknife(value: float, without: list[float], sizes: NDArray[np.int64]) -> dict[str, float | int | None]:
    """A value with the ends of its interval over clusters (`jackknife_interval`), from what it is without each cluster in turn.

    `groups`: how many they are. The ends are None for what does not exist, or does not exist without some cluster.

    >>> jackknife(0.5, [0.4, 0.6, 0.5], np.array([10, 10, 10]))
    {'value': 0.5, 'low': 0.003..., 'high': 0.996..., 'groups': 3}
    """
    half = None if np.isnan(value) or np.isnan(without).any() else _jackknife_half(np.array(without), sizes)
    low, high = (None, None) if half is None else (value - half, value + half)
    return {"value": None if np.isnan(value) else value, "low": low, "high": high, "groups": len(sizes)}


def _jackknife_half(without: Floats, sizes: NDArray[np.int64]) -> float | None:
    """Half the length of an interval, from a value without each of C clusters in turn, (C,), and the clusters' rows, (C,)."""
    count = len(sizes)
    freedom = float(sizes.sum() ** 2 / np.square(sizes).sum()) - 1  # of the effective number of clusters
    if count < 2 or freedom < 0.5:
        return None
    deviation = np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())
    return float(stdtrit(freedom, 0.975) * deviation)


def cluster_ids(groups: Sequence[str]) -> NDArray[np.int64]:
    """(rows,) number of every row's cluster, from 0.

    >>> cluster_ids(list("aabbc")).tolist()
    [0, 0, 1, 1, 2]
    """
    return np.unique(list(groups), return_inverse=True)[1].reshape(-1)


def are_clustered(groups: Sequence[str]) -> bool:
    """Whether any two rows share a cluster.

    >>> are_clustered(list("abc")), are_clustered(list("aab"))
    (False, True)
    """
    return len(set(groups)) < len(groups)


def jackknife_interval(values: Floats, cluster: NDArray[np.int64]) -> tuple[float | None, float | None]:
    """Interval of a mean: Student's t with the jackknife's deviation, each cluster left out in turn (Tukey 1958).

    Student's t has one degree of freedom less than there are effective clusters, (Σ n)² / Σ n² of their sizes n (Carter,
    Schnepel and Steigerwald 2017): as many as there are where they are equal, fewer where one has most of the rows. So less
    evidence gives wider intervals. None of a single cluster, or of one that has nearly all rows.

    Args:
        values: (rows,).
        cluster: (rows,) number of every row's cluster, from 0.

    >>> jackknife_interval(np.array([0.1, 0.1, 0.3, 0.3]), np.array([0, 0, 1, 1]))
    (-1.07..., 1.47...)
    >>> jackknife_interval(np.array([0.0, 1.0]), np.array([0, 0]))
    (None, None)
    """
    sums: Floats = np.bincount(cluster, weights=values).astype(np.float64)
    sizes = np.bincount(cluster)
    if len(sizes) == 1:
        return None, None
    mean, without = float(values.mean()), (sums.sum() - sums) / (sizes.sum() - sizes)
    half = _jackknife_half(without, sizes)
    return (None, None) if half is None else (mean - half, mean + half)


def mean_interval(values: Floats, groups: Sequence[str], draws: int = DRAWS, seed: int = 0) -> dict[str, float | None]:
    """Interval of the mean of values (rows,), `low` and `high`: over their clusters, with their number as `groups`, where
    rows share any; else percentiles of means of rows drawn with replacement. None of a single row or cluster.

    >>> sorted(mean_interval(np.arange(12.0), list("aabbccddeeff")))
    ['groups', 'high', 'low']
    """
    if are_clustered(groups):
        cluster = cluster_ids(groups)
        low, high = jackknife_interval(values, cluster)
        return {"low": low, "high": high, "groups": int(cluster.max()) + 1}
    if len(values) == 1:
        return {"low": None, "high": None}
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


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
        p: two-sided, of the permutation test; G groups give 2 / 2^G at least.
        by_group: whether rows share groups, whose signs then were flipped together.
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
    >>> paired_test(gaps, list("abcdefgh")).p, paired_test(gaps, list("aaaabbbb")).p
    (0.0078125, 0.5)
    """
    cluster = cluster_ids(groups)
    p = paired_permutation(np.bincount(cluster, weights=gaps).astype(np.float64))
    clustered = are_clustered(groups)
    return Paired(len(gaps), len(set(groups)), float(gaps.mean()), *jackknife_interval(gaps, cluster), p, clustered)


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

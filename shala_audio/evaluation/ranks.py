"""Rank statistics of values that are given as groups of equal ones, with how many there are of each. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shala_audio.distribution import Floats

Counts = NDArray[np.int64]


def group_sums(groups: Counts, values: Floats) -> Floats:
    """Sum of the values of each group."""
    sums: NDArray[Any] = np.bincount(groups, weights=values)
    return sums


def mid_ranks(sizes: Floats) -> Floats:
    """Mid-ranks, less a half, of groups of so many equal values each, in ascending order."""
    return np.cumsum(sizes) - sizes / 2


def rank_spread(sizes: Floats) -> float:
    """Sum of squared distances of the mid-ranks of such groups from their mean (Kendall 1945)."""
    total = sizes.sum()
    return float((total * total * total - (sizes * sizes * sizes).sum()) / 12)  # exactly 0 for one group


def rank_correlation(product: float, one: float, two: float, total: float) -> float:
    """Spearman's, of the sum of products of ranks and both spreads; NaN where one side is constant."""
    scale = np.sqrt(one * two)
    return float((product - total**3 / 4) / scale) if scale > 1e-9 * total else float("nan")


def auroc(rank_sum: float, positives: float, total: float) -> float:
    """Area under the ROC curve of positive rows with that sum of ranks; NaN where all rows are positive, or none is."""
    negatives = total - positives
    if positives <= 0 or negatives <= 0:
        return float("nan")
    return float((rank_sum - positives**2 / 2) / (positives * negatives))

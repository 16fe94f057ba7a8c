"""95 % intervals of measures and means: over rows, and over groups of rows that are not independent. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from shala_audio.distribution import Floats

DRAWS = 1000
FEWEST_GROUPS = 6  # whose signs, flipped together, can give p = 2 / 2^6 = .03; fewer never reach .05


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


def places(groups: Sequence[str]) -> NDArray[np.int64] | None:
    """The number of every row's group; None where rows count as independent, because no two share a group or there are fewer
    than `FEWEST_GROUPS`.

    >>> places(list("aabbccddeeff")).tolist()
    [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    >>> places(list("abcdefgh")) is None, places(list("aabb")) is None
    (True, True)
    """
    names, place = np.unique(list(groups), return_inverse=True)
    return place.reshape(-1) if FEWEST_GROUPS <= len(names) < len(place) else None


def jackknife_interval(values: Floats, place: NDArray[np.int64]) -> tuple[float | None, float | None]:
    """Interval of a mean: Student's t with the jackknife's deviation, each group left out in turn (Tukey 1958).

    Percentiles of a bootstrap of few groups are too narrow. None where there is one group alone.

    Args:
        values: (rows,).
        place: (rows,) number of every row's group, from 0.

    >>> jackknife_interval(np.array([0.1, 0.1, 0.3, 0.3]), np.array([0, 0, 1, 1]))
    (-1.07..., 1.47...)
    >>> jackknife_interval(np.array([0.0, 1.0]), np.array([0, 0]))
    (None, None)
    """
    sums: Floats = np.bincount(place, weights=values).astype(np.float64)
    sizes: Floats = np.bincount(place).astype(np.float64)
    mean, count = float(values.mean()), len(sums)
    if count == 1:
        return None, None
    without = (sums.sum() - sums) / (sizes.sum() - sizes)  # the mean without each group in turn
    half = float(student_t.ppf(0.975, count - 1) * np.sqrt((count - 1) / count * ((without - mean) ** 2).sum()))
    return mean - half, mean + half


def mean_interval(values: Floats, groups: Sequence[str], draws: int = DRAWS, seed: int = 0) -> dict[str, float | None]:
    """Interval of the mean of values (rows,), `low` and `high`: over their groups, with their number as `groups`; where rows
    count as independent (`places`), percentiles of means of rows drawn with replacement. None of a single row.

    >>> sorted(mean_interval(np.arange(12.0), list("aabbccddeeff")))
    ['groups', 'high', 'low']
    """
    place = places(groups)
    if place is not None:
        low, high = jackknife_interval(values, place)
        return {"low": low, "high": high, "groups": int(place.max()) + 1}
    if len(values) == 1:
        return {"low": None, "high": None}
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}

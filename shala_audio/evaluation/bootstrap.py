"""Percentile intervals of the bootstrap (Efron 1979). No torch."""

from __future__ import annotations

import numpy as np

from shala_audio.distribution import Floats

DRAWS = 1000


def percentiles(value: float, drawn: list[float]) -> dict[str, float | None]:
    """A value with the 2.5th and 97.5th percentile of its bootstrap draws; None for what does not exist.

    >>> percentiles(0.5, [0.0, float("nan"), 1.0])
    {'value': 0.5, 'low': 0.025, 'high': 0.975}
    """
    kept = [draw for draw in drawn if not np.isnan(draw)]
    if np.isnan(value) or not kept:
        return {"value": None if np.isnan(value) else value, "low": None, "high": None}
    low, high = np.percentile(kept, [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high)}


def mean_interval(values: Floats, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean of the values (rows,): percentiles of means of rows drawn with replacement."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)

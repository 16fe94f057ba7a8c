"""Agreement about attributes such as arousal, by Lin's concordance. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from shala_audio.distribution import Floats
from shala_audio.evaluation.intervals import DRAWS, percentiles


def concordance(stated: Floats, true: Floats) -> float:
    """Lin's concordance correlation coefficient of two sequences (Biometrics 1989), in [-1, 1]; NaN for two constants.

    >>> concordance(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]))
    1.0
    """
    covariance = np.mean((stated - stated.mean()) * (true - true.mean()))
    spread = stated.var() + true.var() + (stated.mean() - true.mean()) ** 2
    return float(2 * covariance / spread) if spread > 0 else float("nan")


def attribute_measures(
    stated: Floats, true: Floats, names: Sequence[str], draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """`ccc_<name>` of each attribute, with its interval and the number of rows that have it.

    Args:
        stated, true: (rows, A); NaN where there is no value.
        names: of the A attributes.
        draws, seed: of the bootstrap.
    """
    found: dict[str, Any] = {}
    for name, x, y in zip(names, stated.T, true.T, strict=True):
        known = ~(np.isnan(x) | np.isnan(y))
        if known.sum() > 1:
            x, y = x[known], y[known]
            rng = np.random.default_rng(seed)
            samples = (rng.integers(len(x), size=len(x)) for _ in range(draws))
            drawn = [concordance(x[rows], y[rows]) for rows in samples]
            found[f"ccc_{name}"] = {**percentiles(concordance(x, y), drawn), "n": len(x)}
    return found

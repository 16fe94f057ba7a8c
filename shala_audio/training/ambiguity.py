"""Ambiguity weights: rows on which people disagree count for more."""

from __future__ import annotations

import numpy as np

from shala_audio.distribution import Floats, normalized_entropy
from shala_audio.errors import UserError


def static_weights(human: Floats, strength: float) -> Floats:
    """w = (1 - λ) + λ · H̃ for every row, scaled to mean 1; H̃ is the human entropy over log K.

    Args:
        human: (rows, K) human distributions.
        strength: λ in [0, 1]; 0 weights all rows alike.

    Returns:
        (rows,) weights, 0 or more, mean 1.

    Raises:
        UserError: λ outside [0, 1], or every weight would be 0 (λ = 1 and nobody disagrees about anything).

    >>> static_weights(np.array([[1.0, 0.0], [0.5, 0.5]]), 0.5).round(3).tolist()
    [0.667, 1.333]
    """
    if not 0 <= strength <= 1:
        raise UserError(f"ambiguity_lambda is {strength}; use 0 to 1")
    weights = (1 - strength) + strength * normalized_entropy(human)
    if weights.sum() <= 0:
        raise UserError("ambiguity_lambda is 1 and no row is ambiguous: every weight would be 0; use less than 1")
    return weights / np.mean(weights)

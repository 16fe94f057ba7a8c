"""Windows over long sound, and one distribution out of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shala_audio.audio.sound import SAMPLE_RATE, SHORTEST
from shala_audio.distribution import LabelDistribution
from shala_audio.errors import UserError


@dataclass(frozen=True)
class Moment:
    """What was heard from `start` to `end`, in seconds, and in what share of that time there was voice, by its energy."""

    start: float
    end: float
    distribution: LabelDistribution
    voiced: float = 1.0


def window_bounds(samples: int, window: float, hop: float) -> list[tuple[int, int]]:
    """First sample and end of every window; together they cover all of the sound.

    The last window ends with the sound and may be shorter; where it would be too short to be heard, it starts earlier.

    Args:
        samples: how many there are, at 16 kHz.
        window, hop: seconds; hop at most window, so that nothing is passed over.

    >>> window_bounds(16_000 * 5, 2.0, 2.0)
    [(0, 32000), (32000, 64000), (64000, 80000)]
    """
    if not 0 < hop <= window:
        raise UserError(f"window {window} s and hop {hop} s: hop must be above 0 and at most the window")
    length, step = round(window * SAMPLE_RATE), round(hop * SAMPLE_RATE)
    if length < SHORTEST or step < 1:
        raise UserError(f"window {window} s is too short; 0.025 s or more")
    starts = [0]
    while starts[-1] + length < samples:
        starts.append(starts[-1] + step)
    bounds = [(start, min(start + length, samples)) for start in starts]
    if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] < SHORTEST:
        bounds[-1] = (samples - SHORTEST, samples)
    return bounds


def average(moments: Sequence[Moment]) -> LabelDistribution:
    """The mean of the windows' distributions, and of their attributes, each weighted by how long it lasts."""
    lasting = np.array([moment.end - moment.start for moment in moments])
    probs = np.stack([moment.distribution.probs for moment in moments])
    mean = (lasting[:, None] * probs).sum(axis=0) / lasting.sum()
    first = moments[0].distribution
    attributes = {
        name: float(lasting @ [moment.distribution.attributes[name] for moment in moments] / lasting.sum())
        for name in first.attributes
    }
    return LabelDistribution(first.labels, mean / mean.sum(), attributes)

"""Windows over long sound, and one distribution out of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shala_audio.audio.io import SAMPLE_RATE, SHORTEST, Samples
from shala_audio.distribution import LabelDistribution
from shala_audio.errors import UserError
from shala_audio.io import atomic_write


@dataclass(frozen=True)
class Moment:
    """What was predicted from `start` to `end`, in seconds, and in what share of that time there was voice, by its energy."""

    start: float
    end: float
    distribution: LabelDistribution
    voiced: float = 1.0


def window_bounds(samples: int, window: float, hop: float) -> list[tuple[int, int]]:
    """First sample and end of every window; together they cover all of the sound.

    The last window ends with the sound and may be shorter; where it would be too short to be encoded, it starts earlier.

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
    return replace(first, probs=mean / mean.sum(), attributes=attributes)


def plot_timeline(moments: Sequence[Moment], samples: Samples | None = None, path: str | Path | None = None) -> Any:
    """Draw how a clip is judged over time: shares of the labels window by window, under the waveform.

    Args:
        moments: of `timeline`.
        samples: of the clip, mono at 16 kHz, to draw above; left out where None.
        path: of a picture to write.

    Returns:
        The matplotlib figure.
    """
    import matplotlib.pyplot as plt

    figure, (upper, lower) = plt.subplots(
        2,
        1,
        figsize=(8, 4),
        sharex=True,
        height_ratios=(1, 3) if samples is not None else (0.01, 3),
        layout="constrained",
    )
    upper.axis("off")
    if samples is not None:
        spans = np.array_split(samples, min(1500, len(samples)))
        times = np.linspace(0, len(samples) / SAMPLE_RATE, len(spans))
        upper.fill_between(times, [s.min() for s in spans], [s.max() for s in spans], color="tab:gray", lw=0)
    starts = [moment.start for moment in moments]
    widths = np.diff([*starts, moments[-1].end])  # windows may overlap: each is drawn until the next begins
    bottom = np.zeros(len(moments))
    for label in moments[0].distribution.labels:
        shares = np.array([moment.distribution[label] for moment in moments])
        lower.bar(starts, shares, widths, bottom, align="edge", label=label, edgecolor="white", lw=0.4)
        bottom += shares
    lower.set(xlabel="seconds", ylabel="share of people", ylim=(0, 1), xlim=(0, moments[-1].end))
    lower.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    if path is not None:
        with atomic_write(path) as beside:
            figure.savefig(beside, dpi=120, format=Path(path).suffix.removeprefix(".") or "png")
    return figure

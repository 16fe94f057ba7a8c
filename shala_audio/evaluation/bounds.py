"""The human agreement bound: how close another group of people comes to a row's raters.

It says what is to be expected of people, and is no floor of the distance: people disagree with themselves, and an answer
sharper than they are divided can come nearer to a few of their votes than the truth does.

- **Fresh sample**: n raters drawn anew from the row's own distribution, scored against it. With few raters that is far
  from 0, and still too good: the few seem to agree more than the many would, so a model that knew the true distribution
  would be somewhat further off.
- **Split half**: the raters of a row are parted at random, and one half scored against the other. Both halves are smaller
  than the whole, so this is further off than that model: the two bracket it.

Both take raters to name one label each. Where some split their vote, new raters of one label are further off than theirs
would be, and nobody can tell whom to part, so there is no split half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from shala_audio.distribution import NATS_PER_BIT_ROOT, Floats, jsd
from shala_audio.evaluation.metrics import TIE, all_measures
from shala_audio.evaluation.stats import DRAWS, percentiles

SAMPLED_ROWS = 20_000  # small corpora are sampled several times over, until so many rows have been


def fresh_sample(counts: Floats, rng: np.random.Generator) -> Floats:
    """Distributions (rows, K) of as many new raters as each row of votes (rows, K) has.

    Raters who split their vote make counts that are not whole: their number is rounded, 1 at least.
    """
    total = counts.sum(axis=1)
    raters = np.maximum(np.rint(total).astype(np.int64), 1)
    return rng.multinomial(raters, counts / total[:, None]) / raters[:, None]


def split_halves(counts: Floats, rng: np.random.Generator) -> tuple[Floats, Floats] | None:
    """Distributions of two random halves of each row's raters, two (rows, K); of an odd number, the second has one more.

    Only rows with two raters or more can be parted. None where no row can, or where any row's votes are not whole numbers: a
    rater who split a vote cannot be told from two, and rows without such raters are not like the others.
    """
    whole = np.rint(counts).astype(np.int64)
    if not np.isclose(counts, whole).all():
        return None
    whole = whole[whole.sum(axis=1) >= 2]
    if not len(whole):
        return None
    left, wanted = whole.sum(axis=1), whole.sum(axis=1) // 2
    first = np.zeros_like(whole)
    for label in range(whole.shape[1]):  # label by label, as many as a draw without replacement gives
        rest = left - whole[:, label]
        first[:, label] = rng.hypergeometric(whole[:, label], rest, wanted)
        left, wanted = rest, wanted - first[:, label]
    second = whole - first
    return first / first.sum(axis=1, keepdims=True), second / second.sum(axis=1, keepdims=True)


def agreement_bound(
    counts: Floats, draws: int = DRAWS, seed: int = 0, groups: Sequence[str] = (), ordered: bool = False
) -> tuple[dict[str, Any], Floats]:
    """Measures of a fresh sample of the raters against the raters; and the mean jsd (rows,) of every row's samples.

    Without `kl` and `cross_entropy`: a handful of votes leaves labels at 0, and what that costs is set by the floor under the
    logarithm, not by the raters. Without `confusion` and `reliability` too, in which every row would count as often as it was sampled.

    Args:
        counts: (rows, K) votes.
        draws: bootstrap resamples of the rows.
        seed: of the samples and the resamples.
        groups: of every row, where rows share them.
        ordered: whether the labels stand in an order.
    """
    rng = np.random.default_rng(seed)
    repeats = _repeats(len(counts))
    predicted = np.concatenate([fresh_sample(counts, rng) for _ in range(repeats)])
    human = np.tile(counts / counts.sum(axis=1, keepdims=True), (repeats, 1))
    found = all_measures(human, _without_ties(predicted, seed), draws, seed, repeats, "bound", groups, ordered)
    for name in ("kl", "cross_entropy", "confusion", "reliability"):
        del found[name]
    return found, jsd(human, predicted).reshape(repeats, -1).mean(axis=0)


def _without_ties(sampled: Floats, seed: int) -> Floats:
    """Distributions (n, K) whose first place is shared by nobody, and otherwise the same to twelve digits; 0 stays 0.

    A few votes often tie. The label that stands first among the task's would win each of them, and so would the measures of
    the first label depend on the labels' order.
    """
    chance = np.random.default_rng([seed, 1]).random(sampled.shape)
    nudged = sampled + np.where(sampled >= sampled.max(axis=1, keepdims=True) - TIE, 1e-13 * chance, 0.0)
    return nudged / nudged.sum(axis=1, keepdims=True)


def _repeats(rows: int) -> int:
    """How often the rows are sampled: once where there are many, 20 times at most."""
    return max(1, min(20, SAMPLED_ROWS // rows))


def split_half_distance(counts: Floats, draws: int = DRAWS, seed: int = 0) -> tuple[dict[str, Any], Floats] | None:
    """Mean jsd between halves of the raters, {n, jsd: {value, low, high}, jsd_nats: the same}; and that of every row that
    can be parted (n,).

    None where no row can, or where one has votes that are not whole (`split_halves`).
    """
    rng = np.random.default_rng(seed)
    distances = []
    for _ in range(_repeats(len(counts))):
        halves = split_halves(counts, rng)
        if halves is None:
            return None
        distances.append(jsd(*halves))
    mean = np.mean(distances, axis=0)  # of each row, over the ways to part its raters
    draws = draws if len(mean) > 1 else 0
    sampled = [float(mean[rng.integers(len(mean), size=len(mean))].mean()) for _ in range(draws)]
    found = percentiles(float(mean.mean()), sampled)
    in_nats = {end: None if value is None else value * NATS_PER_BIT_ROOT for end, value in found.items()}
    return {"n": len(mean), "jsd": found, "jsd_nats": in_nats}, mean

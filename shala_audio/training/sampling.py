"""The order in which training visits rows: seeded by epoch, in batches of similar length, optionally drawn by weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from shala_audio.distribution import Floats

BATCHES_SORTED = 8  # rows are sorted by length within so many batches: little padding, and still a random order


def visit_order(lengths: Sequence[int], batch: int, seed: int, epoch: int, weights: Floats | None = None) -> list[int]:
    """Row numbers of one epoch.

    Args:
        lengths: of every row, in tokens; neighbours in a batch come to have similar ones.
        batch: rows of one batch.
        seed, epoch: the order depends on both, and on nothing else.
        weights: None visits every row once. Weights of mean 1 visit a row so many times on average: the whole part of its
            weight for certain, the rest by systematic sampling.

    >>> visit_order([3, 9, 3, 9], batch=2, seed=0, epoch=0) in ([0, 2, 1, 3], [2, 0, 1, 3], [1, 3, 0, 2], [1, 3, 2, 0])
    True
    """
    rng = np.random.default_rng([seed, epoch])
    rows = rng.permutation(len(lengths))
    if weights is not None:
        # Steps of 1 along the summed weights, from a random start, in a random order of rows.
        edges = np.cumsum(weights[rows]) * len(rows) / weights.sum()
        picks = np.searchsorted(edges, np.arange(len(rows)) + rng.random(), side="right")
        rows = rng.permutation(rows[np.minimum(picks, len(rows) - 1)])
    measured = np.asarray(lengths)
    batches: list[list[int]] = []
    whole = len(rows) - len(rows) % batch  # a batch that is not full comes last
    for start in range(0, whole, batch * BATCHES_SORTED):
        chunk = rows[start : min(start + batch * BATCHES_SORTED, whole)]
        chunk = chunk[np.argsort(measured[chunk], kind="stable")]
        batches += [chunk[at : at + batch].tolist() for at in range(0, len(chunk), batch)]
    order = [row for index in rng.permutation(len(batches)) for row in batches[index]]
    return order + rows[whole:].tolist()


class RowSampler(Sampler[int]):
    """Rows in `visit_order`, and TRL's repetition of them where there are groups of rollouts.

    Args:
        order: epoch to row numbers.
        repeats: a sampler over positions in that order, such as TRL's `RepeatSampler` without shuffling; None visits each
            position once.
        rows: how many rows there are.
    """

    def __init__(self, order: Callable[[int], list[int]], rows: int, repeats: Any = None) -> None:
        self.order, self.repeats, self.rows = order, repeats, rows
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer when an epoch begins, or is gone on with."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = self.order(self.epoch)
        positions = range(len(order)) if self.repeats is None else self.repeats
        return (order[position] for position in positions)

    def __len__(self) -> int:
        return self.rows if self.repeats is None else len(self.repeats)

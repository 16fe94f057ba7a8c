"""From raters' votes to distributions and plurality labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from shala_audio.data.rows import Row
from shala_audio.distribution import Floats
from shala_audio.errors import UserError


def count_votes(choices: Iterable[Sequence[str]]) -> dict[str, float]:
    """Votes of raters who may each choose several labels: each rater's mass is 1, split evenly.

    >>> count_votes([["joy"], ["joy", "love"]])
    {'joy': 1.5, 'love': 0.5}
    """
    votes: Counter[str] = Counter()
    for labels in choices:
        for label in labels:
            votes[label] += 1 / len(labels)  # type: ignore[assignment]
    return {label: int(count) if float(count).is_integer() else float(count) for label, count in votes.items()}


def to_distribution(votes: Mapping[str, float], labels: Sequence[str]) -> Floats:
    """Share of the votes for each label, shape (K,), in the order of `labels`.

    Raises:
        UserError: a label is not of the task, or there are no votes.
    """
    if unknown := sorted(set(votes) - set(labels)):
        raise UserError(f"votes for {', '.join(unknown)}, which the task does not have")
    counts = np.array([votes.get(label, 0) for label in labels], dtype=np.float64)
    if counts.sum() <= 0:
        raise UserError("no votes")
    return counts / counts.sum()


def plurality(p: Floats) -> int | None:
    """Index of the label with most votes, or None where several share the first place.

    >>> plurality(np.array([0.5, 0.25, 0.25])), plurality(np.array([0.5, 0.5, 0.0]))
    (0, None)
    """
    first = np.flatnonzero(np.isclose(p, p.max(), rtol=0, atol=1e-9))
    return int(first[0]) if len(first) == 1 else None


def human_distributions(rows: Sequence[Row], labels: Sequence[str]) -> Floats:
    """Human distributions of rows that have votes, shape (len(rows), K).

    Raises:
        UserError: a row has no votes or a label that is not of the task; the message names the row.
    """
    distributions = np.empty((len(rows), len(labels)))
    for index, row in enumerate(rows):
        try:
            distributions[index] = to_distribution(row.votes, labels)
        except UserError as error:
            raise UserError(f"row {row.id}: {error}") from None
    return distributions


def mean_distribution(rows: Sequence[Row], labels: Sequence[str]) -> Floats:
    """The constant prior: the mean human distribution of rows, shape (K,)."""
    if not rows:
        raise UserError("no rows to take the mean human distribution of")
    return human_distributions(rows, labels).mean(axis=0)

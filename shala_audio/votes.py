"""From raters' votes to distributions and plurality labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from shala_audio.distribution import Floats, normalized_entropy
from shala_audio.errors import UserError
from shala_audio.manifest import Row


def count_votes(choices: Iterable[Collection[str]]) -> dict[str, float]:
    """Votes of raters who may each choose several labels: each rater's mass is 1, split evenly.

    >>> count_votes([["joy"], ["joy", "love"]])
    {'joy': 1.5, 'love': 0.5}
    """
    votes: Counter[str] = Counter()
    for labels in choices:
        for label in labels:
            votes[label] += 1 / len(labels)  # type: ignore[assignment]
    return {label: int(count) if float(count).is_integer() else float(count) for label, count in votes.items()}


def to_counts(votes: Mapping[str, float], labels: Sequence[str]) -> Floats:
    """Votes for each label, shape (K,), in the order of `labels`.

    Raises:
        UserError: a label is not of the task, or there are no votes.
    """
    if not votes.keys() <= set(labels):
        raise UserError(f"votes for {', '.join(sorted(set(votes) - set(labels)))}, which the task does not have")
    counts = np.array([votes.get(label, 0) for label in labels], dtype=np.float64)
    if counts.sum() <= 0:
        raise UserError("no votes")
    return counts


def to_distribution(votes: Mapping[str, float], labels: Sequence[str]) -> Floats:
    """Share of the votes for each label, shape (K,), in the order of `labels`; raises as `to_counts` does."""
    counts = to_counts(votes, labels)
    return counts / counts.sum()


def plurality(p: Floats) -> int | None:
    """Index of the label with most votes, or None where several share the first place.

    >>> plurality(np.array([0.5, 0.25, 0.25])), plurality(np.array([0.5, 0.5, 0.0]))
    (0, None)
    """
    first = np.flatnonzero(np.isclose(p, p.max(), rtol=0, atol=1e-9))
    return int(first[0]) if len(first) == 1 else None


def vote_counts(rows: Sequence[Row], labels: Sequence[str]) -> Floats:
    """Votes of rows that have any, shape (len(rows), K).

    Raises:
        UserError: a row has no votes or a label that is not of the task; the message names the row.
    """
    counts = np.empty((len(rows), len(labels)))
    for index, row in enumerate(rows):
        try:
            counts[index] = to_counts(row.votes, labels)
        except UserError as error:
            raise UserError(f"row {row.id}: {error}") from None
    return counts


def human_distributions(rows: Sequence[Row], labels: Sequence[str]) -> Floats:
    """Human distributions of rows that have votes, shape (len(rows), K); raises as `vote_counts` does."""
    counts = vote_counts(rows, labels)
    return counts / counts.sum(axis=1, keepdims=True)


def mean_distribution(rows: Sequence[Row], labels: Sequence[str]) -> Floats:
    """The constant prior: the mean human distribution of rows, shape (K,)."""
    if not rows:
        raise UserError("no rows to take the mean human distribution of")
    return human_distributions(rows, labels).mean(axis=0)


def entropy_estimate(counts: ArrayLike, how: str = "plugin", alpha: float = 0.5) -> Floats:
    """Normalised entropy H / log K of what raters would say, estimated from few of them; (rows, K) votes to (rows,).

    The plug-in entropy of a handful of votes is biased low: five raters who agree need not mean that everybody would.

    Args:
        counts: votes, one or more in every row.
        how: "plugin" (entropy of the shares), "miller_madow" (adds (m - 1) / 2N nats for m labels seen among N votes;
            Miller 1955), or "dirichlet" (entropy of the shares with `alpha` votes added to each label).
        alpha: pseudo-votes of "dirichlet"; 0.5 is Jeffreys' prior.

    Returns:
        Values in [0, 1].

    Raises:
        UserError: an unknown estimator, or alpha that is not above 0.

    >>> [float(entropy_estimate([[4, 1]], how).round(3)[0]) for how in ("plugin", "miller_madow", "dirichlet")]
    [0.722, 0.866, 0.811]
    """
    counts = np.asarray(counts, dtype=np.float64)
    total, labels = counts.sum(axis=1, keepdims=True), counts.shape[1]
    if how == "plugin":
        return normalized_entropy(counts / total)
    if how == "miller_madow":
        seen = (counts > 0).sum(axis=1)
        bonus = (seen - 1) / (2 * total[:, 0]) / np.log(labels)
        return np.clip(normalized_entropy(counts / total) + bonus, 0.0, 1.0)
    if how == "dirichlet":
        if not alpha > 0:
            raise UserError(f"ambiguity_alpha is {alpha}; use more than 0")
        return normalized_entropy((counts + alpha) / (total + alpha * labels))
    raise UserError(f"ambiguity_entropy is {how!r}; use plugin, miller_madow or dirichlet")

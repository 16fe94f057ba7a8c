"""Ambiguity weights: rows on which people disagree count for more, the more so while they are not learnt yet.

A row's weight is w = (1 - λ) + λ · H̃, H̃ the human entropy over log K, scaled to mean 1 over the training rows. With
*dynamic* priority H̃ is multiplied by how much of the row is unlearnt: a running mean of 1 - r (r the row's mean reward),
over its mean over the rows; it starts from what the model that is trained says about every row beforehand. λ may move along
a line from the first step to the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from shala_audio.data.votes import entropy_estimate
from shala_audio.distribution import Floats
from shala_audio.errors import UserError, not_one_of
from shala_audio.files import write_beside

KINDS = ("static", "dynamic", "off")
STATE = "ambiguity.safetensors"


@dataclass(frozen=True)
class AmbiguitySettings:
    """How rows are weighted.

    Attributes:
        kind: "static", "dynamic" or "off" (all rows alike).
        strength: λ at the first step, in [0, 1].
        strength_end: λ when training ends, after the last step; the same where None.
        entropy: estimator of H̃: "plugin", "miller_madow" or "dirichlet" (`data.votes.entropy_estimate`).
        alpha: pseudo-votes of "dirichlet".
        memory: share of the old value in the running mean of 1 - r, in [0, 1).
        sampling: draw rows in proportion to their weight, instead of weighting their advantage or loss.
    """

    kind: str = "static"
    strength: float = 0.5
    strength_end: float | None = None
    entropy: str = "plugin"
    alpha: float = 0.5
    memory: float = 0.5
    sampling: bool = False


class AmbiguityWeights:
    """The weights of the training rows, and what dynamic priority remembers of them.

    Args:
        counts: (rows, K) votes.
        settings: how rows are weighted.

    Raises:
        UserError: a setting is out of range, or would leave every weight at 1 or at 0.

    >>> weights = AmbiguityWeights(np.array([[4, 0], [2, 2]]), AmbiguitySettings(strength=0.5))
    >>> weights.all(0.0).round(3).tolist()
    [0.667, 1.333]
    """

    def __init__(self, counts: Floats, settings: AmbiguitySettings) -> None:
        self.settings = settings
        self.entropy = entropy_estimate(counts, settings.entropy, settings.alpha)
        self.unlearnt = np.ones(len(counts))  # running mean of 1 - r
        self.seen = np.zeros(len(counts), dtype=np.int64)
        self._draws: tuple[int, Floats] | None = None  # the weights that an epoch's rows were drawn by
        _check(settings, self.entropy)

    def __len__(self) -> int:
        return len(self.entropy)

    def strength(self, progress: float) -> float:
        """λ after a share of the training, 0 to 1."""
        start, end = self.settings.strength, self.settings.strength_end
        return start if end is None else start + (end - start) * min(max(progress, 0.0), 1.0)

    def all(self, progress: float) -> Floats:
        """Weights of all rows, mean 1, after a share of the training."""
        if self.settings.kind == "off":
            return np.ones(len(self))
        priority = self.entropy
        if self.settings.kind == "dynamic":
            priority = priority * self._relative_unlearnt()
        strength = self.strength(progress)
        raw = (1 - strength) + strength * priority
        return raw / raw.mean() if raw.sum() > 0 else np.ones(len(self))

    def of(self, rows: Any, progress: float) -> Floats:
        """What multiplies the advantage or loss of some rows: their weights, or 1 where rows were drawn by weight."""
        return np.ones(len(rows)) if self.settings.sampling else self.all(progress)[np.asarray(rows)]

    def update(self, rows: Any, gap: Any) -> None:
        """Remember 1 - r of rows that a step has just seen; `gap` in [0, 1] goes with `rows`, which may repeat."""
        rows, gap = np.asarray(rows), np.asarray(gap, dtype=np.float64)
        for row in np.unique(rows):
            now = float(gap[rows == row].mean())
            old = self.unlearnt[row] if self.seen[row] else now
            self.unlearnt[row] = self.settings.memory * old + (1 - self.settings.memory) * now
            self.seen[row] += 1

    def begin(self, gap: Floats) -> None:
        """Start from 1 - r (rows,) of the model before its training: without it, a first pass would know no row."""
        self.unlearnt, self.seen = gap.astype(np.float64), np.ones(len(self), dtype=np.int64)

    def draws(self, epoch: int, progress: float) -> Floats | None:
        """The weights by which an epoch's rows are drawn, fixed when it begins; None where they are not drawn so."""
        if not self.settings.sampling:
            return None
        if self._draws is None or self._draws[0] != epoch:
            self._draws = (epoch, self.all(progress))
        return self._draws[1]

    @property
    def drawn(self) -> tuple[int, Floats] | None:
        """The epoch at hand and the weights (rows,) that its rows were drawn by; None where they are not drawn so."""
        return self._draws

    def statistics(self, weights: Floats) -> dict[str, float]:
        """Spread of weights, and to how many rows of equal weight they amount (Kish's effective size)."""
        found = {
            "weight/mean": float(weights.mean()),
            "weight/max": float(weights.max()),
            "weight/effective_share": float(weights.sum() ** 2 / (len(weights) * np.square(weights).sum() + 1e-12)),
        }
        if self.seen.any():
            found["unlearnt/mean"] = float(self.unlearnt[self.seen > 0].mean())
        return found

    def save(self, folder: str | Path) -> None:
        """Write the state that a resumed run needs into a checkpoint's folder."""
        epoch, drawn = self._draws if self._draws is not None else (-1, np.zeros(0))
        with write_beside(Path(folder) / STATE) as beside:
            save_file(
                {"unlearnt": self.unlearnt, "seen": self.seen, "drawn": drawn, "drawn_epoch": np.array([epoch])}, beside
            )

    def load(self, folder: str | Path) -> None:
        """Read the state back.

        Raises:
            UserError: it is missing, or is of other rows.
        """
        path = Path(folder) / STATE
        if not path.is_file():
            raise UserError(f"{folder}: {STATE} is missing: the checkpoint cannot be gone on from")
        state = load_file(path)
        if len(state["unlearnt"]) != len(self):
            raise UserError(f"{path}: of {len(state['unlearnt'])} rows, but there are {len(self)}")
        self.unlearnt, self.seen = state["unlearnt"], state["seen"]
        epoch = int(state["drawn_epoch"][0])
        self._draws = (epoch, state["drawn"]) if epoch >= 0 else None

    def _relative_unlearnt(self) -> Floats:
        """1 - r over its mean over the rows seen; 1 for rows not seen yet."""
        seen = self.seen > 0
        if not seen.any() or self.unlearnt[seen].mean() <= 0:
            return np.ones(len(self))
        return np.where(seen, self.unlearnt / self.unlearnt[seen].mean(), 1.0)


def _check(settings: AmbiguitySettings, entropy: Floats) -> None:
    """Refuse what cannot work, and what would weight nothing without a word."""
    if settings.kind not in KINDS:
        raise not_one_of("ambiguity", settings.kind, KINDS)
    ends = [settings.strength] if settings.strength_end is None else [settings.strength, settings.strength_end]
    for name, value in zip(("ambiguity_lambda", "ambiguity_lambda_end"), ends, strict=False):
        if not 0 <= value <= 1:
            raise UserError(f"{name} is {value}; use 0 to 1")
    if not 0 <= settings.memory < 1:
        raise UserError(f"ambiguity_memory is {settings.memory}; use 0 or more, below 1")
    if settings.kind == "off":
        if settings.sampling:
            raise UserError("ambiguity_sampling: there are no weights to draw by; set ambiguity to static or dynamic")
        return
    if max(ends) == 0:
        raise UserError("ambiguity_lambda is 0: every weight would be 1; set ambiguity to off, or use more than 0")
    if np.ptp(entropy) < 1e-9 and (settings.kind == "static" or entropy.max() <= 0):
        raise UserError("ambiguity: the raters disagree about every row alike, so every weight is 1; set it to off")

"""Ambiguity weights: rows on which people disagree count for more, the more so while they are not learnt yet.

A row's weight is w = (1 - λ) + λ · H̃, H̃ the human entropy over log K, scaled to mean 1 over the training rows. With
*dynamic* priority H̃ is multiplied by the row's running loss: a running mean of 1 - reward, over its mean over the rows;
it starts from what the model that is trained predicts of every row beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from shala_audio.distribution import Floats
from shala_audio.errors import UserError, not_one_of
from shala_audio.io import atomic_write
from shala_audio.votes import entropy_estimate

KINDS = ("static", "dynamic", "off")
STATE = "ambiguity.safetensors"


@dataclass(frozen=True)
class AmbiguitySettings:
    """How rows are weighted.

    Attributes:
        kind: "static", "dynamic" or "off" (all rows alike).
        lambda_: λ, in [0, 1].
        entropy: estimator of H̃: "plugin", "miller_madow" or "dirichlet" (`votes.entropy_estimate`).
        alpha: pseudo-votes of "dirichlet".
        decay: share of the old value in the running mean of 1 - reward, in [0, 1).
    """

    kind: str = "static"
    lambda_: float = 0.5
    entropy: str = "plugin"
    alpha: float = 0.5
    decay: float = 0.5


class AmbiguityWeights:
    """The weights of the training rows, and their running losses.

    Args:
        counts: (rows, K) votes.
        settings: how rows are weighted.

    Raises:
        UserError: a setting is out of range, or would leave every weight at 1 or at 0.

    >>> weights = AmbiguityWeights(np.array([[4, 0], [2, 2]]), AmbiguitySettings(lambda_=0.5))
    >>> weights.all().round(3).tolist()
    [0.667, 1.333]
    """

    def __init__(self, counts: Floats, settings: AmbiguitySettings) -> None:
        self.settings = settings
        self.entropy = entropy_estimate(counts, settings.entropy, settings.alpha)
        self.running_loss = np.ones(len(counts))  # running mean of 1 - reward
        self.seen = np.zeros(len(counts), dtype=np.int64)
        _check(settings, self.entropy)

    def __len__(self) -> int:
        return len(self.entropy)

    def all(self) -> Floats:
        """Weights of all rows, mean 1."""
        if self.settings.kind == "off":
            return np.ones(len(self))
        priority = self.entropy
        if self.settings.kind == "dynamic":
            priority = priority * self._relative_loss()
        raw = (1 - self.settings.lambda_) + self.settings.lambda_ * priority
        return raw / raw.mean() if raw.sum() > 0 else np.ones(len(self))

    def update(self, rows: Any, losses: Any) -> None:
        """Put what a step has just seen into the running losses; `losses`, 1 - reward in [0, 1], go with `rows`, which may
        repeat."""
        rows, losses = np.asarray(rows), np.asarray(losses, dtype=np.float64)
        for row in np.unique(rows):
            now = float(losses[rows == row].mean())
            old = self.running_loss[row] if self.seen[row] else now
            self.running_loss[row] = self.settings.decay * old + (1 - self.settings.decay) * now
            self.seen[row] += 1

    def begin(self, losses: Floats) -> None:
        """Start from 1 - reward (rows,) of the model before its training: without it, a first pass would know no row."""
        self.running_loss, self.seen = losses.astype(np.float64), np.ones(len(self), dtype=np.int64)

    def statistics(self, weights: Floats) -> dict[str, float]:
        """Spread of weights, and to how many rows of equal weight they amount (Kish's effective size)."""
        found = {
            "weight/mean": float(weights.mean()),
            "weight/max": float(weights.max()),
            "weight/effective_share": float(weights.sum() ** 2 / (len(weights) * np.square(weights).sum() + 1e-12)),
        }
        if self.seen.any():
            found["running_loss/mean"] = float(self.running_loss[self.seen > 0].mean())
        return found

    def save(self, folder: str | Path) -> None:
        """Write the state that a resumed run needs into a checkpoint's folder."""
        with atomic_write(Path(folder) / STATE) as beside:
            save_file({"running_loss": self.running_loss, "seen": self.seen}, beside)

    def load(self, folder: str | Path) -> None:
        """Read the state back.

        Raises:
            UserError: it is missing, or is of other rows.
        """
        path = Path(folder) / STATE
        state = load_file(path) if path.is_file() else {}
        if not {"running_loss", "seen"} <= state.keys():
            raise UserError(f"{folder}: {STATE} is missing or of another version: the checkpoint cannot be resumed")
        if len(state["seen"]) != len(self):
            raise UserError(f"{path}: of {len(state['seen'])} rows, but there are {len(self)}")
        self.running_loss, self.seen = state["running_loss"], state["seen"]

    def _relative_loss(self) -> Floats:
        """Running losses over their mean over the rows seen; 1 for rows not seen yet."""
        seen = self.seen > 0
        if not seen.any() or self.running_loss[seen].mean() <= 0:
            return np.ones(len(self))
        return np.where(seen, self.running_loss / self.running_loss[seen].mean(), 1.0)


def _check(settings: AmbiguitySettings, entropy: Floats) -> None:
    """Refuse what cannot work, and what would weight nothing without a word."""
    if settings.kind not in KINDS:
        raise not_one_of("ambiguity", settings.kind, KINDS)
    if not 0 <= settings.lambda_ <= 1:
        raise UserError(f"ambiguity_lambda is {settings.lambda_}; use 0 to 1")
    if not 0 <= settings.decay < 1:
        raise UserError(f"ambiguity_decay is {settings.decay}; use 0 or more, below 1")
    if settings.kind == "off":
        return
    if settings.lambda_ == 0:
        raise UserError("ambiguity_lambda is 0: every weight would be 1; set ambiguity to off, or use more than 0")
    if np.ptp(entropy) < 1e-9 and (settings.kind == "static" or entropy.max() <= 0):
        raise UserError("ambiguity: the raters disagree about every row alike, so every weight is 1; set it to off")

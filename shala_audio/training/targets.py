"""What a pass learns of each row's votes: all of them, or a random part, and with rare labels counting for more.

Vote dropping and class-balanced soft cross-entropy are what winners of the Interspeech 2025 challenge on naturalistic speech
emotion did; mixing of two clips with their votes is mixup (arXiv 1710.09412) on the encoder's states.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shala_audio.distribution import Floats

MIXING_ALPHA = 0.4  # of the Beta distribution from which a mixture's share is drawn


class Targets:
    """Targets of training rows.

    Args:
        counts: (rows, K) votes.
        class_balance: b: label k counts for prior_k^-b, and a row for the mean of that over its votes. 0: all alike; 1: as if
            every label were chosen equally often.
        vote_dropping: whether each pass leaves out a random part of a row's raters, half at most. Rows whose votes are not
            whole numbers keep all.
        vote_resampling: whether each pass draws as many votes from a row's, with replacement. Of a readout that writes answers,
            the policy then learns a spread around the raters' distribution, which reinforcement learning can explore.
        seed: of what is left out or drawn.

    >>> p, weight = Targets(np.array([[3.0, 1.0], [4.0, 0.0]]), class_balance=1.0).of(np.array([0, 1]), epoch=0)
    >>> [[round(float(x), 3) for x in row] for row in p], [round(float(x), 3) for x in weight]
    ([[0.3, 0.7], [1.0, 0.0]], [1.429, 0.571])
    """

    def __init__(
        self,
        counts: Floats,
        class_balance: float = 0.0,
        vote_dropping: bool = False,
        vote_resampling: bool = False,
        seed: int = 0,
    ) -> None:
        self.counts, self.seed = counts, seed
        self.vote_dropping, self.vote_resampling = vote_dropping, vote_resampling
        shares = counts / counts.sum(axis=1, keepdims=True)
        prior = np.maximum(shares.mean(axis=0), 1e-4)
        self.label_weights = prior**-class_balance
        self.label_weights /= (shares @ self.label_weights).mean()

    def of(self, rows: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor]:
        """Distributions (B, K) and weights (B,) of rows by their number, float32."""
        counts = self.counts[rows]
        if self.vote_dropping or self.vote_resampling:
            counts = np.stack([self._some(int(number), epoch) for number in rows])
        weighted = counts / counts.sum(axis=1, keepdims=True) * self.label_weights
        weight = weighted.sum(axis=1)
        return torch.tensor(weighted / weight[:, None]).float(), torch.tensor(weight).float()

    def _some(self, row: int, epoch: int) -> Floats:
        """A row's votes as this pass has them."""
        counts = self.counts[row]
        rng = np.random.default_rng([self.seed, epoch, row])
        if self.vote_resampling:
            return np.asarray(rng.multinomial(max(1, round(counts.sum())), counts / counts.sum()), dtype=np.float64)
        raters = int(counts.sum())
        if raters < 2 or not np.array_equal(counts, np.floor(counts)):
            return counts
        kept = int(rng.integers(-(-raters // 2), raters + 1))
        return np.asarray(rng.multivariate_hypergeometric(counts.astype(np.int64), kept), dtype=np.float64)


def mix(features: Tensor, lengths: Tensor, p: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mix a share of a batch's clips with another clip of it, and their targets with the other's.

    Args:
        features: (B, S, T, D); the other clip is cut off, or filled up with nothing, to a clip's length.
        lengths: (B,) frames.
        p: (B, K).
        share: of clips that are mixed.
        rng: draws which, with which, and how much of each; the clip itself counts for half or more.
    """
    batch = len(features)
    portion = rng.beta(MIXING_ALPHA, MIXING_ALPHA, batch)
    portion = np.where(rng.random(batch) < share, np.maximum(portion, 1 - portion), 1.0)
    own = torch.tensor(portion, dtype=torch.float32)
    other = torch.from_numpy(rng.permutation(batch))
    inside = (torch.arange(features.shape[2]) < lengths[:, None])[:, None, :, None]
    weights = own.to(features.dtype)[:, None, None, None]
    mixed = (weights * features + (1 - weights) * features[other]) * inside
    return mixed, own[:, None] * p + (1 - own)[:, None] * p[other]

"""Losses on log-probabilities over the K labels: the exact SHALA objective, and the soft cross-entropy it warms up with.

The exact objective is the limit of a sampled policy. Let a label be drawn, y ~ q, and earn r(y) = ½ log(m_y / q_y) with
m = (p + q) / 2; then -E[r(y) ∇ log q_y] = ∇ D(p, q), D the Jensen-Shannon divergence: GRPO on drawn labels has this
gradient in expectation (times (G - 1) / G with the group's mean as baseline).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def js_divergence(p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats, (B,), in [0, log 2].

    Args:
        p: (B, K) human distributions, zeros allowed.
        log_q: (B, K) the model's log-probabilities, finite.
    """
    q = log_q.exp()
    log_m = ((p + q) / 2).clamp(min=torch.finfo(q.dtype).tiny).log()
    human = torch.xlogy(p, p) - p * log_m
    model = q * (log_q - log_m)
    return ((human + model).sum(dim=-1) / 2).clamp(min=0.0)


def js_distance(divergence: Tensor) -> Tensor:
    """Jensen-Shannon distance with base 2 of a divergence in nats, (B,), in [0, 1].

    The root's gradient is endless at 0, where nothing is left to learn: below 1e-6 nats it is replaced by a line.

    >>> js_distance(torch.tensor([0.0, 0.6931472])).tolist()
    [0.0, 1.0]
    """
    bits = divergence / math.log(2.0)
    small = 1e-6
    return torch.where(bits > small, bits.clamp(min=small).sqrt(), bits / small**0.5)


def soft_cross_entropy(p: Tensor, log_q: Tensor) -> Tensor:
    """Cross-entropy of the human distribution and the model's, in nats, (B,)."""
    return -(p * log_q).sum(dim=-1)


def concordance_loss(stated: Tensor, true: Tensor) -> Tensor:
    """1 less Lin's concordance correlation coefficient (Biometrics 1989) over a batch, averaged over attributes.

    Args:
        stated: (B, A).
        true: (B, A), NaN where a row has no value; an attribute that fewer than two rows have counts as 0.
    """
    losses = []
    for x, y in zip(stated.T, true.T, strict=True):
        known = ~y.isnan()
        x, y = x[known], y[known]
        if len(x) < 2:
            losses.append(stated.sum() * 0)
            continue
        covariance = ((x - x.mean()) * (y - y.mean())).mean()
        spread = x.var(correction=0) + y.var(correction=0) + (x.mean() - y.mean()).square()
        losses.append(1 - 2 * covariance / spread.clamp(min=1e-8))
    return torch.stack(losses).mean()


def marginal_reward(p: Tensor, log_q: Tensor) -> Tensor:
    """Reward of each label under the exact objective's sampled form, ½ log(m / q), (B, K), without gradient."""
    q = log_q.exp()
    return (((p + q) / 2).log() - log_q).detach() / 2

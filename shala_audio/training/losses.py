"""Losses on log-probabilities over the K labels.

SHALA with a readout that has them is a *direct objective*: the divergence itself, differentiated, with nothing drawn. What
links it to the policy gradient: let a label be drawn, y ~ q, and earn r(y) = ½ log(m_y / q_y) with m = (p + q) / 2; then
-E[r(y) ∇ log q_y] = ∇ D(p, q), D the Jensen-Shannon divergence. So the direct objective has the gradient that a policy of
single labels has in expectation under this reward (times (G - 1) / G with a group's mean as baseline), and not that of
GRPO on distributions that are drawn or written.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

JOINT = 1e-6  # bits, below which the distance's root is continued by a parabola


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

    The root's slope is infinite at 0, where nothing is left to learn: below 1e-6 bits a parabola through 0 continues it,
    with the same value and slope where they meet.

    >>> js_distance(torch.tensor([0.0, 0.6931472])).tolist()
    [0.0, 1.0]
    """
    bits = divergence / math.log(2.0)
    part = bits / JOINT
    return torch.where(bits > JOINT, bits.clamp(min=JOINT).sqrt(), math.sqrt(JOINT) * part * (3 - part) / 2)


def ranked_probability_score(p: Tensor, log_q: Tensor) -> Tensor:
    """Mean squared distance of cumulative shares, for labels in an order, (B,), in [0, 1] (Epstein 1969).

    >>> ranked_probability_score(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.5, 0.5, 1e-9]]).log()).tolist()
    [0.125]
    """
    gap = (p - log_q.exp()).cumsum(dim=-1)[:, :-1]
    return gap.square().mean(dim=-1)


def concordance_loss(predicted: Tensor, true: Tensor) -> Tensor:
    """1 less Lin's concordance correlation coefficient (Biometrics 1989) over a batch, averaged over attributes.

    Args:
        predicted: (B, A).
        true: (B, A), NaN where a row has no value; an attribute that fewer than two rows have counts as 0.
    """
    losses = []
    for x, y in zip(predicted.T, true.T, strict=True):
        known = ~y.isnan()
        x, y = x[known], y[known]
        if len(x) < 2:
            losses.append(predicted.sum() * 0)
            continue
        covariance = ((x - x.mean()) * (y - y.mean())).mean()
        spread = x.var(correction=0) + y.var(correction=0) + (x.mean() - y.mean()).square()
        losses.append(1 - 2 * covariance / spread.clamp(min=1e-8))
    return torch.stack(losses).mean()

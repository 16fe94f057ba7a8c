"""GRPO on single labels, with the readout `label_token`: an answer is one label, drawn from the model's distribution.

It is how a language model is usually rewarded for a label, and what the exact objective is compared with. All G labels of a
prompt are drawn after the one forward pass that gives their probabilities, so rollouts need no further one.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from shala_audio.models.readouts.verbalized import write_answer
from shala_audio.training.rewards import REWARDS


def label_rewards(reward: str, human: Tensor) -> Tensor:
    """What each label alone earns as an answer, (B, K).

    Args:
        reward: a name in `REWARDS`.
        human: (B, K) distributions of the raters.

    >>> label_rewards("majority", torch.tensor([[0.2, 0.8]])).tolist()
    [[0.0, 1.0]]
    """
    earned = [_rewards_of(reward, tuple(people)) for people in human.tolist()]
    return torch.tensor(earned, dtype=torch.float32, device=human.device)


@lru_cache(maxsize=100_000)  # a row comes every pass, and rows of few votes are often alike
def _rewards_of(reward: str, people: tuple[float, ...]) -> list[float]:
    names = [str(label) for label in range(len(people))]  # numbers, since no text has to be written
    answers = [write_answer(alone, names) for alone in np.eye(len(names)).tolist()]
    return REWARDS[reward](names)(completions=answers, human=[people] * len(names))


def draw_labels(log_q: Tensor, group: int) -> Tensor:
    """Numbers (B, G) of labels drawn from log-probabilities (B, K)."""
    return torch.multinomial(log_q.detach().float().exp(), group, replacement=True)


def advantages(earned: Tensor, scale: str) -> Tensor:
    """Rewards (B, G) less the mean of their group, over a standard deviation, as TRL's `GRPOTrainer` has it.

    Args:
        scale: "group" or "batch", whose deviation it is, or "none". A batch is what goes through the model at once, in all
            processes; TRL's is what is generated at once.

    >>> advantages(torch.tensor([[1.0, 0.0]]), "none").tolist()
    [[0.5, -0.5]]
    """
    centred = earned - earned.mean(dim=1, keepdim=True)
    if scale == "none":
        return centred
    deviation = earned.std() if scale == "batch" else earned.std(dim=1, keepdim=True)
    return centred / (deviation + 1e-4)


def policy_loss(log_q: Tensor, drawn: Tensor, advantage: Tensor) -> Tensor:
    """GRPO's loss of each row, (B,): minus the advantage times the ratio to the policy that drew, which is this one, so that
    the ratio is 1 and only its gradient counts.

    Args:
        log_q: (B, K) log-probabilities.
        drawn, advantage: (B, G).
    """
    log_ratio = log_q.gather(1, drawn)
    return -(advantage * (log_ratio - log_ratio.detach()).exp()).mean(dim=1)

"""Rewards for sampled answers, as plain functions that TRL's trainers take.

Each maker takes the task's labels and returns a function of `completions` (texts) and `human` (for each of them a
distribution over the labels, or their votes, which are divided by their sum), and of TRL's further keywords:

    from shala_audio.training import jsd_reward
    GRPOTrainer(model, reward_funcs=[jsd_reward(["anger", "fear"])], ...)    # rows hold `prompt` and `human`

An answer that states no distribution (`models.readouts.verbalized.parse_answer`) earns `invalid`: 0 by default, as in the
paper (arXiv 2606.05376), which is also the least that a valid answer can earn; below 0 punishes it beyond that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from shala_audio.distribution import Floats, bhattacharyya, jsd
from shala_audio.errors import UserError
from shala_audio.models.readouts.verbalized import parse_answer

Reward = Callable[..., list[float]]
Completion = str | Sequence[Mapping[str, str]]  # a text, or the messages that TRL passes for chat prompts


def jsd_reward(labels: Sequence[str], invalid: float = 0.0) -> Reward:
    """1 - Jensen-Shannon distance (base 2) to the raters, in [0, 1].

    Raises (as every reward of this module does):
        UserError: a row of `human` is no distribution or counts of votes over the labels.

    >>> reward = jsd_reward(["a", "b"])
    >>> reward(completions=['{"a": 50, "b": 50}', "no idea"], human=[[0.5, 0.5], [0.5, 0.5]])
    [1.0, 0.0]
    """
    return _reward("jsd_to_humans", lambda people, answer: 1.0 - float(jsd(people, answer)), labels, invalid)


def bhattacharyya_reward(labels: Sequence[str], invalid: float = 0.0) -> Reward:
    """Bhattacharyya coefficient with the raters, in [0, 1]."""
    return _reward("bhattacharyya", lambda people, answer: float(bhattacharyya(people, answer)), labels, invalid)


def brier_reward(labels: Sequence[str], invalid: float = 0.0) -> Reward:
    """1 - half the squared distance to the raters' distribution, in [0, 1] (Brier 1950, for distributions).

    >>> brier_reward(["a", "b"])(completions=['{"a": 100, "b": 0}'], human=[[0.0, 1.0]])
    [0.0]
    """
    return _reward("brier", lambda people, answer: 1.0 - float(np.square(people - answer).sum()) / 2, labels, invalid)


def majority_reward(labels: Sequence[str], invalid: float = 0.0) -> Reward:
    """1 where the answer's first label is the raters' first, else 0: what training on single labels rewards.

    Of several labels in the first place any will do; an answer that shares its first place among m labels earns the share
    of them that are right.

    >>> majority_reward(["a", "b"])(completions=['{"a": 60, "b": 40}', '{"a": 50, "b": 50}'], human=[[0.9, 0.1]] * 2)
    [1.0, 0.5]
    """

    def agreement(people: Floats, answer: Floats) -> float:
        first, wanted = (np.isclose(p, p.max(), rtol=0, atol=1e-9) for p in (answer, people))
        return float((first & wanted).sum() / first.sum())

    return _reward("majority", agreement, labels, invalid)


REWARDS: dict[str, Callable[..., Reward]] = {
    "jsd": jsd_reward,
    "bhattacharyya": bhattacharyya_reward,
    "brier": brier_reward,
    "majority": majority_reward,
}


def _reward(name: str, judge: Callable[[Floats, Floats], float], labels: Sequence[str], invalid: float) -> Reward:
    def reward(completions: Sequence[Completion], human: Sequence[Sequence[float]], **_: Any) -> list[float]:
        answers = [parse_answer(text_of(completion), labels) for completion in completions]
        voted = [_distribution(people, labels) for people in human]  # checked also where the answer is invalid
        return [
            invalid if answer is None else judge(people, answer) for answer, people in zip(answers, voted, strict=True)
        ]

    reward.__name__ = name  # TRL logs it under this name
    return reward


def _distribution(people: Sequence[float], labels: Sequence[str]) -> Floats:
    found = np.asarray(people, dtype=np.float64)
    if found.shape != (len(labels),) or not (np.isfinite(found).all() and found.min() >= 0 and found.sum() > 0):
        raise UserError(
            f"human: {people} is no distribution over the {len(labels)} labels; give a share or a count for each, in order"
        )
    return found / found.sum()


def text_of(completion: Completion) -> str:
    """What was written."""
    return completion if isinstance(completion, str) else completion[-1]["content"]

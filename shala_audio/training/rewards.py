"""Rewards for sampled answers, as plain functions that TRL's trainers take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shala_audio.distribution import jsd
from shala_audio.models.readouts.verbalized import parse_answer


def jsd_reward(labels: Sequence[str]) -> Callable[..., list[float]]:
    """A reward function: 1 - jsd(human, answer), in [0, 1]; 0 for an answer that does not parse.

    Args:
        labels: the task's labels in order.

    Returns:
        A function of `completions` (texts) and `human` (a distribution for each of them), and of TRL's further keywords.

    >>> reward = jsd_reward(["a", "b"])
    >>> reward(completions=['{"a": 50, "b": 50}', "no idea"], human=[[0.5, 0.5], [0.5, 0.5]])
    [1.0, 0.0]
    """

    def jsd_to_humans(completions: Sequence[str], human: Sequence[Sequence[float]], **_: Any) -> list[float]:
        answers = [parse_answer(completion, labels) for completion in completions]
        return [
            0.0 if answer is None else 1.0 - float(jsd(np.asarray(people), answer))
            for answer, people in zip(answers, human, strict=True)
        ]

    return jsd_to_humans

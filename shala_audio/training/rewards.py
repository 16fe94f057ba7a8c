"""Rewards of drawn answers: arrays of distributions in, one number for each answer out.

Each function takes the raters' distributions and those that answers state, both (n, K), and returns rewards (n,) in [0,
1]. A row of NaN, an answer that states nothing, earns NaN: `earned` puts what it earns there, 0 by default, as in the
paper (arXiv 2606.05376).

For TRL's own trainers the same rewards are made by `jsd_reward`, `brier_reward`, `log_reward` and `majority_reward`, of written JSON:

    from shala_audio.training import jsd_reward
    GRPOTrainer(model, reward_funcs=[jsd_reward(["anger", "fear"])], ...)    # rows hold `prompt` and `human`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shala_audio.distribution import Floats, jsd
from shala_audio.errors import UserError
from shala_audio.models.readouts.slots import from_percent
from shala_audio.models.readouts.verbalized import parse_answers

LOG_FLOOR = 0.01  # one per cent, the least that written answers tell apart from nothing
Completion = str | Sequence[Mapping[str, str]]  # a text, or the messages that TRL passes for chat prompts


def jsd_to_raters(human: Floats, stated: Floats) -> Floats:
    """1 - Jensen-Shannon distance (base 2): the paper's.

    >>> jsd_to_raters(np.array([[0.5, 0.5]]), np.array([[0.5, 0.5]])).tolist()
    [1.0]
    """
    return 1.0 - jsd(human, stated)


def brier(human: Floats, stated: Floats) -> Floats:
    """1 - half the squared distance (Brier 1950): a proper score, so honest shares earn most in expectation.

    >>> brier(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])).tolist()
    [0.0]
    """
    return 1.0 - np.square(human - stated).sum(axis=-1) / 2


def log_score(human: Floats, stated: Floats) -> Floats:
    """The logarithmic score, scaled: 1 - cross-entropy over -log of the floor, which no share of an answer falls below.

    Proper above the floor, like `brier`; of the three it minds most what an answer leaves out.

    >>> log_score(np.array([[0.0, 1.0]] * 3), np.array([[0.0, 1.0], [0.9, 0.1], [1.0, 0.0]])).round(3).tolist()
    [1.0, 0.5, 0.0]
    """
    found: Floats = 1.0 - (human * np.log(np.maximum(stated, LOG_FLOOR))).sum(axis=-1) / np.log(LOG_FLOOR)
    return found


def majority(human: Floats, stated: Floats) -> Floats:
    """1 where the answer's first label is the raters' first, else 0: what training on single labels rewards.

    Of several labels in the first place any will do; an answer that shares its first place among m labels earns the share
    of them that are right.

    >>> majority(np.array([[0.9, 0.1]] * 2), np.array([[0.6, 0.4], [0.5, 0.5]])).tolist()
    [1.0, 0.5]
    """
    wanted, first = (p >= p.max(axis=-1, keepdims=True) - 1e-9 for p in (human, stated))
    found: Floats = (first & wanted).sum(axis=-1) / np.maximum(first.sum(axis=-1), 1)
    return np.where(np.isnan(stated).any(axis=-1), np.nan, found)


REWARDS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "jsd": jsd_to_raters,
    "brier": brier,
    "log": log_score,
    "majority": majority,
}


def earned(reward: str, human: Floats, stated: Floats, invalid: float) -> Floats:
    """Rewards (n,) by name; `invalid` where an answer states nothing."""
    with np.errstate(invalid="ignore"):
        found = REWARDS[reward](human, stated)
    return np.where(np.isnan(stated).any(axis=-1), invalid, found)


def every_digit(reward: str, human: Floats, digits: NDArray[np.int64], group: int = 1, shared: float = 0.0) -> Floats:
    """Rewards of answers in which one digit is another: for every place, all ten, the others held.

    Args:
        reward: its name.
        human: (n, K) of each answer's prompt.
        digits: (n, K, 2) tens and units of each label's per cent.
        group: neighbours that answer the same prompt.
        shared: share of the reward that is of the mean of the group's distributions, which is what a prediction is. It counts
            `group` times, because one answer moves the mean by so much less.

    Returns:
        (n, 2 K, 10).

    >>> found = every_digit("jsd", np.array([[0.2, 0.8]]), np.array([[[1, 0], [8, 0]]]))
    >>> found.shape, int(found[0, 0].argmax())
    ((1, 4, 10), 2)
    """
    labels = digits.shape[1]
    percent = (digits @ [10, 1]).astype(np.float64)
    others = np.tile(percent[:, None, None, :], (1, 2 * labels, 10, 1))
    for label in range(labels):
        others[:, 2 * label, :, label] = 10 * np.arange(10) + digits[:, None, label, 1]
        others[:, 2 * label + 1, :, label] = 10 * digits[:, None, label, 0] + np.arange(10)
    stated = _distributions(others)
    people = human[:, None, None, :]
    found = REWARDS[reward](people, stated)
    if shared:
        own = _distributions(percent)
        mean = own.reshape(-1, group, labels).mean(axis=1).repeat(group, axis=0)
        moved = mean[:, None, None, :] + (stated - own[:, None, None, :]) / group
        found = (1 - shared) * found + shared * group * REWARDS[reward](people, np.clip(moved, 0.0, 1.0))
    return found


def _distributions(percent: Floats) -> Floats:
    found: Floats = from_percent(torch.from_numpy(percent)).numpy()
    return found


def jsd_reward(labels: Sequence[str], invalid: float = 0.0) -> Callable[..., list[float]]:
    """For TRL: 1 - jsd of written JSON.

    The function takes `completions` and `human`: for each a distribution over the labels, or counts of votes.

    Raises (the function):
        UserError: a row of `human` is no distribution or counts of votes over the labels.

    >>> reward = jsd_reward(["a", "b"])
    >>> reward(completions=['{"a": 50, "b": 50}', "no idea"], human=[[0.5, 0.5], [0.5, 0.5]])
    [1.0, 0.0]
    """
    return _of_json("jsd", labels, invalid)


def brier_reward(labels: Sequence[str], invalid: float = 0.0) -> Callable[..., list[float]]:
    """For TRL: `brier` of written JSON; otherwise as `jsd_reward`."""
    return _of_json("brier", labels, invalid)


def log_reward(labels: Sequence[str], invalid: float = 0.0) -> Callable[..., list[float]]:
    """For TRL: `log_score` of written JSON; otherwise as `jsd_reward`."""
    return _of_json("log", labels, invalid)


def majority_reward(labels: Sequence[str], invalid: float = 0.0) -> Callable[..., list[float]]:
    """For TRL: `majority` of written JSON; otherwise as `jsd_reward`."""
    return _of_json("majority", labels, invalid)


def _of_json(name: str, labels: Sequence[str], invalid: float) -> Callable[..., list[float]]:
    def reward(completions: Sequence[Completion], human: Sequence[Sequence[float]], **_: Any) -> list[float]:
        texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
        stated = parse_answers(texts, labels)
        voted = np.stack([_distribution(people, labels) for people in human])
        return earned(name, voted, stated, invalid).tolist()

    reward.__name__ = f"{name}_to_raters"  # TRL logs it under this name
    return reward


def _distribution(people: Sequence[float], labels: Sequence[str]) -> Floats:
    found = np.asarray(people, dtype=np.float64)
    if found.shape != (len(labels),) or not (np.isfinite(found).all() and found.min() >= 0 and found.sum() > 0):
        raise UserError(
            f"human: {people} is no distribution over the {len(labels)} labels; give a share or a count for each, in order"
        )
    return found / found.sum()

"""Trainers, losses, rewards and ambiguity weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shala_audio.training.rewards import brier_reward, jsd_reward, log_reward, majority_reward

__all__ = ["brier_reward", "jsd_reward", "log_reward", "majority_reward"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from shala_audio.training import rewards  # torch loads only when one is wanted

    return getattr(rewards, name)

"""Rewards, ambiguity weights, the exact objective, the warm start and the SHALA trainer."""

from shala_audio.training.rewards import bhattacharyya_reward, brier_reward, jsd_reward, majority_reward

__all__ = ["bhattacharyya_reward", "brier_reward", "jsd_reward", "majority_reward"]

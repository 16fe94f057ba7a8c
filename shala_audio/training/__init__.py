"""Rewards, ambiguity weights, the exact objective, the warm start and the SHALA trainer."""

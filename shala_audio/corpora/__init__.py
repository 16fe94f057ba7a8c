"""Manifests, votes, splits and one module for each corpus. No torch."""

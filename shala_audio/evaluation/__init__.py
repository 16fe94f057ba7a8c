"""Measures, scoring and tables. No torch."""

"""Validation, metrics, and the comparison of methods."""

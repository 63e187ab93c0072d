"""Validation, metrics, and comparison of methods."""

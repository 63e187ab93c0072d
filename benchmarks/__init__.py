"""Measures speed and memory against plain implementations of the papers' formulas."""

"""BasicSR models: one for each network, and the comparison of methods."""

"""Plain implementations of the papers' formulas, as reference for tests and benchmarks.

NCHW and ``nn.Conv2d`` throughout; every intermediate result is computed as in the formulas.
State-dict entries are those of the networks in ``rescale_arch``, so their weights load.
"""

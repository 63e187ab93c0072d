"""The papers' formulas written down plainly: oracle of the tests, yardstick of the benchmarks.

NCHW and ``nn.Conv2d`` throughout, every intermediate result formed as the formula has it. The
entries of the state dicts are those of the networks in ``rescale_arch``, whose weights load.
"""

"""Which scale an iteration trains."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


class ScaleSchedule:
    """One scale an iteration, drawn from a grid with probability ~ ``scale ** power``.

    The draw is a function of (seed, iteration) alone: the same on every rank of a distributed run
    and the same after a resume.

    Args:
        low: smallest scale of the grid, over 1.
        high: largest scale, at most 4.
        step: distance between neighbours of the grid.
        power: exponent of the probability; the paper's 2 favours large factors, which are hard.
        integer_iter: the first iterations draw from the integers of the range only (the paper: one
            epoch).
        seed: see above.

    Raises:
        ValueError: the range is empty or leaves (1, 4], or ``step`` is not 0.001 to 4.
    """

    def __init__(
        self,
        low: float = 1.1,
        high: float = 4.0,
        step: float = 0.1,
        power: float = 2.0,
        integer_iter: int = 0,
        seed: int = 0,
    ) -> None:
        if not 1 < low <= high <= 4:
            raise ValueError(f"scales low {low} and high {high}: valid is 1 < low <= high <= 4")
        if not 1e-3 <= step <= 4:
            raise ValueError(f"scales step {step}: valid is 0.001 to 4")
        count = int((high - low) / step + 1e-6) + 1
        # rounded, so that 1.1 + 14 * 0.1 is the 2.5 that a user would write
        grid = np.round(low + step * np.arange(count), 6).clip(low, high)
        integers = np.arange(np.ceil(low), np.floor(high) + 1)
        if integer_iter and not integers.size:
            raise ValueError(f"scales integer_iter: no integer lies between {low} and {high}")
        self._seed = seed
        self._integer_iter = integer_iter
        self._integers = (integers, _normalised(integers**power))
        self._grid = (grid, _normalised(grid**power))

    def __call__(self, iteration: int) -> float:
        """The scale of ``iteration``, which counts from 1."""
        scales, probabilities = self._integers if iteration <= self._integer_iter else self._grid
        generator = np.random.default_rng((self._seed, iteration))
        return float(generator.choice(scales, p=probabilities))


def _normalised(weights: FloatArray) -> FloatArray:
    total: FloatArray = weights / weights.sum()
    return total

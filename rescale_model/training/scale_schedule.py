"""The schedule of training scales."""

from __future__ import annotations

from rescale_compat.errors import RescaleError

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


class ScaleSchedule:
    """One scale per iteration, sampled from a grid with probability ~ ``scale ** power``.

    The sample is a function of (seed, iteration) only: the same on every rank of a distributed run
    and after resuming.

    Args:
        low: smallest scale of the grid, above 1.
        high: largest scale, at most 4.
        step: distance between neighboring scales.
        power: exponent of the probability; 2, as in the paper, favors large factors, which are
            harder.
        integer_iter: number of initial iterations that use only the integers in the range (one
            epoch in the paper).
        seed: see above.

    Raises:
        ValueError: the range is empty or not within (1, 4], or ``step`` is not 0.001 to 4.
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
            raise RescaleError(f"scales low {low} and high {high}: expected 1 < low <= high <= 4")
        if not 1e-3 <= step <= 4:
            raise RescaleError(f"scales step {step}: expected 0.001 to 4")
        count = int((high - low) / step + 1e-6) + 1
        # rounded, so that 1.1 + 14 * 0.1 equals 2.5
        grid = np.round(low + step * np.arange(count), 6).clip(low, high)
        integers = np.arange(np.ceil(low), np.floor(high) + 1)
        if integer_iter and not integers.size:
            raise RescaleError(f"scales integer_iter: no integer lies between {low} and {high}")
        self._seed = seed
        self._integer_iter = integer_iter
        self._integers = (integers, _normalized(integers**power))
        self._grid = (grid, _normalized(grid**power))

    def __call__(self, iteration: int) -> float:
        """Returns the scale of ``iteration``, counted from 1."""
        scales, probabilities = self._integers if iteration <= self._integer_iter else self._grid
        generator = np.random.default_rng((self._seed, iteration))
        return float(generator.choice(scales, p=probabilities))


def _normalized(weights: FloatArray) -> FloatArray:
    total: FloatArray = weights / weights.sum()
    return total

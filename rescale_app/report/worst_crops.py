"""The crops with the largest errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from rescale_app.report.results import Outcome

SIZE = 96
"""Side of a crop in pixels; smaller images are a single crop."""

_STEP = 24


@dataclass(frozen=True, eq=False)
class Crop:
    """A crop of an image and its restored version.

    Attributes:
        error: mean squared error of the crop, in 8-bit levels.
        outcome: the result that it is cropped from.
        top: first row.
        left: first column.
        original: (h, w, 3) RGB.
        restored: the same shape.
    """

    error: float
    outcome: Outcome
    top: int
    left: int
    original: NDArray[np.uint8]
    restored: NDArray[np.uint8]

    @property
    def psnr(self) -> float:
        """PSNR of the crop, RGB."""
        return 10 * math.log10(255**2 / self.error)

    def overlaps(self, other: Crop) -> bool:
        """Whether the two share pixels, assuming that they are of the same image."""
        height: int = self.original.shape[0]
        width: int = self.original.shape[1]
        return abs(self.top - other.top) < height and abs(self.left - other.left) < width


def worst_crops(
    original: NDArray[np.uint8], restored: NDArray[np.uint8], outcome: Outcome, most: int
) -> list[Crop]:
    """The crops with the largest errors that do not overlap, worst first.

    Args:
        original: (H, W, 3) RGB.
        restored: the same shape.
        outcome: the result that they are cropped from.
        most: maximum number of crops; fewer are returned for small images and few errors.
    """
    difference = original.astype(np.float32) - restored
    sums = cv2.integral(np.square(difference, out=difference).sum(axis=2))  # exact: integers
    height, width = (min(SIZE, side) for side in original.shape[:2])
    tops, lefts = _starts(original.shape[0], height), _starts(original.shape[1], width)
    lower, upper = sums[tops + height], sums[tops]
    errors = lower[:, lefts + width] - lower[:, lefts] - upper[:, lefts + width] + upper[:, lefts]
    errors /= height * width * 3

    def candidates() -> Iterator[Crop]:
        for index in np.argsort(-errors, axis=None):
            row, column = np.unravel_index(index, errors.shape)
            top, left = int(tops[row]), int(lefts[column])
            there = slice(top, top + height), slice(left, left + width)
            if errors[row, column] > 0:
                error = float(errors[row, column])
                yield Crop(error, outcome, top, left, original[there], restored[there])

    crops = without_overlap(candidates(), most)
    # copies, since views would keep the whole images in memory
    return [replace(c, original=c.original.copy(), restored=c.restored.copy()) for c in crops]


def without_overlap(crops: Iterable[Crop], most: int) -> list[Crop]:
    """The first ``most`` crops of an image that do not overlap previous ones."""
    taken: list[Crop] = []
    for crop in crops:
        if len(taken) == most:
            break
        if not any(map(crop.overlaps, taken)):
            taken.append(crop)
    return taken


def _starts(length: int, size: int) -> NDArray[np.intp]:
    """Where windows begin: at every step, and the last one at the end."""
    return np.unique(np.append(np.arange(0, length - size + 1, _STEP), length - size))

"""Images as arrays: validation of the input of `Rescaler`, and conversion to 8 bits."""

from __future__ import annotations

from typing import Any

from rescale_compat.errors import RescaleError

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rescale_data.image_file import to_float
from rescale_data.pixels import Pixels


class RescaleWarning(UserWarning):
    """Warns that the result is likely to be poor or slow to compute, or that something is lost."""


def checked(image: ArrayLike) -> NDArray[Any]:
    """Checks ``image`` and returns it as (H, W, 3) with unchanged samples.

    Args:
        image: (H, W, 3) RGB or (H, W) gray; uint8, uint16, or float in [0, 1].

    Raises:
        ValueError: the shape, type or range is unsupported.
    """
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None].repeat(3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise RescaleError(f"image has shape {array.shape}: expected (H, W, 3) RGB or (H, W)")
    if array.dtype not in (np.uint8, np.uint16):
        if not np.issubdtype(array.dtype, np.floating):
            raise RescaleError(f"image is {array.dtype}: expected uint8, uint16 or float")
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # also true for NaN
            raise RescaleError(f"image has samples from {low:g} to {high:g}: expected [0, 1]")
    return array


def eight_bit(array: NDArray[Any]) -> Pixels:
    """Converts an array returned by `checked` to uint8, rounding to the nearest level."""
    return with_depth(array, 8)


def with_depth(array: NDArray[Any], depth: int) -> NDArray[Any]:
    """Converts an array returned by `checked` to 8 or 16 bits, rounding to the nearest level."""
    kind = np.uint8 if depth == 8 else np.uint16
    if array.dtype == kind:
        return array
    pixels = np.empty(array.shape, kind)
    for row, samples in zip(
        pixels, array, strict=True
    ):  # converts one row at a time to save memory
        row[:] = (to_float(samples) * (2**depth - 1)).round()
    return pixels

"""Images of the error of each pixel, in colours."""

from __future__ import annotations

import io

from rescale_compat.errors import RescaleError

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST = 32
"""Errors of this size or larger, in 8-bit levels, have the last colour."""

COLORS = (
    "#000004",
    "#1b0c41",
    "#4a0c6b",
    "#781c6d",
    "#a52c60",
    "#cf4446",
    "#ed6925",
    "#fb9b06",
    "#f7d13d",
    "#fcffa4",
)
"""Colours at even steps from no error to `MOST`, interpolated linearly."""


def error_levels(reference: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The largest absolute error of each pixel's samples.

    Args:
        reference: (H, W, 3) uint8.
        other: the same shape.

    Returns:
        (H, W) uint8, in 8-bit levels.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != other.shape:
        raise RescaleError(f"images differ in shape: {reference.shape} and {other.shape}")
    # in uint8: wider types would need several times the memory
    errors = np.maximum(reference, other) - np.minimum(reference, other)
    levels: NDArray[np.uint8] = errors.max(axis=2)
    return levels


def error_image(levels: NDArray[np.uint8]) -> bytes:
    """A PNG file of `error_levels` in colours from 0 to `MOST`."""
    image = Image.fromarray(np.minimum(levels, MOST))
    image.putpalette(_palette())
    data = io.BytesIO()
    image.save(data, "PNG", compress_level=3)
    return data.getvalue()


def _palette() -> list[int]:
    """R, G, B of the levels from 0 to `MOST`, one after another."""
    anchors = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in COLORS])
    at = np.linspace(0, MOST, len(COLORS))
    columns = [np.interp(np.arange(MOST + 1), at, anchors[:, i]) for i in range(3)]
    return [round(float(value)) for value in np.stack(columns, axis=1).ravel()]

"""Downscaled images with the information needed to restore them, and scales of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rescale_compat.errors import RescaleError

import numpy as np
from numpy.typing import NDArray

from rescale_arch.scales import Scale, Size, as_pair
from rescale_data.image_file import LRInfo
from rescale_data.pixels import Pixels

UNCHANGED = (1.0, 1.0)
"""The scale of an image that already had the requested size; it is copied in both directions."""


@dataclass(frozen=True, eq=False)
class LRImage:
    """A downscaled image with the information needed to restore it.

    ``np.asarray(lr)`` returns its pixels.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        info: network, scale, original size and fingerprint of the weights.
    """

    pixels: Pixels
    info: LRInfo

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.pixels, dtype=dtype, copy=copy)


def scale_for_size(size: Size, target: Size, largest: float) -> tuple[float, float]:
    """Factors (vertical, horizontal) that downscale ``size`` to ``target``, both (height, width).

    Raises:
        ValueError: a factor is below 1 or above ``largest``.
    """
    least = (math.ceil(size[0] / largest), math.ceil(size[1] / largest))
    if not (least[0] <= target[0] <= size[0] and least[1] <= target[1] <= size[1]):
        raise RescaleError(
            f"cannot downscale {size[1]}x{size[0]} to {target[1]}x{target[0]}: valid sizes are "
            f"from {least[1]}x{least[0]} (factor {largest:g}) to the original size"
        )
    return size[0] / target[0], size[1] / target[1]


def scale_text(scale: Scale) -> str:
    """The scale in the usual notation: ``2.5``, or ``2x1.5`` (vertical, horizontal)."""
    vertical, horizontal = as_pair(scale)
    return f"{vertical:g}" if vertical == horizontal else f"{vertical:g}x{horizontal:g}"

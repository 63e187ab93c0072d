"""Downscaled images with the information needed to restore them, and scales of images."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, Generic

from rescale_compat.errors import RescaleError

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import TypeVar

from rescale_app.arrays import checked
from rescale_arch.architecture import Architecture
from rescale_arch.scales import Scale, Size, as_pair
from rescale_data.image_file import LRInfo, write_image
from rescale_data.pixels import Pixels
from rescale_data.side_data import SideData

_RESIZED = (
    ": it was resized or cropped after downscaling, and cannot be restored, since every pixel "
    "carries information; use the file as it was written"
)

UNCHANGED = (1.0, 1.0)
"""Scale of an image that already had the requested size; it is copied in both directions."""


Restored = TypeVar("Restored", default=Pixels)
"""Type of the restored image: an array, or a PIL image if downscaled from one."""


@dataclass(frozen=True, eq=False)
class LRImage(Generic[Restored]):
    """A downscaled image with the information needed to restore it.

    ``np.asarray(lr)`` returns its pixels.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        info: network, scale, original size and fingerprint of the weights.
        side_data: transparency, color profile and EXIF of a PIL image; None for an array.
    """

    pixels: Pixels
    info: LRInfo
    side_data: SideData | None = None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.pixels, dtype=dtype, copy=copy)

    def save(self, path: str | os.PathLike[str], quality: int | None = None) -> None:
        """Writes an LR file, which suffices to restore the original.

        Args:
            path: ``.png``, ``.jpg`` or ``.webp`` file.
            quality: 1 to 100, for JPEG and WebP; None: 95 for JPEG, lossless WebP.

        Raises:
            ValueError: the format is unsupported or cannot represent the image, such as
                transparency in JPEG.
            OSError: the file cannot be written.
        """
        write_image(path, self.pixels, quality=quality, info=self.info, side_data=self.side_data)


def checked_lr(
    lr: LRImage[Any] | ArrayLike,
    scale: Scale | None,
    size: Size | None,
    architecture: Architecture,
    network: Any,
) -> tuple[NDArray[Any], tuple[float, float], Size]:
    """Checks the arguments of `Rescaler.upscale`; returns pixels, scale and original size.

    Raises:
        ValueError: the arguments do not match each other or the network.
    """
    if isinstance(lr, LRImage):
        if scale is not None or size is not None:
            raise RescaleError("scale and size are stored in the LR image: omit them")
        if lr.info.network != architecture.name:
            raise RescaleError(
                f"created by the network {lr.info.network!r}, but the weights are for "
                f"{architecture.name!r}"
            )
        pair, size = lr.info.scale, lr.info.size
        array = checked(lr.pixels)
    elif size is None or (scale is None and architecture.fixed_scale is None):
        raise RescaleError("an array does not contain its scale and original size: specify both")
    else:
        pair = network.factors(scale)
        array = checked(lr)
    expected = size if pair == UNCHANGED else network.lr_size(size, pair)
    height, width = array.shape[:2]
    if (height, width) != tuple(expected):
        problem = (
            f"is {width}x{height}, but the LR image of {size[1]}x{size[0]} at scale "
            f"{scale_text(pair)} is {expected[1]}x{expected[0]}"
        )
        raise RescaleError(f"{problem}{_RESIZED if isinstance(lr, LRImage) else ''}")
    return array, pair, size


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

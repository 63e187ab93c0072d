"""Transparency, color profile and EXIF of images that are downscaled and restored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rescale_arch import imresize
from rescale_arch.scales import Scale, Size, as_pair
from rescale_data.pixels import to_pixels, to_tensor
from rescale_data.side_data import SideData


def downscaled(side_data: SideData, size: Size, scale: Scale) -> SideData:
    """Returns the side data of an LR image of ``size`` (h, w); ``scale`` is HR over LR side."""
    vertical, horizontal = as_pair(scale)
    return _resized(side_data, size, (1 / vertical, 1 / horizontal))


def restored(side_data: SideData, size: Size, scale: Scale) -> SideData:
    """Returns the side data of a restored image of ``size`` (H, W)."""
    return _resized(side_data, size, as_pair(scale))


def _resized(side_data: SideData, size: Size, factors: tuple[float, float]) -> SideData:
    alpha = side_data.alpha
    if alpha is None or alpha.shape == tuple(size):
        return side_data
    return replace(side_data, alpha=_bicubic(alpha, size, factors))


def _bicubic(
    alpha: NDArray[np.uint8], size: Size, factors: tuple[float, float]
) -> NDArray[np.uint8]:
    """Resizes (H, W) as MATLAB's ``imresize`` does, antialiased when downscaling."""
    return to_pixels(imresize(to_tensor(alpha[..., None]), size, factors))[..., 0]

"""Checking, padding and converting batches of images."""

from __future__ import annotations

from rescale_compat.errors import RescaleError

from torch import Tensor
from torch.nn import functional as F

from rescale_arch.scales import Size


def from_unit(x: Tensor) -> Tensor:
    """Converts from [0, 1], the range of public tensors, to [-1, 1], as used inside networks."""
    return x * 2 - 1


def to_unit(x: Tensor) -> Tensor:
    """Converts from [-1, 1], as used inside networks, to [0, 1], the range of public tensors."""
    return (x + 1) / 2


def pad_to_multiple(x: Tensor, factor: int) -> Tensor:
    """Pads ``x`` (B, C, H, W) by reflection, right and bottom, to multiples of ``factor``.

    The sides must be at least ``factor``, so that there are enough pixels to reflect.
    """
    bottom, right = (-side % factor for side in x.shape[-2:])
    return F.pad(x, (0, right, 0, bottom), mode="reflect") if bottom or right else x


def check_image(x: Tensor, name: str, min_side: int) -> Size:
    """Checks a batch of RGB images with sides of at least ``min_side``; returns its size (H, W).

    Raises:
        ValueError: ``x`` is not such a batch; the message refers to it as ``name``.
    """
    if x.dim() != 4 or x.shape[1] != 3:
        raise RescaleError(f"{name} has shape {tuple(x.shape)}: expected RGB images (B, 3, H, W)")
    height, width = x.shape[-2:]
    if min(height, width) < min_side:
        raise RescaleError(
            f"{name} is {height} x {width} pixels (height x width): expected at least "
            f"{min_side} x {min_side}"
        )
    return height, width

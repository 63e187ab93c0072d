"""Conversion of samples to [0, 1] on their device."""

from __future__ import annotations

from rescale_compat.errors import RescaleError

import torch
from torch import Tensor


def to_unit_range(pixels: Tensor) -> Tensor:
    """Returns uint8 samples as float32 in [0, 1], on their device; floats are returned as they are.

    The result is bitwise the same as that of `rescale_data.image_file.to_float`, also on a GPU, but
    only a quarter of the bytes is copied to it.

    Raises:
        ValueError: If the samples are neither uint8 nor floating point.
    """
    if pixels.is_floating_point():
        return pixels
    if pixels.dtype != torch.uint8:
        raise RescaleError(f"pixels must be uint8 or float, not {pixels.dtype}")
    # A tensor on the device, since CUDA multiplies by the reciprocal of a number from the host.
    return pixels / torch.full((), 255, dtype=torch.float32, device=pixels.device)

"""Conversion between pixel arrays and tensors, for whole images or region by region."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rescale_data.image_file import to_float
from rescale_data.unit_range import to_unit_range

Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB."""


def to_tensor(image: NDArray[Any], device: torch.device | str = "cpu") -> Tensor:
    """Converts an image array to a tensor for the networks.

    Args:
        image: (H, W, 3) RGB; uint8, uint16, or float in [0, 1].
        device: device of the result.

    Returns:
        (1, 3, H, W), float32 in [0, 1].
    """
    chw = np.array(image.transpose(2, 0, 1), order="C")
    samples = chw if chw.dtype == np.uint8 else to_float(chw)
    return to_unit_range(torch.from_numpy(samples)[None].to(device))


def to_pixels(image: Tensor, depth: int = 8) -> NDArray[Any]:
    """Converts a (1, C, H, W) tensor, roughly in [0, 1], to (H, W, C) pixels.

    Values are clamped and rounded to ``depth`` bits, to 8 as in
    :func:`rescale_arch.rounding.quantize`.

    Returns:
        uint8 for a depth of 8, uint16 for 16.
    """
    # PyTorch has few operators for uint16.
    kind = torch.uint8 if depth == 8 else torch.int32
    rounded = image[0].float().clamp(0, 1).mul(2**depth - 1).round().to(kind)
    pixels = rounded.permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels if depth == 8 else pixels.astype(np.uint16)


def rescale_regions(
    work: Callable[..., None],
    source: NDArray[Any],
    size: tuple[int, int],
    device: torch.device | str = "cpu",
    on_progress: Callable[[int], None] = lambda pixels: None,
    depth: int = 8,
) -> NDArray[Any]:
    """Runs a function that reads and writes regions on arrays of pixels.

    Only the regions are converted to floating point, never a whole image.

    Args:
        work: called with ``read(top, left, bottom, right)`` and ``write(top, left, pixels)``.
        source: (h, w, 3), from which regions are read.
        size: (H, W) of the result.
        device: device of the regions that are read.
        on_progress: called after each write with the number of pixels written.
        depth: bits per sample of the result, 8 or 16.

    Returns:
        (H, W, 3), uint8 or uint16.
    """
    result = np.empty((*size, 3), np.uint8 if depth == 8 else np.uint16)

    def read(top: int, left: int, bottom: int, right: int) -> Tensor:
        return to_tensor(source[top:bottom, left:right], device)

    def write(top: int, left: int, pixels: Tensor) -> None:
        height, width = pixels.shape[-2:]
        result[top : top + height, left : left + width] = to_pixels(pixels, depth)
        on_progress(height * width)

    work(read, write)
    return result

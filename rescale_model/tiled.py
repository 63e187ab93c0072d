"""Tiling functions of the networks, on images that are in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rescale_arch.scales import Size

Read = Callable[[int, int, int, int], Tensor]
Write = Callable[[int, int, Tensor], None]


def in_tiles(work: Callable[..., None], source: Tensor, *sizes: Size) -> list[Tensor]:
    """Collects what a tiling function writes.

    Args:
        work: called with ``read`` and as many ``write`` as there are ``sizes``.
        source: (1, 3, h, w), what ``read`` gives regions of.
        sizes: (H, W) of the results.

    Returns:
        A (1, 3, H, W) for each of ``sizes``.
    """

    def read(top: int, left: int, bottom: int, right: int) -> Tensor:
        return source[..., top:bottom, left:right]

    def writer(result: Tensor) -> Write:
        def write(top: int, left: int, pixels: Tensor) -> None:
            height, width = pixels.shape[-2:]
            result[..., top : top + height, left : left + width] = pixels

        return write

    results = [torch.empty(1, 3, *size, device=source.device) for size in sizes]
    work(read, *map(writer, results))
    return results

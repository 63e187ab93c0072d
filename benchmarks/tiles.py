"""Tiles: their cost in time, and the memory that they save."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks import aidn, vqir
from benchmarks.probe import peak_memory, seconds
from rescale_arch import AIDN
from rescale_arch.scales import Size
from rescale_data.pixels import Pixels, rescale_regions, to_pixels, to_tensor


def round_trip(
    method: str,
    size: Size,
    tile: int | None,
    network: dict[str, Any],
    precision: str = "fp32",
    keep: str | None = None,
) -> dict[str, float]:
    """Downscales and restores an 8-bit noise image.

    Args:
        method: ``aidn`` (at 2.5) or ``vqir``.
        size: (H, W).
        tile: side of the tiles; None: the whole image at once.
        network: keywords of the network.
        precision: ``fp32`` or ``bf16``.
        keep: file for the LR and restored images, with samples in [0, 1].
    """
    torch.manual_seed(0)
    net = (aidn if method == "aidn" else vqir).build("ours", network)
    side = tile or max(size)
    draw = np.random.RandomState(0)
    result: dict[str, float] = {}
    bf16 = precision == "bf16"
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        _round_trip(net, np.zeros((64, 64, 3), np.uint8), 64)  # one-time initialization
        outputs: list[Pixels] = []

        def work() -> None:
            hr = draw.randint(0, 256, (*size, 3), dtype=np.uint8)
            outputs.extend(_round_trip(net, hr, side))

        with peak_memory("cpu", result):
            result["seconds"] = seconds(work, "cpu")
    if keep:
        np.savez(keep, *(output.astype(np.float32) / 255 for output in outputs))
    return result


def _round_trip(net: Any, hr: Pixels, tile: int) -> tuple[Pixels, Pixels]:
    size = hr.shape[0], hr.shape[1]
    scale = aidn.SCALE if isinstance(net, AIDN) else net.factor
    small = net.lr_size(size, scale)
    if tile >= max(size):
        lr = to_pixels(net.downscale(to_tensor(hr), scale))
        return lr, to_pixels(net.upscale(to_tensor(lr), scale, size=size))
    lr = rescale_regions(
        lambda read, write: net.downscale_tiles(size, scale, read, write, tile), hr, small
    )
    return lr, rescale_regions(
        lambda read, write: net.upscale_tiles(size, scale, read, write, tile), lr, size
    )

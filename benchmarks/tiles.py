"""Tiles: what they cost, and what they save."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import aidn, vqir
from benchmarks.probe import peak_memory, seconds
from rescale_arch import AIDN, VQIR, aidn_tiling, lr_size, vqir_tiling
from rescale_arch.rounding import quantize
from rescale_arch.scales import Size

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def round_trip(
    method: str,
    size: Size,
    tile: int | None,
    network: dict[str, Any],
    precision: str = "fp32",
    keep: str | None = None,
) -> dict[str, float]:
    """Downscales and restores a picture of noise, from 8 bits to 8 bits.

    Args:
        method: ``aidn`` (by 2.5) or ``vqir``.
        size: (H, W).
        tile: side of the tiles; None takes the picture as a whole.
        network: keywords of the network.
        precision: ``fp32`` or ``bf16``.
        keep: file to write LR and restored picture to, with samples in [0, 1].
    """
    torch.manual_seed(0)
    net = (aidn if method == "aidn" else vqir).build("ours", network)
    side = tile or max(size)
    draw = np.random.RandomState(0)
    result: dict[str, float] = {}
    bf16 = precision == "bf16"
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        _round_trip(net, np.zeros((64, 64, 3), np.uint8), 64)  # what is set up once
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
    if isinstance(net, AIDN):
        scale = aidn.SCALE
        small = lr_size(size, scale)
        if tile >= max(size):
            lr = _written(lambda read, write: write(0, 0, net.downscale(read(), scale)), hr, small)
            return lr, _written(
                lambda read, write: write(0, 0, net.upscale(read(), scale, size=size)), lr, size
            )
        lr = _written(
            lambda read, write: aidn_tiling.downscale_tiles(net, size, scale, read, write, tile),
            hr,
            small,
        )
        return lr, _written(
            lambda read, write: aidn_tiling.upscale_tiles(net, size, scale, read, write, tile),
            lr,
            size,
        )
    assert isinstance(net, VQIR)
    lr = _written(
        lambda read, write: vqir_tiling.downscale_tiles(net, size, read, write, tile),
        hr,
        net.lr_size(size),
    )
    return lr, _written(
        lambda read, write: vqir_tiling.upscale_tiles(net, size, read, write, tile), lr, size
    )


def _written(work: Callable[..., None], source: Pixels, size: Size) -> Pixels:
    """What ``work(read, write)`` writes, in 8 bits; ``read`` and ``write`` convert regions."""
    result = np.empty((*size, 3), np.uint8)

    def read(
        top: int = 0, left: int = 0, bottom: int | None = None, right: int | None = None
    ) -> Tensor:
        region = torch.from_numpy(source[top:bottom, left:right])
        return region.permute(2, 0, 1)[None].float() / 255

    def write(top: int, left: int, pixels: Tensor) -> None:
        height, width = pixels.shape[-2:]
        rounded = (quantize(pixels[0].float()) * 255).round().to(torch.uint8)
        result[top : top + height, left : left + width] = rounded.permute(1, 2, 0).numpy()

    work(read, write)
    return result

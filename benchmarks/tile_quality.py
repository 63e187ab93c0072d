"""VQIR's tiles against whole images, and against tiles whose group norms share statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import pairwise, product
from pathlib import Path

import torch
from torch import Tensor

import rescale_app
from benchmarks.aidn import IMAGES
from benchmarks.probe import seconds
from benchmarks.tiled_norm import end_collecting, with_tiled_norms
from rescale_arch import VQIR
from rescale_arch.architecture import load_network
from rescale_arch.memory_format import channels_last
from rescale_arch.regions import Read, Write, collect
from rescale_arch.rounding import quantize
from rescale_arch.scales import Size
from rescale_arch.vqir.tiling import TileGrid, blend_tiles
from rescale_data.pixels import to_tensor
from rescale_data.weight_file import read_weights

Window = tuple[int, int, int, int]
Windows = Callable[[TileGrid], Iterable[Window]]
"""Returns the windows from which statistics are collected."""


def compare(weights: str, side: int, tile: int) -> dict[str, dict[str, float]]:
    """Rescales real images in fp32 with included weights: whole, and in tiles of several kinds.

    Args:
        weights: name of the weights, of a VQIR.
        side: images are cropped to this side.
        tile: side of the tiles.

    Returns:
        For each method, means over the images: ``seconds`` of downscaling and restoring; ``lr``,
        the mean absolute difference of LR images from whole ones; ``hr``, the same of images
        restored from the LR images of whole images, and ``psnr``, their PSNR (dB, RGB, 8 bits);
        ``trip``, the PSNR of images restored from the method's own LR images.
    """
    from skimage import data

    path = Path(rescale_app.__file__).parent / "weights" / f"{weights}.safetensors"
    net: VQIR = load_network(read_weights(path), str(path)).network
    channels_last(net)
    methods: Mapping[str, Callable[..., Tensor]] = {
        "whole": _whole,
        "tiles": partial(_in_tiles, windows=None),
        "tiles, statistics of a first pass": partial(_in_tiles, windows=_tiles),
        "tiles, exact statistics": partial(_in_tiles, windows=_whole_image),
    }
    results: dict[str, dict[str, float]] = {}
    for name in IMAGES:
        hr = to_tensor(getattr(data, name)()[:side, :side])
        with torch.inference_mode():
            lr = quantize(net.downscale(hr))
            restored = net.upscale(lr, size=(hr.shape[-2], hr.shape[-1]))
            for method, run in methods.items():
                measured = _measured(partial(run, net, tile), hr, lr, restored)
                sums = results.setdefault(method, dict.fromkeys(measured, 0.0))
                for key, value in measured.items():
                    sums[key] += value / len(IMAGES)
    return results


def _measured(
    run: Callable[..., Tensor], hr: Tensor, lr: Tensor, restored: Tensor
) -> dict[str, float]:
    size = hr.shape[-2], hr.shape[-1]
    images: list[Tensor] = []

    def trip() -> None:
        images.append(quantize(run(hr, size, down=True)))
        images.append(run(images[0], size, down=False))

    elapsed = seconds(trip, "cpu")
    from_same = run(lr, size, down=False)
    return {
        "seconds": elapsed,
        "lr": (images[0] - lr).abs().mean().item(),
        "hr": (from_same - restored).abs().mean().item(),
        "psnr": _psnr(from_same, hr),
        "trip": _psnr(images[1], hr),
    }


def _psnr(image: Tensor, reference: Tensor) -> float:
    return -10 * (quantize(image) - reference).double().square().mean().log10().item()


def _whole(net: VQIR, tile: int, image: Tensor, size: Size, *, down: bool) -> Tensor:
    return net.downscale(image) if down else net.upscale(image, size=size)


def _in_tiles(
    net: VQIR, tile: int, image: Tensor, size: Size, *, down: bool, windows: Windows | None
) -> Tensor:
    """Blended tiles; ``windows``: with statistics from these, None: with statistics of their own.

    The last case is what ``downscale_tiles`` and ``upscale_tiles`` of the network compute.
    """
    grid = TileGrid(net.factor, size, tile)

    def work(read: Read, write: Write) -> None:
        def compute(net: VQIR, *window: int) -> list[Tensor]:
            if down:
                return [net.downscale(read(*window))]
            return [net.upscale(read(*grid.lr_window(*window)), size=grid.window_size(*window))]

        used = net
        if windows is not None:
            used = with_tiled_norms(net)
            for window in windows(grid):
                compute(used, *window)
            end_collecting(used)
        blend_tiles(grid, [net.factor if down else 1], [write], partial(compute, used))

    return collect(work, image, net.lr_size(size) if down else size)[0]


def _tiles(grid: TileGrid) -> Iterable[Window]:
    """The tiles without their overlap."""
    for (top, bottom), (left, right) in product(pairwise(grid.rows), pairwise(grid.columns)):
        yield top, left, bottom, right


def _whole_image(grid: TileGrid) -> Iterable[Window]:
    """What tiles exist to avoid: a bound for other statistics."""
    yield 0, 0, grid.rows[-1], grid.columns[-1]

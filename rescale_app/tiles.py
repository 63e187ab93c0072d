"""When to process images in tiles, progress reports, and advice if memory does not suffice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from tqdm import tqdm

from rescale_arch.architecture import Architecture
from rescale_arch.scales import Size

OnProgress = Callable[[str, float], None]
"""Called with the name of the current step and the completed fraction of it, from 0 to 1."""

_SHARE_OF_MEMORY = 0.8  # the remainder is for workspaces of convolutions
_SMALLEST_TILE = 64  # HR pixels: below, most of the work would be overlap


def max_untiled_pixels(
    architecture: Architecture, config: Mapping[str, Any], device: torch.device
) -> int:
    """Pixels of the largest image that is processed untiled with ``tile='auto'``.

    Args:
        architecture: architecture of the network.
        config: its constructor keywords.
        device: device of the computation.
    """
    per_pixel = architecture.bytes_per_pixel
    if device.type != "cuda" or per_pixel is None:
        return architecture.max_untiled_pixels
    fits = int(_SHARE_OF_MEMORY * free_gpu_memory(device) / per_pixel(config))
    # kernels use 32-bit indices
    return min(fits, (2**31 - 1) // architecture.max_width(config))


def smaller_tile_advice(architecture: Architecture, current: int | None, size: Size) -> str:
    """Advice for an image of ``size`` that does not fit into memory; may be empty.

    Args:
        architecture: architecture of the network.
        current: tile size that does not fit; None: untiled.
        size: (H, W).
    """
    if architecture.tile is None:
        return ""
    side = max(size) if current is None else min(current, max(size))
    if side < 2 * _SMALLEST_TILE:
        return ""
    advised = min(1 << (side // 2).bit_length() - 1, architecture.tile)
    kind = "tiles" if current is None else "smaller tiles"
    return f": {kind} need less memory (--tile {advised}; in Python, tile={advised})"


@contextmanager
def tile_progress(
    step: str, size: Size, progress: bool | OnProgress
) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of pixels of each tile.

    Args:
        step: name of the step.
        size: (h, w) of the result.
        progress: whether to show a bar on a terminal; or a function to call with the fraction.
    """
    total = size[0] * size[1]
    hidden = None if progress is True else True  # None: hidden without a terminal
    with tqdm(total=total, unit="px", unit_scale=True, leave=False, disable=hidden) as bar:
        done = 0

        def on_progress(pixels: int) -> None:
            nonlocal done
            done += pixels
            bar.update(pixels)
            if callable(progress):
                progress(step, done / total)

        yield on_progress


def free_gpu_memory(device: torch.device) -> int:
    """Bytes available to PyTorch on ``device``, from the driver and from its cache."""
    free, _ = torch.cuda.mem_get_info(device)
    kept: int = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + kept

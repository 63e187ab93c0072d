"""Optimization of LR images for `Rescaler`, on arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from rescale_compat.errors import RescaleError

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rescale_app.arrays import eight_bit
from rescale_arch.architecture import Architecture
from rescale_arch.lr_optimization import optimize_lr
from rescale_arch.scales import Scale, Size
from rescale_data.lossy import through_jpeg
from rescale_data.pixels import Pixels, to_tensor


class _Rescaler(Protocol):
    """The members of `Rescaler` that are used here; its module imports this one."""

    architecture: Architecture
    network: Any
    device: torch.device
    effort: int
    jpeg_quality: int | None

    def upscale(self, lr: Pixels, scale: Scale, size: Size) -> Pixels: ...


def check_effort(effort: int, architecture: Architecture) -> None:
    """Checks the number of steps.

    Raises:
        ValueError: it is not an integer >= 0, or the network does not support optimization.
    """
    if not (isinstance(effort, int) and effort >= 0):
        raise RescaleError(f"effort is {effort!r}: expected a number of steps >= 0")
    if effort and architecture.search is None:
        raise RescaleError(f"effort is not supported by the network {architecture.name}")


def optimize(
    rescaler: _Rescaler,
    image: NDArray[Any],
    lr: Pixels,
    scale: tuple[float, float],
    report: Callable[[int], None],
) -> Pixels:
    """Optimizes an LR image; see :func:`~rescale_arch.lr_optimization.optimize_lr`.

    Args:
        rescaler: the network and the number of steps.
        image: the HR image, as `~rescale_app.arrays.checked` returns it.
        lr: the LR image that the network computed.
        scale: (vertical, horizontal).
        report: called after every step with the number of HR pixels processed by it.
    """
    search, quality = rescaler.architecture.search, rescaler.jpeg_quality
    assert search is not None
    size = image.shape[0], image.shape[1]
    done = 0

    def read(top: int, left: int, bottom: int, right: int) -> Tensor:
        return to_tensor(image[top:bottom, left:right], rescaler.device)

    def on_progress(fraction: float) -> None:
        nonlocal done
        pixels = round(fraction * size[0] * size[1]) - done
        done += pixels
        report(pixels)

    start = torch.from_numpy(lr).permute(2, 0, 1)[None]
    channel = None
    if quality is not None:
        from rescale_model.jpeg import JPEG, JPEGSetting  # imported late, since it loads BasicSR

        channel = JPEG().channel(JPEGSetting(quality))
    network, steps = rescaler.network, rescaler.effort
    result = optimize_lr(network, start, read, size, scale, steps, search, channel, on_progress)
    return result[0].permute(1, 2, 0).contiguous().numpy()


def better(
    rescaler: _Rescaler,
    image: NDArray[Any],
    first: Pixels,
    second: Pixels,
    scale: tuple[float, float],
) -> Pixels:
    """The LR image whose file restores ``image`` better; ``second`` if both are equal."""
    size, quality = (image.shape[0], image.shape[1]), rescaler.jpeg_quality
    files = [lr if quality is None else through_jpeg(lr, quality) for lr in (first, second)]
    errors = [square_error(image, rescaler.upscale(file, scale, size)) for file in files]
    return first if errors[0] < errors[1] else second


def square_error(image: NDArray[Any], restored: Pixels) -> int:
    """Sum of squared differences in 8 bits, computed one row at a time to save memory."""
    rows = zip(eight_bit(image), restored, strict=True)
    return sum(int(np.square(a.astype(np.int64) - b).sum()) for a, b in rows)

"""Optimization of LR images for the network that restores them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rescale_compat.errors import RescaleError

from torch import Tensor

from rescale_arch.architecture import Architecture
from rescale_arch.lr_optimization import Channel, optimize_lr
from rescale_arch.regions import reader
from rescale_arch.rounding import quantize
from rescale_model.jpeg import JPEG, JPEGSetting


@dataclass(frozen=True)
class Effort:
    """How LR images are optimized.

    Attributes:
        steps: number of steps; 0: no optimization.
        channel: JPEG compression of the LR images; None: they are stored losslessly.
    """

    steps: int = 0
    channel: Channel | None = None


NO_EFFORT = Effort()


def read_effort(steps: int, lr_format: str | None, quality: int, chroma: int) -> Effort:
    """The optimization with a number of steps for a kind of LR file.

    Raises:
        ValueError: optimization does not support this kind of file.
    """
    if not steps or lr_format in (None, "png"):
        return Effort(steps)
    if lr_format != "jpeg":
        raise RescaleError(
            f"effort is {steps}, but lr_format is {lr_format}: effort supports only png and jpeg"
        )
    return Effort(steps, JPEG().channel(JPEGSetting(quality, 420 if chroma == 420 else 444)))


def optimized(
    net: Any,
    architecture: Architecture,
    lr: Tensor,
    hr: Tensor,
    scale: tuple[float, float],
    effort: Effort,
    restore: Callable[[Tensor], Tensor],
) -> Tensor:
    """Optimizes an LR image; see :func:`~rescale_arch.lr_optimization.optimize_lr`.

    Args:
        net: a network of ``architecture``, in evaluation mode.
        architecture: its architecture.
        lr: its LR image, (1, 3, h, w), not rounded.
        hr: the HR image, (1, 3, H, W).
        scale: factors (vertical, horizontal).
        effort: the optimization.
        restore: function that restores the image from an LR image.

    Returns:
        The optimized LR image in 8 bits, (1, 3, h, w) in [0, 1], or the rounded ``lr`` if it
        restores the image better.

    Raises:
        ValueError: the network does not support optimization.
    """
    if architecture.search is None:
        raise RescaleError(f"option val: effort is not supported by {architecture.title}")
    rounded = quantize(lr)
    start = rounded.mul(255).round().byte()
    size, search = (hr.shape[-2], hr.shape[-1]), architecture.search
    found = optimize_lr(
        net, start, reader(hr), size, scale, effort.steps, search, effort.channel
    ).to(hr)
    candidates = [found / 255, rounded]
    files = [one if effort.channel is None else effort.channel(one) for one in candidates]
    errors = [(quantize(restore(file)) - hr).square().mean() for file in files]
    return candidates[0] if errors[0] < errors[1] else rounded

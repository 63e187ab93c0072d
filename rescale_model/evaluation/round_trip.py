"""A round trip through a rescaling network, and the references to compare its images with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rescale_arch import imresize
from rescale_arch.architecture import Architecture, identify
from rescale_arch.bicubic import bicubic_lr
from rescale_arch.regions import collect
from rescale_arch.rounding import quantize
from rescale_arch.scales import Size
from rescale_data.image_file import LRInfo
from rescale_model.evaluation.effort import NO_EFFORT, Effort, optimized


@dataclass(frozen=True)
class EvaluatedImage:
    """An image of a round trip and its reference.

    Attributes:
        image: (1, 3, H, W), roughly in [0, 1], not clamped.
        reference: the same shape.
        border: number of pixels on every side that metrics exclude.
        info: the record to store in the file (LR images).
    """

    image: Tensor
    reference: Tensor
    border: int
    info: LRInfo | None = None


def border(scale: tuple[float, float]) -> int:
    """The border that metrics exclude at a scale: the larger factor, rounded up."""
    return math.ceil(max(scale))


def downscale(
    net: Any,
    hr: Tensor,
    scale: tuple[float, float],
    tile: int | None = None,
    effort: Effort = NO_EFFORT,
) -> Tensor:
    """Downscales an image, untiled or in tiles.

    Args:
        net: a :class:`~rescale_arch.architecture.RescalingNetwork` in evaluation mode.
        hr: (B, 3, H, W) in [0, 1].
        scale: factors (vertical, horizontal).
        tile: side of the tiles in HR pixels; None: untiled.
        effort: optimization of the LR image; requires a batch of one.

    Returns:
        (B, 3, h, w), not rounded.
    """
    size = _size(hr)
    if tile is None:
        lr: Tensor = net.downscale(hr, scale)
    else:
        (lr,) = collect(
            lambda read, write: net.downscale_tiles(size, scale, read, write, tile),
            hr,
            net.lr_size(size, scale),
        )
    if not effort.steps:
        return lr
    return optimized(
        net,
        identify(net.state_dict()),
        lr,
        hr,
        scale,
        effort,
        lambda small: upscale(net, small, scale, size, tile),
    )


def upscale(
    net: Any,
    lr: Tensor,
    scale: tuple[float, float],
    size: Size,
    tile: int | None = None,
) -> Tensor:
    """Restores an image of ``size`` (H, W); see :func:`downscale`."""
    if tile is None:
        whole: Tensor = net.upscale(lr, scale, size=size)
        return whole
    (restored,) = collect(
        lambda read, write: net.upscale_tiles(size, scale, read, write, tile),
        lr,
        size,
    )
    return restored


def against_bicubic(
    architecture: Architecture,
    lr: Tensor,
    gt: Tensor,
    scale: tuple[float, float],
    fingerprint: str,
) -> dict[str, EvaluatedImage]:
    """Compares the LR image with bicubic interpolation, and bicubic with the original.

    Args:
        architecture: architecture of the network.
        lr: the stored LR image, (1, 3, h, w).
        gt: the HR image, (1, 3, H, W).
        scale: factors (vertical, horizontal).
        fingerprint: fingerprint of the weights.

    Returns:
        ``lr`` against the bicubic LR image, and ``bicubic``, a bicubic round trip with an 8-bit LR
        image, against ``gt``.
    """
    guide, edge, size = bicubic_lr(gt, scale), border(scale), _size(gt)
    lr_edge = edge if architecture.lr_border is None else architecture.lr_border
    info = LRInfo(architecture.name, scale, size, fingerprint)
    return {
        "lr": EvaluatedImage(lr, guide, lr_edge, info),
        "bicubic": EvaluatedImage(imresize(quantize(guide), size, scale), gt, edge),
    }


def evaluate_round_trip(
    net: Any,
    name: str,
    gt: Tensor,
    scale: tuple[float, float],
    stored: Callable[[str, Tensor], Tensor],
    tile: int | None,
    fingerprint: str,
    effort: Effort = NO_EFFORT,
) -> dict[str, EvaluatedImage]:
    """Downscales and restores an image.

    Args:
        net: a :class:`~rescale_arch.architecture.RescalingNetwork` in evaluation mode.
        name: name of the LR file, passed to ``stored``.
        gt: the HR image, (1, 3, H, W).
        scale: factors (vertical, horizontal).
        stored: function of the name and the unrounded LR image that returns the LR image as read
            from a file.
        tile: side of the tiles in HR pixels; None: untiled.
        fingerprint: fingerprint of the weights.
        effort: see :func:`downscale`.

    Returns:
        ``hr`` against ``gt``, and the images of :func:`against_bicubic`.
    """
    lr = stored(name, downscale(net, gt, scale, tile, effort))
    restored = upscale(net, lr, scale, _size(gt), tile)
    return {
        **against_bicubic(identify(net.state_dict()), lr, gt, scale, fingerprint),
        "hr": EvaluatedImage(restored, gt, border(scale)),
    }


def _size(image: Tensor) -> Size:
    return image.shape[-2], image.shape[-1]

"""Comparison of a round trip with bicubic interpolation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from rescale_compat.errors import RescaleError

from rescale_app.lr_image import LRImage, scale_text
from rescale_app.quality import SSIM_WINDOW, Comparison, image_quality, psnr
from rescale_arch.architecture import Architecture
from rescale_arch.scales import Scale, Size
from rescale_data.pixels import Pixels


class _Rescaler(Protocol):
    """The members of `Rescaler` that are used here; its module imports this one."""

    architecture: Architecture
    network: Any

    def downscale(self, image: Pixels, scale: Scale) -> LRImage: ...

    def upscale(self, lr: LRImage) -> Pixels: ...

    def bicubic(self, image: Pixels, size: Size, scale: Scale) -> Pixels: ...


def compare_round_trip(
    rescaler: _Rescaler,
    hr: Pixels,
    scale: tuple[float, float],
    through_file: Callable[[LRImage], Pixels],
) -> Comparison:
    """Compares a round trip with bicubic interpolation; see `Rescaler.compare`.

    Args:
        rescaler: the network.
        hr: (H, W, 3) uint8 RGB.
        scale: (vertical, horizontal).
        through_file: returns the pixels of an LR image as read from its file.

    Raises:
        ValueError: the image is too small.
    """
    size = (hr.shape[0], hr.shape[1])
    border = math.ceil(max(scale))
    small = rescaler.network.lr_size(size, scale)
    own_border = rescaler.architecture.lr_border
    lr_border = border if own_border is None else own_border
    if min(size) < SSIM_WINDOW + 2 * border or min(small) <= 2 * lr_border:
        raise RescaleError(
            f"is {size[1]}x{size[0]}: too small for metrics at scale {scale_text(scale)}"
        )
    start = time.perf_counter()
    lr = rescaler.downscale(hr, scale)
    middle = time.perf_counter()
    stored = replace(lr, pixels=through_file(lr))
    start_up = time.perf_counter()
    restored = rescaler.upscale(stored)
    end = time.perf_counter()
    bicubic_lr = rescaler.bicubic(hr, small, (1 / scale[0], 1 / scale[1]))
    stored_bicubic = through_file(replace(lr, pixels=bicubic_lr))
    bicubic = rescaler.bicubic(stored_bicubic, size, scale)
    return Comparison(
        hr=hr,
        lr=lr,
        restored=restored,
        bicubic_lr=bicubic_lr,
        bicubic=bicubic,
        quality=image_quality(hr, restored, border),
        bicubic_quality=image_quality(hr, bicubic, border),
        lr_psnr=psnr(bicubic_lr, lr.pixels, lr_border),
        lr_psnr_y=psnr(bicubic_lr, lr.pixels, lr_border, y=True),
        seconds_down=middle - start,
        seconds_up=end - start_up,
    )

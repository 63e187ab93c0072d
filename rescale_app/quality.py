"""Quality of restored images, compared with bicubic interpolation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import rescale_compat  # noqa: F401  must precede basicsr

from rescale_data.pixels import Pixels

if TYPE_CHECKING:
    from rescale_app.lr_image import LRImage

SSIM_WINDOW = 11
"""Side of the smallest image for which SSIM is defined, in pixels."""


@dataclass(frozen=True)
class Quality:
    """Similarity of a restored image and the original.

    PSNR in dB (infinite for equal images) and SSIM, computed on 8-bit pixels without a border of
    ``ceil(scale)``: over R, G and B, and on Y as in MATLAB's ``rgb2ycbcr`` (BT.601, 16 to 235).
    """

    psnr: float
    ssim: float
    psnr_y: float
    ssim_y: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """A round trip, compared with that of bicubic interpolation.

    Bicubic interpolation is antialiased, with the true scale in both directions and an 8-bit LR
    image. Images are uint8 RGB arrays.

    Attributes:
        hr: (H, W, 3), the original in 8 bits.
        lr: the network's LR image.
        restored: (H, W, 3), restored from ``lr`` as read from its file.
        bicubic_lr: (h, w, 3), the bicubic LR image.
        bicubic: (H, W, 3), ``bicubic_lr`` as read from its file, upscaled.
        quality: quality of ``restored``.
        bicubic_quality: quality of ``bicubic``.
        lr_psnr: LR fidelity, the PSNR of ``lr`` against ``bicubic_lr``, RGB, dB.
        lr_psnr_y: the same for Y.
        seconds_down: time for downscaling.
        seconds_up: time for restoring.
    """

    hr: Pixels
    lr: LRImage
    restored: Pixels
    bicubic_lr: Pixels
    bicubic: Pixels
    quality: Quality
    bicubic_quality: Quality
    lr_psnr: float
    lr_psnr_y: float
    seconds_down: float
    seconds_up: float


def image_quality(reference: Pixels, other: Pixels, border: int) -> Quality:
    """Computes the quality of (H, W, 3) ``other`` without ``border`` pixels on each side."""
    return Quality(
        psnr=psnr(reference, other, border),
        ssim=_ssim(reference, other, border),
        psnr_y=psnr(reference, other, border, y=True),
        ssim_y=_ssim(reference, other, border, y=True),
    )


# BasicSR's functions, so that metrics agree with those of its test runner. They take BGR, and are
# imported late, since the import takes seconds.
def psnr(reference: Pixels, other: Pixels, border: int, *, y: bool = False) -> float:
    """PSNR of (H, W, 3) arrays in dB, over RGB or on Y, without ``border`` pixels on each side."""
    from basicsr.metrics.psnr_ssim import calculate_psnr

    return float(calculate_psnr(reference[..., ::-1], other[..., ::-1], border, test_y_channel=y))


def _ssim(reference: Pixels, other: Pixels, border: int, *, y: bool = False) -> float:
    from basicsr.metrics.psnr_ssim import calculate_ssim

    return float(calculate_ssim(reference[..., ::-1], other[..., ::-1], border, test_y_channel=y))

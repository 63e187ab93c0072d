"""Lossy compression and decompression of images in memory."""

from __future__ import annotations

from rescale_compat.errors import RescaleError

import cv2
import numpy as np

from rescale_data.pixels import Pixels

_CHROMA = {
    420: cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    444: cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}


def through_jpeg(image: Pixels, quality: int, chroma: int = 420) -> Pixels:
    """Compresses and decompresses an image with libjpeg; releases the global interpreter lock.

    Args:
        image: (H, W, 3) RGB.
        quality: 1 to 100.
        chroma: 420: half resolution in both directions (4:2:0); 444: full resolution.

    Returns:
        (H, W, 3) RGB.

    Raises:
        ValueError: ``quality`` or ``chroma`` is out of range.
    """
    if chroma not in _CHROMA:
        raise RescaleError(f"JPEG chroma {chroma}: expected one of {', '.join(map(str, _CHROMA))}")
    options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _CHROMA[chroma]]
    return _through(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _checked("JPEG", quality), *options])


def through_webp(image: Pixels, quality: int) -> Pixels:
    """Compresses and decompresses an image as lossy WebP; see :func:`through_jpeg`."""
    return _through(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, _checked("WebP", quality)])


def _checked(name: str, quality: int) -> int:
    if not 1 <= quality <= 100:
        raise RescaleError(f"{name} quality {quality}: expected 1 to 100")
    return quality


def _through(suffix: str, image: Pixels, options: list[int]) -> Pixels:
    encoded = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB), np.uint8)

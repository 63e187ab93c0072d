"""LR files within a number of bytes: the smallest scale, and then the highest quality, that fit.

The quality is reduced first, down to a minimum; below that, a larger scale loses less: with
aidn-plus and JPEG at 0.55 bits per pixel, scale 1.5 with quality 54 is restored 0.4 dB worse than
scale 2 with quality 80.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from rescale_compat.errors import RescaleError

from rescale_app.lr_image import LRImage, scale_text
from rescale_data.encoding import encode_image
from rescale_data.quality_search import highest_quality

LOWEST_QUALITY = 75
"""Minimum quality of JPEG and WebP; below, a larger scale is better at equal bytes."""

_HIGHEST_QUALITY = 95
_PRECISION = 1.01  # relative precision of the scale
# File sizes decrease a little less than the number of pixels.
_EXPONENT = 1.7
_MOST_ATTEMPTS = 16
_MOST_ESTIMATES = 5


@dataclass(frozen=True)
class StoredLR:
    """An LR image as it is stored.

    Attributes:
        lr: the image, with side data.
        lossless: whether it was computed for a lossless file.
        quality: quality of a lossy file; None: lossless.
        content: content of the file.
    """

    lr: LRImage
    lossless: bool
    quality: int | None
    content: bytes


@dataclass(frozen=True)
class _Attempt:
    """The result of trying a scale: a file that fits, or the size of the smallest file."""

    stored: StoredLR | None
    smallest: int
    smallest_is: str

    def side_ratio(self, limit: int) -> float:
        """Estimated factor by which the scale has to grow to fit with the lowest quality."""
        return _side_ratio(self.smallest, limit) * 1.002


Downscale = Callable[[bool, float], LRImage]
"""Computes an LR image, with side data, for a lossless or lossy file at a scale >= 1."""


def smallest_within(
    downscale: Downscale,
    suffix: str,
    limit: int,
    lowest: float,
    highest: float,
    estimate: Callable[[float], int],
) -> StoredLR:
    """Finds the smallest scale, to 1 %, and the highest quality that fit into ``limit`` bytes.

    Args:
        downscale: computes LR images.
        suffix: format of the file: ``.png`` is lossless, ``.jpg`` lossy, and ``.webp`` lossless
            if that fits.
        limit: maximum number of bytes of the file, including metadata.
        lowest: smallest scale to try.
        highest: largest scale to try; ``lowest`` for a fixed scale.
        estimate: estimates the bytes of the smallest file at a scale, without the network; the
            search starts at a scale that fits.

    Raises:
        ValueError: no combination of scale and quality fits.
    """
    scale, too_small, fits = lowest, lowest, highest
    for _ in range(_MOST_ESTIMATES if lowest < highest else 0):
        ratio = _side_ratio(estimate(scale), limit)
        scale = min(highest, max(lowest, scale * ratio))
        if ratio <= _PRECISION:
            break
    best: _Attempt | None = None
    for _ in range(_MOST_ATTEMPTS):
        attempt = _attempt(downscale, suffix, limit, scale)
        if attempt.stored is not None:
            best, fits = attempt, scale
            if scale == lowest:
                break
        elif scale >= highest:
            raise RescaleError(_too_large(attempt, limit, lowest, highest))
        else:
            too_small = scale
        if best is None:
            scale = min(highest, max(scale * attempt.side_ratio(limit), scale * _PRECISION))
        elif fits <= too_small * _PRECISION:
            break
        else:
            guess = fits * best.side_ratio(limit)
            inside = too_small * 1.003 < guess < fits * 0.997
            scale = guess if inside else (too_small * fits) ** 0.5
    assert best is not None and best.stored is not None
    return best.stored


def _side_ratio(size: int, limit: int) -> float:
    return math.pow(size / limit, 1 / _EXPONENT)


def _too_large(attempt: _Attempt, limit: int, lowest: float, highest: float) -> str:
    if lowest == highest:
        at, advice = f"at scale {scale_text(lowest)}", "; a larger scale takes less"
    else:
        at, advice = f"by {scale_text(highest)}, the largest factor", ""
    return (
        f"cannot be stored in {limit:,} bytes: {at}, {attempt.smallest_is} takes "
        f"{attempt.smallest:,}{advice}"
    )


def _attempt(downscale: Downscale, suffix: str, limit: int, scale: float) -> _Attempt:
    kind = suffix.lower()
    if kind in (".png", ".webp"):
        lr = downscale(True, scale)
        content = _encoded(lr, kind, None)
        if len(content) <= limit or kind == ".png":
            stored = StoredLR(lr, True, None, content) if len(content) <= limit else None
            return _Attempt(stored, len(content), "a lossless file")
    lr = downscale(False, scale)
    content = _encoded(lr, kind, LOWEST_QUALITY)
    smallest, smallest_is = len(content), f"a file of quality {LOWEST_QUALITY}"
    if smallest > limit:
        return _Attempt(None, smallest, smallest_is)
    found = highest_quality(
        lambda quality: _encoded(lr, kind, quality), limit, LOWEST_QUALITY, _HIGHEST_QUALITY
    )
    quality, content = found or (LOWEST_QUALITY, content)
    return _Attempt(StoredLR(lr, False, quality, content), smallest, smallest_is)


def _encoded(lr: LRImage, suffix: str, quality: int | None) -> bytes:
    return encode_image(lr.pixels, suffix, quality=quality, info=lr.info, side_data=lr.side_data)

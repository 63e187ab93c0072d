"""Comparison with other codecs at the file size of the LR file."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, features

from rescale_data.pixels import Pixels
from rescale_data.quality_search import highest_quality


@dataclass(frozen=True)
class Codec:
    """A lossy codec of Pillow.

    Attributes:
        name: name in tables.
        format: name in Pillow.
        options: encoder options for Pillow.
    """

    name: str
    format: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class CodedImage:
    """An image through a lossy file.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, decoded.
        bytes: size of the file.
        quality: 1 to 100, on the codec's own scale.
    """

    pixels: Pixels
    bytes: int
    quality: int


JPEG = Codec("JPEG", "JPEG", {"subsampling": "4:2:0", "optimize": True})
WEBP = Codec("WebP", "WEBP", {"method": 6})
AVIF = Codec("AVIF", "AVIF", {"speed": 6})


def available_codecs() -> list[Codec]:
    """Returns those of JPEG, WebP and AVIF that the installed Pillow supports."""
    return [
        JPEG,
        *([WEBP] if features.check("webp") else []),
        *([AVIF] if features.check("avif") else []),
    ]


def within_bytes(image: Pixels, codec: Codec, limit: int) -> CodedImage | None:
    """Encodes an image with the highest quality that fits into ``limit`` bytes.

    Args:
        image: (H, W, 3) uint8 RGB.
        codec: the codec; files contain only pixels.
        limit: maximum number of bytes.

    Returns:
        The decoded image; None if no quality is low enough.
    """
    source = Image.fromarray(image)

    def encode(quality: int) -> bytes:
        buffer = io.BytesIO()
        source.save(buffer, codec.format, quality=quality, **codec.options)
        return buffer.getvalue()

    found = highest_quality(encode, limit)
    if found is None:
        return None
    quality, content = found
    with Image.open(io.BytesIO(content)) as decoded:
        return CodedImage(np.asarray(decoded.convert("RGB")), len(content), quality)

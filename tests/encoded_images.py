"""Encoded images to read: pixels of 8 and 16 bits, and their files."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image
from skimage import data

from rescale_data.image_file import LRInfo

Pixels = npt.NDArray[Any]

MODES = [
    ("PNG", "L"), ("PNG", "LA"), ("PNG", "P"), ("PNG", "RGBA"), ("PNG", "1"), ("PNG", "RGB"),
    ("JPEG", "L"), ("JPEG", "CMYK"), ("JPEG", "RGB"), ("BMP", "P"), ("BMP", "RGB"),
    ("TIFF", "L"), ("TIFF", "CMYK"), ("TIFF", "RGB"), ("WEBP", "RGB"),
]  # fmt: skip
INFO = LRInfo("aidn", (2.5, 4 / 3), (301, 400), "sha256:0123456789abcdef")

RGB: Pixels = data.astronaut()[:50, 60:133]
LOW_BITS = np.random.default_rng(0).integers(0, 256, (*RGB.shape[:2], 4), dtype=np.uint16)
RGBA16: Pixels = np.dstack([RGB, RGB[..., 1]]).astype(np.uint16) * 256 + LOW_BITS
RGB16: Pixels = RGBA16[..., :3].copy()
GRAY, GRAY16 = RGB[..., 0].copy(), RGB16[..., 0].copy()


def as_tiff(pixels: Pixels, photometric: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric=photometric, **options)
    return buffer.getvalue()


def encoded(
    image: Image.Image | Pixels, file_format: str, mode: str | None = None, **options: Any
) -> bytes:
    """A file that Pillow writes."""
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if mode is not None:
        image = image.convert(mode)
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def pillow_rgb(content: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

"""Encoding of images as files, with side data and the record of an LR file."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from rescale_compat.errors import RescaleError

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, fromarray
from PIL.PngImagePlugin import PngInfo

from rescale_data.decoding import PNG_START
from rescale_data.exif import INFO_PREFIX, exif_with_info
from rescale_data.lr_info import LRInfo
from rescale_data.side_data import SideData

__all__ = ["INFO_KEY", "JPEG_QUALITY", "WRITABLE_SUFFIXES", "encode_image", "is_stored_lossless"]

WRITABLE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Suffixes of supported output files."""

JPEG_QUALITY = 95
"""Default quality of JPEG files."""

INFO_KEY = "rescale"
"""Name of the PNG text chunk that contains the record of an LR file."""

# With level 6, files are 2 % smaller but take twice as long to write.
_PNG_LEVEL = 3
_WEBP_SIDE = 16383  # maximum; that of JPEG is 65,535
_JPEG_SIDE = 65535
_JPEG_SEGMENT = 65533 - len(b"Exif\0\0")


def is_stored_lossless(suffix: str, quality: int | None) -> bool:
    """Whether `encode_image` stores pixels losslessly."""
    return suffix.lower() == ".png" or (suffix.lower() == ".webp" and quality is None)


def encode_image(
    image: NDArray[Any],
    suffix: str,
    *,
    quality: int | None = None,
    info: LRInfo | None = None,
    side_data: SideData | None = None,
) -> bytes:
    """Encodes an image as a file.

    Args:
        image: (H, W, 3) RGB, uint8; for PNG also uint16.
        suffix: Suffix of the file; selects the format.
        quality: From 1 to 100; for JPEG (default 95; chroma is 4:2:0), and for WebP, which is
            lossless by default.
        info: Record of an LR file.
        side_data: Transparency, color profile and EXIF.

    Raises:
        ValueError: If the suffix is unsupported, the array or the quality is invalid, or the format
            cannot represent the image.
    """
    suffix = suffix.lower()
    side_data = side_data or SideData()
    if suffix not in WRITABLE_SUFFIXES:
        raise RescaleError(f"suffix must be .png, .jpg, .jpeg or .webp, not {suffix!r}")
    _check_pixels(image, suffix)
    if quality is not None and suffix == ".png":
        raise RescaleError("only .jpg, .jpeg and .webp files have a quality")
    if quality is not None and not 1 <= quality <= 100:
        raise RescaleError(f"quality must be from 1 to 100, not {quality}")
    exif = exif_with_info(side_data.exif, info, (image.shape[0], image.shape[1])) or b""
    if suffix == ".png" and image.dtype == np.uint16:
        return _png_of_16_bits(image, side_data, info, exif)
    options: dict[str, Any] = {
        "exif": exif and b"Exif\0\0" + exif,
        "icc_profile": side_data.profile or None,
    }
    buffer = io.BytesIO()
    match suffix:
        case ".png":
            text = PngInfo()
            if info is not None:
                text.add_text(INFO_KEY, info.to_json())
            options |= {"pnginfo": text, "compress_level": _PNG_LEVEL}
            _with_alpha(image, side_data).save(buffer, "PNG", **options)
        case ".webp":
            # Colors under transparent parts are kept, since the network restores from all of them.
            options |= {"lossless": quality is None, "exact": True}
            if quality is not None:
                options["quality"] = quality
            _with_alpha(image, side_data).save(buffer, "WEBP", **options)
        case _:
            _check_jpeg(side_data, exif)
            comment = b"" if info is None else f"{INFO_PREFIX}{info.to_json()}".encode("ascii")
            quality = JPEG_QUALITY if quality is None else quality
            # Huffman tables optimized for the image make files up to 10 % smaller.
            options |= {"quality": quality, "subsampling": "4:2:0", "optimize": True}
            options["comment"] = comment
            fromarray(np.ascontiguousarray(image)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _check_pixels(image: NDArray[Any], suffix: str) -> None:
    types = (np.uint8, np.uint16) if suffix == ".png" else (np.uint8,)
    if image.dtype not in types or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise RescaleError(
            f"image must be (H, W, 3) uint8{' or uint16' if suffix == '.png' else ''}, not "
            f"{image.shape} {image.dtype}"
        )
    largest = {".webp": _WEBP_SIDE, ".png": max(image.shape)}.get(suffix, _JPEG_SIDE)
    height, width = image.shape[:2]
    if max(height, width) > largest:
        kind = "WebP" if suffix == ".webp" else "JPEG"
        raise RescaleError(
            f"is {width}x{height}: sides of a {kind} file have at most {largest} pixels; PNG has "
            "no such limit"
        )


def _check_jpeg(side_data: SideData, exif: bytes) -> None:
    if side_data.alpha is not None:
        raise RescaleError(
            "has transparency, which a JPEG file cannot hold: specify a background (--background "
            "white), or write PNG or WebP"
        )
    if len(exif) > _JPEG_SEGMENT:
        raise RescaleError(
            f"EXIF of {len(exif)} bytes: a JPEG file holds at most {_JPEG_SEGMENT}; drop it "
            "(--strip), or write PNG or WebP"
        )


def _with_alpha(image: NDArray[np.uint8], side_data: SideData) -> Image:
    if side_data.alpha is None:
        return fromarray(np.ascontiguousarray(image))
    return fromarray(np.dstack([image, side_data.alpha]))


def _png_of_16_bits(
    image: NDArray[np.uint16], side_data: SideData, info: LRInfo | None, exif: bytes
) -> bytes:
    """Encodes with OpenCV, since Pillow has no 16-bit RGB, and inserts chunks after the header."""
    pixels = image[..., ::-1]
    if side_data.alpha is not None:
        pixels = np.dstack([pixels, side_data.alpha * np.uint16(257)])
    done, encoded = cv2.imencode(
        ".png", np.ascontiguousarray(pixels), [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL]
    )
    if not done:
        raise RescaleError(f"cannot be encoded as PNG: {image.shape} {image.dtype}")
    chunks = []
    if side_data.profile is not None:
        chunks.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(side_data.profile)))
    if info is not None:
        chunks.append(_chunk(b"tEXt", f"{INFO_KEY}\0{info.to_json()}".encode("ascii")))
    if exif:
        chunks.append(_chunk(b"eXIf", exif))
    content = encoded.tobytes()
    header = len(PNG_START) + 4 + 4 + 13 + 4
    return b"".join([content[:header], *chunks, content[header:]])


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

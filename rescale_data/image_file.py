"""Image files: reading, writing, listing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rescale_compat.errors import RescaleError

import numpy as np
import numpy.typing as npt

from rescale_data.atomic import replacing
from rescale_data.decoding import PNG_START, ImageFileError, decode_image, is_complete
from rescale_data.encoding import encode_image
from rescale_data.lr_info import LRInfo
from rescale_data.records import record_text
from rescale_data.side_data import SideData

__all__ = [
    "IMAGE_SUFFIXES",
    "PNG_START",
    "ImageFileError",
    "LRInfo",
    "SideData",
    "decode_image",
    "image_names",
    "list_images",
    "read_image",
    "read_info",
    "to_float",
    "write_file",
    "write_image",
    "write_parts",
]

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Suffixes of the files that `list_images` returns, in lower case."""

Image = npt.NDArray[Any]


def read_image(path: str | os.PathLike[str]) -> Image:
    """Reads an image as upright RGB pixels; see `decode_image`.

    Returns:
        (H, W, 3) RGB, uint8, or uint16 if the file has more bits.

    Raises:
        ImageFileError: If the file is not an image, broken, truncated, or of an unsupported kind.
        OSError: If the file cannot be read.
    """
    return decode_image(Path(path).read_bytes(), os.fspath(path))


def to_float(image: Image) -> npt.NDArray[np.float32]:
    """Converts an image of any bit depth to float32 in [0, 1].

    Raises:
        ValueError: If the pixels are neither uint8 nor uint16 nor floating point.
    """
    if np.issubdtype(image.dtype, np.floating):
        return image.astype(np.float32, copy=False)
    if image.dtype not in (np.uint8, np.uint16):
        raise RescaleError(f"pixels must be uint8, uint16 or float, not {image.dtype}")
    return np.divide(image, np.iinfo(image.dtype).max, dtype=np.float32)


def write_image(
    path: str | os.PathLike[str],
    image: Image,
    *,
    quality: int | None = None,
    info: LRInfo | None = None,
    side_data: SideData | None = None,
) -> None:
    """Writes an image atomically: the file appears only when it is complete.

    Args:
        path: File to write, .png, .jpg/.jpeg or .webp; an existing file is replaced.
        image: (H, W, 3) RGB, uint8; for PNG also uint16.
        quality: From 1 to 100; for JPEG (default 95; chroma is 4:2:0), and for WebP, which is
            lossless by default.
        info: Record of an LR file.
        side_data: Transparency, color profile and EXIF.

    Raises:
        ValueError: If the suffix is unsupported, the array or the quality is invalid, or the format
            cannot represent the image.
        OSError: If the file cannot be written; no partial file remains.
    """
    path = Path(path)
    try:
        content = encode_image(image, path.suffix, quality=quality, info=info, side_data=side_data)
    except RescaleError as error:
        raise RescaleError(f"{path}: {error}") from error
    write_file(path, content)


def write_file(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Writes a file atomically: it appears only when it is complete.

    Raises:
        OSError: If it cannot be written; the message names it, and no partial file remains.
    """
    write_parts(path, [data])


def write_parts(path: str | os.PathLike[str], parts: Iterable[bytes | memoryview]) -> None:
    """Like `write_file`, from an iterable of parts, so that only one is in memory at a time."""
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.writelines(parts)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def read_info(path: str | os.PathLike[str]) -> LRInfo | None:
    """Reads the metadata of an LR file.

    Returns:
        The metadata, or None if the file has none.

    Raises:
        ValueError: If the metadata is malformed.
        ImageFileError: If the file is broken.
        OSError: If the file cannot be read.
    """
    data = Path(path).read_bytes()
    if not is_complete(data):
        raise ImageFileError(f"{os.fspath(path)}: truncated image file")
    try:
        text = record_text(data)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise various exceptions for broken files
        raise ImageFileError(f"{os.fspath(path)}: broken image file ({error})") from error
    if text is None:
        return None
    try:
        return LRInfo.from_json(text)
    except ValueError as error:
        raise RescaleError(f"{os.fspath(path)}: malformed record: {error}") from error


def list_images(folder: str | os.PathLike[str], recursive: bool = False) -> list[Path]:
    """Lists the images of a folder by suffix, sorted; hidden files are skipped.

    Raises:
        OSError: If the folder or a subfolder does not exist or cannot be read.
    """
    return [Path(folder, name) for name in image_names(folder, recursive)]


def image_names(folder: str | os.PathLike[str], recursive: bool = False) -> list[str]:
    """Like `list_images`, but returns paths relative to the folder; fast for millions of images."""
    # All paths start with this prefix; `os.path.relpath` takes several times as long as listing.
    start = len(os.path.join(os.fspath(folder), ""))

    def names(current: str) -> Iterator[str]:
        with os.scandir(current) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    # Links to folders are not followed: they could form a cycle.
                    if recursive and not entry.is_symlink():
                        yield from names(entry.path)
                elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                    yield entry.path[start:]

    return sorted(names(os.fspath(folder)))

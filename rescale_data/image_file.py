"""Image files: reading, writing, and the metadata of LR files.

The pixels of an LR image determine neither its scale nor the size of the original, and both are
needed to restore it. They are stored in the file as one line of JSON: in a PNG text chunk named
"rescale", or in a JPEG comment that starts with "rescale:".
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rescale_compat.errors import RescaleError

import numpy as np
import numpy.typing as npt
from PIL.Image import fromarray
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngInfo

from rescale_data.atomic import replacing
from rescale_data.decoding import (
    JPEG_START,
    PNG_START,
    ImageFileError,
    decode_image,
    is_complete,
    read_png_chunks,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "PNG_START",
    "ImageFileError",
    "LRInfo",
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

JPEG_QUALITY = 95
"""Default quality of JPEG files."""

# Level 6 gives files that are 2 % smaller but takes twice as long to write.
PNG_LEVEL = 3

INFO_KEY = "rescale"
INFO_VERSION = 1
# Kinds of text chunks: other tools may turn one into another.
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
# The scales that a file may state: a network may have narrower limits.
SCALE_LIMITS = (1.0, 256.0)

Image = npt.NDArray[Any]


@dataclass(frozen=True)
class LRInfo:
    """The metadata of an LR file, from which it can be restored without further information.

    Args:
        network: Name of the network that made the LR image ("aidn").
        scale: HR side over LR side, (vertical, horizontal).
        size: (height, width) of the HR image in pixels.
        weights: Fingerprint of the weights that made the LR image.

    Raises:
        ValueError: If a value has the wrong type or is out of range.
    """

    network: str
    scale: tuple[float, float]
    size: tuple[int, int]
    weights: str

    def __post_init__(self) -> None:
        """Checks the values, and converts lists to tuples."""
        for name, text in (("network", self.network), ("weights", self.weights)):
            if not isinstance(text, str) or not text:
                raise RescaleError(f"{name} must be a name, not {text!r}")
        low, high = SCALE_LIMITS
        scale, size = _pair(self.scale), _pair(self.size)
        if not all(_is_number(s) and low <= s <= high for s in scale):
            raise RescaleError(
                f"scale must be two numbers from {low} to {high}, not {self.scale!r}"
            )
        if not all(_is_number(n) and isinstance(n, int) and n > 0 for n in size):
            raise RescaleError(f"size must be two whole numbers over 0, not {self.size!r}")
        object.__setattr__(self, "scale", tuple(map(float, scale)))
        object.__setattr__(self, "size", size)

    def to_json(self) -> str:
        """Returns the metadata as one line of JSON; `from_json` is the exact inverse."""
        return json.dumps({"version": INFO_VERSION, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> LRInfo:
        """Parses the output of `to_json`.

        Raises:
            ValueError: If the text is malformed.
        """
        try:
            entries = json.loads(text)
        except RecursionError:
            raise RescaleError("JSON nested too deeply") from None
        names = {"version", "network", "scale", "size", "weights"}
        if not isinstance(entries, dict) or set(entries) != names:
            raise RescaleError(f"expected the entries {', '.join(sorted(names))}")
        if entries.pop("version") != INFO_VERSION:
            raise RescaleError(
                f"written by a later version: only version {INFO_VERSION} is supported"
            )
        return cls(**entries)


def read_image(path: str | os.PathLike[str]) -> Image:
    """Reads an image as it should be looked at: RGB and upright; see `decode_image`.

    Returns:
        (H, W, 3) RGB, uint8, or uint16 where the file has more bits.

    Raises:
        ImageFileError: If the file is no image, broken, truncated, or of an unsupported kind.
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
    image: npt.NDArray[np.uint8],
    *,
    quality: int | None = None,
    info: LRInfo | None = None,
) -> None:
    """Writes an image atomically: it appears under its name only when it is complete.

    Args:
        path: File to write, .png or .jpg/.jpeg; an existing file is replaced.
        image: (H, W, 3) RGB, uint8.
        quality: JPEG quality from 1 to 100 (default 95; chroma is 4:2:0). Only for JPEG.
        info: Metadata of an LR file.

    Raises:
        ValueError: If the suffix is unsupported, or the array or the quality is invalid.
        OSError: If the file cannot be written; no partial file remains.
    """
    path = Path(path)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise RescaleError(
            f"{path}: image must be (H, W, 3) uint8, not {image.shape} {image.dtype}"
        )
    pil_image = fromarray(np.ascontiguousarray(image))
    buffer = io.BytesIO()
    match path.suffix.lower():
        case ".png":
            if quality is not None:
                raise RescaleError(f"{path}: only .jpg and .jpeg files have a quality")
            text = PngInfo()
            if info is not None:
                text.add_text(INFO_KEY, info.to_json())
            pil_image.save(buffer, "PNG", pnginfo=text, compress_level=PNG_LEVEL)
        case ".jpg" | ".jpeg":
            quality = JPEG_QUALITY if quality is None else quality
            if not 1 <= quality <= 100:
                raise RescaleError(f"{path}: quality must be from 1 to 100, not {quality}")
            comment = b"" if info is None else f"{INFO_KEY}:{info.to_json()}".encode("ascii")
            pil_image.save(buffer, "JPEG", quality=quality, subsampling="4:2:0", comment=comment)
        case suffix:
            raise RescaleError(f"{path}: suffix must be .png, .jpg or .jpeg, not {suffix!r}")
    write_file(path, buffer.getbuffer())


def write_file(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Writes a file atomically: it appears under its name only when it is complete.

    Raises:
        OSError: If it cannot be written; the message names it, and no partial file remains.
    """
    write_parts(path, [data])


def write_parts(path: str | os.PathLike[str], parts: Iterable[bytes | memoryview]) -> None:
    """As `write_file`, from an iterable of parts, so that only one has to be in memory."""
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
        ImageFileError: If the file is a broken PNG or JPEG.
        OSError: If the file cannot be read.
    """
    data = Path(path).read_bytes()
    if not is_complete(data):
        raise ImageFileError(f"{os.fspath(path)}: truncated image file")
    try:
        texts = list(_metadata_texts(data))
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageFileError(f"{os.fspath(path)}: broken image file ({error})") from error
    if not texts:
        return None
    try:
        return LRInfo.from_json(texts[-1])
    except ValueError as error:
        raise RescaleError(f"{os.fspath(path)}: malformed rescale info: {error}") from error


def list_images(folder: str | os.PathLike[str], recursive: bool = False) -> list[Path]:
    """Lists the images of a folder by suffix, sorted; hidden files are skipped.

    Raises:
        OSError: If the folder or a subfolder does not exist or cannot be read.
    """
    return [Path(folder, name) for name in image_names(folder, recursive)]


def image_names(folder: str | os.PathLike[str], recursive: bool = False) -> list[str]:
    """As `list_images`, but returns paths relative to the folder; fast for millions of images."""
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


def _pair(values: object) -> tuple[Any, ...]:
    """Returns a list or tuple of length two as a tuple, anything else as (None, None)."""
    return tuple(values) if isinstance(values, list | tuple) and len(values) == 2 else (None, None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _metadata_texts(data: bytes) -> Iterator[str]:
    """Yields the texts that `write_image` put into a file, if it did without decoding pixels.

    Pillow's class for JPEG is used by itself because `PIL.Image.open` refuses very large images.
    """
    if data.startswith(PNG_START):
        text = read_png_chunks(data, PNG_TEXTS).im_text.get(INFO_KEY)
        if text is not None:
            yield str(text)
    elif data.startswith(JPEG_START):
        prefix = f"{INFO_KEY}:".encode("ascii")
        jpeg = JpegImageFile(io.BytesIO(data))
        with jpeg:
            for name, segment in jpeg.applist:
                if name == "COM" and segment.startswith(prefix):
                    yield segment.removeprefix(prefix).decode("ascii", "replace")

"""Picture files: reading, writing, and what an LR file carries.

An LR picture alone tells neither the scale it was made with nor the size it came from, and both
are needed to restore it. So they travel inside the file: in a PNG text chunk named "rescale", or in
a JPEG comment that starts with "rescale:", as one line of JSON.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
"""Suffixes of the files that `list_images` finds, in lower case."""

JPEG_QUALITY = 95
"""Quality of a written JPEG where none is asked for."""

# Files of level 6 are 2 % smaller and take twice as long to write.
PNG_LEVEL = 3

INFO_KEY = "rescale"
INFO_VERSION = 1
# Kinds of text chunks: other tools may turn one into another.
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
# The scales that a file may ask for, by network; a scale of 1 keeps a side as it is.
SCALE_LIMITS = {"aidn": (1.0, 4.0)}
OTHER_SCALE_LIMITS = (1.0, 256.0)

Image = npt.NDArray[Any]


@dataclass(frozen=True)
class LRInfo:
    """What an LR file carries, so that it can be restored from itself alone.

    Args:
        network: Name of the network that made it ("aidn").
        scale: HR side over LR side, (vertical, horizontal).
        size: (height, width) of the HR picture in pixels.
        weights: Fingerprint of the weights that made it.

    Raises:
        ValueError: For a value of the wrong type or out of range.
    """

    network: str
    scale: tuple[float, float]
    size: tuple[int, int]
    weights: str

    def __post_init__(self) -> None:
        """Checks the values, and makes tuples of lists."""
        for name, text in (("network", self.network), ("weights", self.weights)):
            if not isinstance(text, str) or not text:
                raise ValueError(f"{name} must be a name, not {text!r}")
        low, high = SCALE_LIMITS.get(self.network, OTHER_SCALE_LIMITS)
        scale, size = _pair(self.scale), _pair(self.size)
        if not all(_is_number(s) and low <= s <= high for s in scale):
            raise ValueError(f"scale must be two numbers from {low} to {high}, not {self.scale!r}")
        if not all(_is_number(n) and isinstance(n, int) and n > 0 for n in size):
            raise ValueError(f"size must be two whole numbers over 0, not {self.size!r}")
        object.__setattr__(self, "scale", tuple(map(float, scale)))
        object.__setattr__(self, "size", size)

    def to_json(self) -> str:
        """Returns the info as one line of JSON, from which `from_json` gets it back exactly."""
        return json.dumps({"version": INFO_VERSION, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> LRInfo:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: If the text is anything else.
        """
        try:
            entries = json.loads(text)
        except RecursionError:
            raise ValueError("JSON nested too deeply") from None
        names = {"version", "network", "scale", "size", "weights"}
        if not isinstance(entries, dict) or set(entries) != names:
            raise ValueError(f"expected the entries {', '.join(sorted(names))}")
        if entries.pop("version") != INFO_VERSION:
            raise ValueError(
                f"written by a later version than {INFO_VERSION}, which this one reads"
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
    """Returns an image as float32 in [0, 1], whatever its depth.

    Raises:
        ValueError: If the pixels are neither uint8 nor uint16 nor floating point.
    """
    if np.issubdtype(image.dtype, np.floating):
        return image.astype(np.float32, copy=False)
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels must be uint8, uint16 or float, not {image.dtype}")
    return np.divide(image, np.iinfo(image.dtype).max, dtype=np.float32)


def write_image(
    path: str | os.PathLike[str],
    image: npt.NDArray[np.uint8],
    *,
    quality: int | None = None,
    info: LRInfo | None = None,
) -> None:
    """Writes a picture; it appears under its name only when it is complete.

    Args:
        path: File to write, .png or .jpg/.jpeg; an older one is replaced.
        image: (H, W, 3) RGB, uint8.
        quality: JPEG quality from 1 to 100 (default 95; chroma is 4:2:0). Only for JPEG.
        info: What an LR file shall carry.

    Raises:
        ValueError: For another suffix, another kind of array, or a quality that does not fit.
        OSError: If the file cannot be written; nothing is left behind then.
    """
    path = Path(path)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"{path}: image must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
    picture = fromarray(np.ascontiguousarray(image))
    buffer = io.BytesIO()
    match path.suffix.lower():
        case ".png":
            if quality is not None:
                raise ValueError(f"{path}: a quality is for .jpg and .jpeg files only")
            text = PngInfo()
            if info is not None:
                text.add_text(INFO_KEY, info.to_json())
            picture.save(buffer, "PNG", pnginfo=text, compress_level=PNG_LEVEL)
        case ".jpg" | ".jpeg":
            quality = JPEG_QUALITY if quality is None else quality
            if not 1 <= quality <= 100:
                raise ValueError(f"{path}: quality must be from 1 to 100, not {quality}")
            comment = b"" if info is None else f"{INFO_KEY}:{info.to_json()}".encode("ascii")
            picture.save(buffer, "JPEG", quality=quality, subsampling="4:2:0", comment=comment)
        case suffix:
            raise ValueError(f"{path}: suffix must be .png, .jpg or .jpeg, not {suffix!r}")
    write_file(path, buffer.getbuffer())


def write_file(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Writes a file that appears under its name only when it is complete.

    Raises:
        OSError: If it cannot be written, with its name; nothing is left behind then.
    """
    write_parts(path, [data])


def write_parts(path: str | os.PathLike[str], parts: Iterable[bytes | memoryview]) -> None:
    """Writes a file as `write_file` does, from parts of which one is in memory at a time."""
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            file.writelines(parts)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def read_info(path: str | os.PathLike[str]) -> LRInfo | None:
    """Reads what an LR file carries.

    Returns:
        The info, or None where the file carries nothing.

    Raises:
        ValueError: If the file carries something malformed.
        ImageFileError: If the file is a broken PNG or JPEG.
        OSError: If the file cannot be read.
    """
    data = Path(path).read_bytes()
    if not is_complete(data):
        raise ImageFileError(f"{os.fspath(path)}: truncated image file")
    try:
        texts = list(_carried_texts(data))
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageFileError(f"{os.fspath(path)}: broken image file ({error})") from error
    if not texts:
        return None
    try:
        return LRInfo.from_json(texts[-1])
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: malformed rescale info: {error}") from error


def list_images(folder: str | os.PathLike[str], recursive: bool = False) -> list[Path]:
    """Lists the pictures of a folder by suffix, sorted; hidden files are left out.

    Raises:
        OSError: If the folder, or one inside it, does not exist or cannot be read.
    """
    return [Path(folder, name) for name in image_names(folder, recursive)]


def image_names(folder: str | os.PathLike[str], recursive: bool = False) -> list[str]:
    """Returns what `list_images` does by paths relative to the folder, for millions of pictures."""
    # Every path begins with this; `os.path.relpath` takes several times as long as the listing.
    start = len(os.path.join(os.fspath(folder), ""))

    def names(current: str) -> Iterator[str]:
        with os.scandir(current) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    # A link to a folder could lead round in a circle.
                    if recursive and not entry.is_symlink():
                        yield from names(entry.path)
                elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                    yield entry.path[start:]

    return sorted(names(os.fspath(folder)))


def _pair(values: object) -> tuple[Any, ...]:
    """Returns a list or tuple of two as a tuple, anything else as one that fails every check."""
    return tuple(values) if isinstance(values, list | tuple) and len(values) == 2 else (None, None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _carried_texts(data: bytes) -> Iterator[str]:
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

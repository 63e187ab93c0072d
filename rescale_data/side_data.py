"""Side data: contents of an image file besides RGB pixels that LR and restored files keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rescale_compat.errors import RescaleError

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from rescale_data.decoding import PNG_START, is_tiff, is_webp, open_with_pillow, read_png_chunks
from rescale_data.exif import carried_exif

__all__ = [
    "OTHER_COLORS",
    "Color",
    "SideData",
    "find_exif",
    "flattened",
    "png_info",
    "read_side_data",
    "side_data_of",
]

OTHER_COLORS = ("CMYK", "LAB")
"""Pillow's names of color spaces that are converted to RGB."""

Color = tuple[int, int, int]
"""RGB, 0 to 255 each."""

_PNG_CHUNKS = (b"iCCP", b"eXIf", b"tEXt", b"zTXt", b"iTXt")
_XMP_KEYS = ("xmp", "XML:com.adobe.xmp")
# Color space in bytes 16 to 20 of an ICC profile.
_RGB_SPACE = b"RGB "


@dataclass(frozen=True, eq=False)
class SideData:
    """Transparency, color profile and EXIF of an image.

    Attributes:
        alpha: (H, W), uint8; None for an opaque image.
        profile: ICC profile of an RGB color space. Pixels are not converted, so it applies to the
            original, LR and restored images alike.
        exif: TIFF structure without orientation and thumbnail; see `carried_exif`.
    """

    alpha: NDArray[np.uint8] | None = None
    profile: bytes | None = None
    exif: bytes | None = None


def read_side_data(data: bytes) -> SideData:
    """Reads side data from an image file; alpha is upright, like the pixels of `decode_image`.

    Broken EXIF and profiles of other color spaces are omitted.

    Args:
        data: Content of a file that `decode_image` supports.

    Raises:
        Exception: Any exception that Pillow raises for broken metadata.
    """
    image = open_with_pillow(data)
    if image is None:
        return SideData()
    with image:
        if data.startswith(PNG_START):  # including chunks after the pixels
            image.info |= png_info(data)
        if data.startswith(PNG_START) or is_webp(data):
            # `decode_image` reads the orientation from EXIF only.
            for key in _XMP_KEYS:
                image.info.pop(key, None)
        return side_data_of(image, data if is_tiff(data) else find_exif(image.info))


def side_data_of(image: Image.Image, exif: bytes | None) -> SideData:
    """Returns the side data of a PIL image whose EXIF is ``exif``.

    Raises:
        Exception: Any exception that Pillow raises for broken metadata.
    """
    alpha = None
    if image.has_transparency_data:
        channel = ImageOps.exif_transpose(image).convert("RGBA").getchannel("A")
        if channel.getextrema() != (255, 255):
            alpha = np.array(channel)
    profile = image.info.get("icc_profile")
    if not profile or profile[16:20] != _RGB_SPACE or image.mode in OTHER_COLORS:
        profile = None
    try:
        carried = carried_exif(exif) if exif else None
    except RescaleError:  # broken, which `side_data_and_losses` reports
        carried = None
    return SideData(alpha, profile, carried)


def find_exif(info: dict[str | tuple[int, int], Any]) -> bytes | None:
    """Finds EXIF, as stored, in the metadata that Pillow has read from a file other than TIFF."""
    if info.get("exif"):
        return bytes(info["exif"])
    profile = info.get("Raw profile type exif")  # written by ImageMagick
    if isinstance(profile, str):
        try:
            return bytes.fromhex("".join(profile.split("\n")[3:]))
        except ValueError:
            return None
    return None


def png_info(data: bytes) -> dict[str | tuple[int, int], Any]:
    """Reads the metadata of a PNG, at any position, under Pillow's names.

    Raises:
        OSError, SyntaxError, ValueError: If a chunk is broken or exceeds the file.
    """
    stream = read_png_chunks(data, _PNG_CHUNKS)
    info: dict[str | tuple[int, int], Any] = {**stream.im_info}
    info.update(stream.im_text)
    return info


def flattened(pixels: NDArray[Any], alpha: NDArray[np.uint8], color: Color) -> NDArray[Any]:
    """Composites an image over a background color.

    Args:
        pixels: (H, W, 3), uint8 or uint16; not multiplied by alpha.
        alpha: (H, W), uint8.
        color: The background.

    Returns:
        (H, W, 3) of the same dtype, rounded.
    """
    below = np.array(color, np.float32) * (np.iinfo(pixels.dtype).max / 255)
    result = np.empty_like(pixels)
    for row, source, opacity in zip(result, pixels, alpha, strict=True):  # saves memory
        share = opacity[:, None].astype(np.float32) / 255
        row[:] = np.rint(below + (source - below) * share)
    return result

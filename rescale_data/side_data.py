"""What an image file holds beside its RGB pixels, and is carried to LR and restored files."""

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
# What an ICC profile says of its color space, at bytes 16 to 20.
_RGB_SPACE = b"RGB "


@dataclass(frozen=True, eq=False)
class SideData:
    """What an image has beside its colors.

    Attributes:
        alpha: (H, W), uint8; None for an opaque image.
        profile: ICC profile of an RGB color space. Pixels are never converted: it says what their
            numbers mean before and after.
        exif: TIFF structure without orientation and thumbnail, see `carried_exif`.
    """

    alpha: NDArray[np.uint8] | None = None
    profile: bytes | None = None
    exif: bytes | None = None


def read_side_data(data: bytes) -> SideData:
    """Reads side data from an image file; alpha is upright, as the pixels of `decode_image` are.

    EXIF that is broken and profiles of other color spaces are left out.

    Args:
        data: Content of a file that `decode_image` reads.

    Raises:
        Exception: Whatever Pillow makes of broken metadata.
    """
    image = open_with_pillow(data)
    if image is None:
        return SideData()
    with image:
        if data.startswith(PNG_START):  # also chunks behind the pixels
            image.info |= png_info(data)
        if data.startswith(PNG_START) or is_webp(data):
            # `decode_image` takes the orientation from EXIF alone.
            for key in _XMP_KEYS:
                image.info.pop(key, None)
        return side_data_of(image, data if is_tiff(data) else find_exif(image.info))


def side_data_of(image: Image.Image, exif: bytes | None) -> SideData:
    """Returns the side data of an image of Pillow, of which ``exif`` has been found.

    Raises:
        Exception: Whatever Pillow makes of broken metadata.
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
    except RescaleError:  # broken: `find_losses` finds that it is missing
        carried = None
    return SideData(alpha, profile, carried)


def find_exif(info: dict[str | tuple[int, int], Any]) -> bytes | None:
    """Finds EXIF, as stored, among what Pillow has read from a file other than TIFF."""
    if info.get("exif"):
        return bytes(info["exif"])
    profile = info.get("Raw profile type exif")  # a text of ImageMagick's
    if isinstance(profile, str):
        try:
            return bytes.fromhex("".join(profile.split("\n")[3:]))
        except ValueError:
            return None
    return None


def png_info(data: bytes) -> dict[str | tuple[int, int], Any]:
    """Reads the metadata of a PNG, wherever it is, as Pillow names it.

    Raises:
        OSError, SyntaxError, ValueError: If a chunk is broken, or runs past the end.
    """
    stream = read_png_chunks(data, _PNG_CHUNKS)
    info: dict[str | tuple[int, int], Any] = {**stream.im_info}
    info.update(stream.im_text)
    return info


def flattened(pixels: NDArray[Any], alpha: NDArray[np.uint8], color: Color) -> NDArray[Any]:
    """Puts an image over a color.

    Args:
        pixels: (H, W, 3), uint8 or uint16; not multiplied by alpha.
        alpha: (H, W), uint8.
        color: What shows through.

    Returns:
        (H, W, 3) of the same type, rounded.
    """
    below = np.array(color, np.float32) * (np.iinfo(pixels.dtype).max / 255)
    result = np.empty_like(pixels)
    for row, source, opacity in zip(result, pixels, alpha, strict=True):  # saves memory
        share = opacity[:, None].astype(np.float32) / 255
        row[:] = np.rint(below + (source - below) * share)
    return result

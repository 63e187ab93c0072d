"""Contents of an image file that neither 8-bit RGB pixels nor side data preserve.

Not reported, since nothing is lost: side data, alpha that is opaque everywhere, a profile whose
colors differ from sRGB by at most 2 of 255 levels, the orientation (it is applied), and information
about the file itself, such as its resolution and the program that wrote it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from enum import Enum
from functools import lru_cache

from rescale_compat.errors import RescaleError

import cv2
import numpy as np
from PIL import Image, ImageCms
from PIL.IptcImagePlugin import getiptcinfo
from PIL.PngImagePlugin import PngStream

from rescale_data.decoding import (
    PNG_START,
    is_tiff,
    open_with_pillow,
    png_chunks,
    read_png_chunks,
    tiff_tags,
)
from rescale_data.encoding import INFO_KEY
from rescale_data.exif import METADATA_TAGS, exif_is_broken
from rescale_data.records import comments, is_own_comment
from rescale_data.side_data import OTHER_COLORS, SideData, find_exif, png_info, read_side_data

__all__ = ["Loss", "side_data_and_losses"]


class Loss(Enum):
    """A kind of loss; its value is the message for users."""

    FRAMES = "only the first of several images is read"
    COLORS = "the colors (CMYK, LAB) are converted to RGB, without a color profile"
    PROFILE = "the color profile is not for RGB and is dropped"
    SPACE = "the color space of the PNG (gAMA, cHRM, cICP) is dropped; pixels are treated as sRGB"
    DEPTH = (
        "LR images have 8 bits per channel, fewer than this file; `rescale up --depth 16` restores "
        "16, rounded less"
    )
    METADATA = "metadata other than EXIF (XMP, IPTC, comments, texts) is dropped"
    EXIF = "EXIF is broken and is dropped"
    UNKNOWN = "metadata cannot be read and is dropped"


_PNG_CHUNKS = (
    b"IHDR", b"acTL", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"tEXt", b"zTXt", b"iTXt",
)  # fmt: skip
# Values of these chunks for sRGB: code points of ITU-T H.273; white, red, green, blue in CIE xy.
_SRGB_CODES = bytes([1, 13, 0, 1])
_SRGB_GAMMA = 1 / 2.2
_SRGB_CHROMATICITY = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
# Information about the writing program or the file.
_TRIVIAL_TEXTS = {
    INFO_KEY, "Software", "date:create", "date:modify", "date:timestamp",
    "Raw profile type exif",  # read as EXIF
}  # fmt: skip

_BITS_PER_SAMPLE = 258


def side_data_and_losses(data: bytes) -> tuple[SideData, list[Loss]]:
    """Returns the side data of an image file, and the kinds of losses, each once.

    Args:
        data: Content of a file that `decode_image` reads.
    """
    try:
        side_data = read_side_data(data)
        losses = _png_losses if data.startswith(PNG_START) else _other_losses
        found = set(losses(data, side_data))
    except MemoryError:
        raise
    except (
        Exception
    ):  # Pillow raises various exceptions for broken metadata, even if the pixels are intact
        return SideData(), [Loss.UNKNOWN]
    return side_data, [loss for loss in Loss if loss in found]


def _png_losses(data: bytes, side_data: SideData) -> Iterator[Loss]:
    stream = read_png_chunks(data, _PNG_CHUNKS)
    if (stream.im_n_frames or 1) > 1:
        yield Loss.FRAMES
    if data[24] > 8:  # of the header
        yield Loss.DEPTH
    yield from _profile_loss(stream.im_info.get("icc_profile"), side_data)
    if _has_other_space(data, stream):
        yield Loss.SPACE
    if set(stream.im_text) - _TRIVIAL_TEXTS:
        yield Loss.METADATA
    yield from _exif_loss(find_exif(png_info(data)), side_data)


def _other_losses(data: bytes, side_data: SideData) -> Iterator[Loss]:
    image = open_with_pillow(data)
    if image is None:
        raise RescaleError("unsupported format")
    with image:
        if getattr(image, "n_frames", 1) > 1:
            yield Loss.FRAMES
        if image.mode in OTHER_COLORS:
            yield Loss.COLORS
        if _has_more_than_8_bits(data, str(image.format)):
            yield Loss.DEPTH
        yield from _profile_loss(image.info.get("icc_profile"), side_data)
        if (
            "xmp" in image.info
            or getiptcinfo(image)
            or any(c and not is_own_comment(c) for c in comments(image))
            or (is_tiff(data) and METADATA_TAGS & set(tiff_tags(data)))
        ):
            yield Loss.METADATA
        yield from _exif_loss(data if is_tiff(data) else find_exif(image.info), side_data)


def _has_more_than_8_bits(data: bytes, file_format: str) -> bool:
    if is_tiff(data):
        return bool(max(tiff_tags(data).get(_BITS_PER_SAMPLE, (1,))) > 8)
    if file_format not in ("AVIF", "JPEG2000", "PPM"):
        return False
    # Pillow does not provide it.
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    return image is not None and image.dtype != np.uint8


def _has_other_space(data: bytes, stream: PngStream) -> bool:
    """Whether a PNG without ICC profile specifies a color space other than sRGB."""
    codes = [data[at : at + length] for kind, at, length in png_chunks(data) if kind == b"cICP"]
    if codes:
        return codes[-1] != _SRGB_CODES
    if "icc_profile" in stream.im_info or "srgb" in stream.im_info:
        return False
    gamma = stream.im_info.get("gamma", _SRGB_GAMMA)
    chromaticity = stream.im_info.get("chromaticity", _SRGB_CHROMATICITY)
    return not (
        np.allclose(gamma, _SRGB_GAMMA, atol=0.005)
        and np.allclose(chromaticity, _SRGB_CHROMATICITY, atol=0.005)
    )


def _exif_loss(exif: bytes | None, side_data: SideData) -> Iterator[Loss]:
    if exif and side_data.exif is None and exif_is_broken(exif):
        yield Loss.EXIF


def _profile_loss(profile: bytes | None, side_data: SideData) -> Iterator[Loss]:
    if profile and side_data.profile is None and not _is_srgb(profile):
        yield Loss.PROFILE


@lru_cache(maxsize=16)
def _is_srgb(profile: bytes) -> bool:
    """Whether the colors of a profile are those of sRGB, regardless of its name."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = {"RGB": "RGB", "GRAY": "L"}.get(source.profile.xcolor_space.strip())
    if mode is None:
        return False
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    image = Image.fromarray(colors).convert(mode)
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None
    difference = np.asarray(converted, np.int16) - np.asarray(image.convert("RGB"), np.int16)
    return bool(np.abs(difference).max() <= 2)

"""What an image file holds that 8-bit RGB pixels do not keep.

Not counted, as nothing is lost: alpha that is opaque everywhere, a color profile under which no
color differs from sRGB by more than 2 of 255 levels, an orientation (it is applied), and what
merely describes the file itself, such as its resolution and the program that wrote it.
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
from PIL.ImageFile import ImageFile
from PIL.IptcImagePlugin import getiptcinfo
from PIL.JpegImagePlugin import JpegImageFile

from rescale_data.decoding import (
    PNG_START,
    is_tiff,
    open_with_pillow,
    read_png_chunks,
    tiff_tags,
)
from rescale_data.image_file import INFO_KEY, PNG_TEXTS

__all__ = ["Loss", "find_losses"]


class Loss(Enum):
    """A kind of loss; its value says it to the user."""

    FRAMES = "only the first of several images is read"
    ALPHA = "transparency is dropped"
    PROFILE = "the color profile is dropped, and the pixels are taken as sRGB"
    DEPTH = "more than 8 bits per channel are rounded to 8"
    METADATA = "metadata (EXIF, XMP, IPTC, comments) is dropped"
    UNKNOWN = "anything but the pixels is dropped, and cannot be read to say what"


_PNG_CHUNKS = (b"IHDR", b"acTL", b"tRNS", b"iCCP", b"eXIf", *PNG_TEXTS)
# Written by programs about themselves, or about the file.
_TRIVIAL_TEXTS = {INFO_KEY, "Software", "date:create", "date:modify", "date:timestamp"}

_BITS_PER_SAMPLE = 258
_EXIF_IFD = 34665
# How the pixels of a TIFF are stored, resolution, orientation, software, profile.
_TRIVIAL_TAGS = {
    *range(254, 267), 273, 274, *range(277, 285), *range(290, 294), 296, 297, 301, 305,
    *range(317, 326), 330, 332, 334, *range(336, 343), 347, *range(512, 522), *range(529, 533),
    _EXIF_IFD, 34675,
}  # fmt: skip
# Versions, color space, width and height, interoperability.
_TRIVIAL_EXIF = {36864, 37121, 40960, 40961, 40962, 40963, 40965}


def find_losses(data: bytes) -> list[Loss]:
    """Returns what gets lost when an image file becomes 8-bit RGB pixels, each kind once.

    Args:
        data: Content of a file that `decode_image` reads.
    """
    try:
        found = set(_png_losses(data) if data.startswith(PNG_START) else _other_losses(data))
    except MemoryError:
        raise
    except Exception:  # Pillow raises all kinds for broken metadata, though the pixels are good
        found = {Loss.UNKNOWN}
    return [loss for loss in Loss if loss in found]


def _png_losses(data: bytes) -> Iterator[Loss]:
    stream = read_png_chunks(data, _PNG_CHUNKS)
    if (stream.im_n_frames or 1) > 1:
        yield Loss.FRAMES
    may_be_transparent = stream.im_mode in ("LA", "RGBA") or "transparency" in stream.im_info
    if may_be_transparent and not _is_opaque(data):
        yield Loss.ALPHA
    if data[24] > 8:  # of the header
        yield Loss.DEPTH
    yield from _profile_loss(stream.im_info.get("icc_profile"))
    exif = Image.Exif()
    exif.load(stream.im_info.get("exif", b""))
    if set(stream.im_text) - _TRIVIAL_TEXTS or _holds_metadata(exif):
        yield Loss.METADATA


def _other_losses(data: bytes) -> Iterator[Loss]:
    image = open_with_pillow(data)
    if image is None:
        raise RescaleError("unsupported format")
    with image:
        if getattr(image, "n_frames", 1) > 1:
            yield Loss.FRAMES
        if image.has_transparency_data and not _is_opaque(data):
            yield Loss.ALPHA
        if _has_more_than_8_bits(data, str(image.format)):
            yield Loss.DEPTH
        yield from _profile_loss(image.info.get("icc_profile"))
        if (
            "xmp" in image.info
            or _holds_metadata(image.getexif())
            or getiptcinfo(image)
            or any(_comments(image))
        ):
            yield Loss.METADATA


def _is_opaque(data: bytes) -> bool:
    image = open_with_pillow(data)
    assert image is not None
    with image:
        lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return lowest == 255


def _has_more_than_8_bits(data: bytes, file_format: str) -> bool:
    if is_tiff(data):
        return bool(max(tiff_tags(data).get(_BITS_PER_SAMPLE, (1,))) > 8)
    if file_format not in ("AVIF", "JPEG2000", "PPM"):
        return False
    # Pillow does not tell.
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    return image is not None and image.dtype != np.uint8


def _comments(image: ImageFile) -> Iterator[bytes]:
    """Yields the comments of a JPEG or GIF that are not ours."""
    if isinstance(image, JpegImageFile):
        for name, segment in image.applist:
            if name == "COM" and not segment.startswith(f"{INFO_KEY}:".encode("ascii")):
                yield segment
    elif image.format == "GIF":
        yield image.info.get("comment", b"")


def _holds_metadata(exif: Image.Exif) -> bool:
    return bool(set(exif) - _TRIVIAL_TAGS or set(exif.get_ifd(_EXIF_IFD)) - _TRIVIAL_EXIF)


def _profile_loss(profile: bytes | None) -> Iterator[Loss]:
    if profile and not _is_srgb(profile):
        yield Loss.PROFILE


@lru_cache(maxsize=16)
def _is_srgb(profile: bytes) -> bool:
    """Tells whether the colors of a profile are those of sRGB, whatever its name is."""
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

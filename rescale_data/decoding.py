"""Decoding of image files: from the bytes of any supported format to upright RGB pixels.

OpenCV decodes the formats used in training (PNG, JPEG, WebP, gray and RGB TIFF) quickly and at full
depth. Pillow decodes the others, for which OpenCV returns wrong results in some cases: TIFF in LAB
or with alpha, 10-bit AVIF and PNM, 16-bit BMP, rotated AVIF.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from typing import Any

from rescale_compat.errors import RescaleError

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngStream
from PIL.TiffImagePlugin import ImageFileDirectory_v2

__all__ = [
    "JPEG_START",
    "PNG_START",
    "ImageFileError",
    "decode_image",
    "image_size",
    "is_complete",
    "is_tiff",
    "is_webp",
    "open_with_pillow",
    "png_chunks",
    "read_png_chunks",
    "tiff_tags",
]

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"

_PNG_END = b"IEND\xaeB`\x82"
_JPEG_SCAN = b"\xff\xda"
_JPEG_END = b"\xff\xd9"
# Classic and BigTIFF, of either byte order.
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Pillow supports many more, some of which start external programs.
_PILLOW_FORMATS = (
    "PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM", "SUN",
)  # fmt: skip
_SUPPORTED = "PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000, PNM and Sun raster"

# Tags of TIFF, and some of their values.
_WIDTH, _LENGTH = 256, 257
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLES_PER_PIXEL, _PLANES, _EXTRA_SAMPLES, _SAMPLE_FORMAT = (
    258, 262, 277, 284, 338, 339,
)  # fmt: skip
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_SEPARATE_PLANES = 2
_ASSOCIATED_ALPHA = 1
_SAMPLE_FORMATS = {
    1: "unsigned integer",
    2: "signed integer",
    3: "floating point",
    4: "unsigned integer",  # unspecified
}


class ImageFileError(OSError):
    """An image file is broken, truncated or of an unsupported kind; the message names it."""


def decode_image(data: bytes, name: str) -> npt.NDArray[Any]:
    """Decodes an image file to upright RGB pixels.

    Gray, palette, LAB and CMYK images are converted to RGB. The orientation is applied, color
    profiles are not. Transparency is dropped; colors are not multiplied by it. Of an animation or a
    multi-page file, the first image is returned.

    Args:
        data: Content of the file.
        name: Name of the file, for the error messages.

    Returns:
        (H, W, 3) RGB, uint8, or uint16 for PNG, TIFF and gray images with more than 8 bits.

    Raises:
        ImageFileError: If the file is not an image, broken, truncated, or of an unsupported kind.
    """
    if not data:
        raise ImageFileError(f"{name}: empty file")
    if not is_complete(data):
        raise ImageFileError(f"{name}: truncated image file")
    if data.startswith((PNG_START, JPEG_START)) or is_webp(data):
        return _decode_with_opencv(data, name)
    if is_tiff(data):
        return _decode_tiff(data, name)
    return _decode_with_pillow(data, name)


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """Reads the (height, width) of an image, without its orientation applied, from the header.

    Args:
        data: Content of the file.
        name: Name of the file, for the error messages.

    Raises:
        ImageFileError: If the file is not an image, broken, or of an unsupported kind.
    """
    if not data:
        raise ImageFileError(f"{name}: empty file")
    try:
        if is_tiff(data):  # Pillow cannot open every TIFF that OpenCV can
            tags = tiff_tags(data)
            return int(tags[_LENGTH]), int(tags[_WIDTH])
        image = open_with_pillow(data)
        if image is None:
            raise ImageFileError(f"{name}: not an image in a supported format ({_SUPPORTED})")
        with image:
            return image.height, image.width
    except (ImageFileError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise various exceptions for broken files
        raise _broken(name, str(error) or type(error).__name__) from error


def is_webp(data: bytes) -> bool:
    """Whether a file is WebP, according to its first bytes."""
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def is_tiff(data: bytes) -> bool:
    """Whether a file is TIFF, according to its first bytes."""
    return data.startswith(_TIFF_STARTS)


def is_complete(data: bytes) -> bool:
    """Whether a PNG or JPEG contains its end marker; True for other formats.

    Of a file that is truncated or continues with zeros, some decoders return an image whose rest is
    gray or black.
    """
    if data.startswith(PNG_START):
        return data.rfind(_PNG_END) > 0
    if not data.startswith(JPEG_START):
        return True
    # Searched after the header, where an EXIF thumbnail may have an end marker of its own.
    position = 2
    while data[position : position + 2] != _JPEG_SCAN:
        if position + 4 > len(data):
            return False
        if data[position] != 0xFF or data[position + 1] == 0xFF:  # padding between segments
            position += 1
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return data.rfind(_JPEG_END, position) > 0


def open_with_pillow(data: bytes) -> ImageFile | None:
    """Opens an image of a supported format without decoding its pixels.

    Unlike `PIL.Image.open`, it also opens very large images.

    Returns:
        The image, or None if the format is unsupported.

    Raises:
        Exception: Any exception that Pillow raises for a broken file.
    """
    Image.init()
    for name in _PILLOW_FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))
        # For formats that Pillow was built without, it returns a message instead of True.
        if factory and accept and accept(data[:16]) is True:
            image = factory(io.BytesIO(data), "")
            assert isinstance(image, ImageFile)
            return image
    return None


def read_png_chunks(data: bytes, kinds: Collection[bytes]) -> PngStream:
    """Reads chunks of a PNG, at any position, without decoding pixels.

    Some tools move text chunks after the pixels, where `PIL.Image.open` does not find them.

    Args:
        data: Content of the file.
        kinds: Types of the chunks to read, such as `b"tEXt"`.

    Returns:
        A stream with their content in `im_text` and `im_info`.

    Raises:
        OSError, SyntaxError, ValueError: If a chunk is broken or exceeds the file.
    """
    file = io.BytesIO(data)
    stream = PngStream(file)
    for kind, position, length in png_chunks(data):
        if kind in kinds:
            file.seek(position)
            stream.crc(kind, stream.call(kind, position, length))
    return stream


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields type, position and length of the content of every chunk of a PNG except the last.

    Raises:
        ValueError: If a chunk exceeds the file.
    """
    position = len(PNG_START)
    while (kind := data[position + 4 : position + 8]) != b"IEND":
        length = int.from_bytes(data[position : position + 4], "big")
        if position + length + 12 > len(data):
            raise RescaleError("a chunk exceeds the file")
        yield kind, position + 8, length
        position += length + 12


def tiff_tags(data: bytes) -> ImageFileDirectory_v2:
    """Reads the tags of the first image of a TIFF.

    Raises:
        Exception: Any exception that Pillow raises for a broken file.
    """
    file = io.BytesIO(data)
    # BigTIFF: version 43 instead of 42, and a header of 16 bytes instead of 8.
    tags = ImageFileDirectory_v2(file.read(16 if 43 in data[2:4] else 8))
    file.seek(tags.next)
    tags.load(file)
    return tags


def _decode_with_opencv(
    data: bytes, name: str, flags: int = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
) -> npt.NDArray[Any]:
    # IMREAD_COLOR_RGB returns noise for some kinds of files in OpenCV 5.
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if image is not None and image.shape[2] == 3:
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(f"{name}: not enough memory to decode the image") from error
        raise _broken(name, error.err) from error
    if image is None:
        raise _broken(name)
    return image


def _decode_tiff(data: bytes, name: str) -> npt.NDArray[Any]:
    try:
        tags = tiff_tags(data)
        bits = set(map(int, tags.get(_BITS_PER_SAMPLE, (1,))))
        formats = set(map(int, tags.get(_SAMPLE_FORMAT, (1,))))
        photometric = int(tags.get(_PHOTOMETRIC, _BLACK_IS_ZERO))
        samples = int(tags.get(_SAMPLES_PER_PIXEL, 1))
        separate = samples > 1 and int(tags.get(_PLANES, 1)) == _SEPARATE_PLANES
        extra = tuple(map(int, tags.get(_EXTRA_SAMPLES, ())))
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises various exceptions for broken files
        raise _broken(name, str(error) or type(error).__name__) from error
    kinds = {_SAMPLE_FORMATS.get(value, f"format {value}") for value in formats}
    unsigned = kinds == {"unsigned integer"}
    gray, color = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO), photometric == _RGB
    plain = (gray and samples == 1) or (color and samples == 3)
    if unsigned and max(bits, default=1) <= 8:
        # Pillow rejects very large TIFFs, most of which are simple. OpenCV multiplies by alpha,
        # uses another white point for LAB, and does not support 2 and 4 bits.
        decode = _decode_with_opencv if plain and bits <= {1, 8} else _decode_with_pillow
        return decode(data, name)
    if not unsigned or bits != {16}:
        problem = (
            f"TIFF with {_listed(bits)}-bit {_listed(kinds)} samples is unsupported; supported are "
            "unsigned integers of 8 and 16 bits"
        )
    elif separate:
        problem = "TIFF of 16 bits with separate planes (PlanarConfiguration 2) is unsupported"
    elif not (plain or (color and samples == 4)):
        problem = (
            f"TIFF of 16 bits with {samples} samples a pixel and PhotometricInterpretation "
            f"{photometric} is unsupported; supported are gray, RGB and RGBA"
        )
    else:
        associated = samples == 4 and extra[:1] == (_ASSOCIATED_ALPHA,)
        if associated:
            return _divided_by_alpha(_decode_with_opencv(data, name, cv2.IMREAD_UNCHANGED))
        image = _decode_with_opencv(data, name)
        return np.invert(image, out=image) if photometric == _WHITE_IS_ZERO else image
    raise ImageFileError(f"{name}: {problem}")


def _divided_by_alpha(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Converts (H, W, 4) BGR, multiplied by alpha, to RGB that is not."""
    most = np.iinfo(image.dtype).max
    alpha = np.maximum(image[..., 3:].astype(np.float32), 1)
    colors = image[..., 2::-1] * (most / alpha)
    return np.rint(np.minimum(colors, most)).astype(image.dtype)


def _decode_with_pillow(data: bytes, name: str) -> npt.NDArray[Any]:
    try:
        image = open_with_pillow(data)
        if image is None:
            raise ImageFileError(f"{name}: not an image in a supported format ({_SUPPORTED})")
        with image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode == "F":
                raise ImageFileError(f"{name}: floating-point pixels are unsupported")
            if not image.mode.startswith("I"):
                return np.array(image.convert("RGB"))
            pixels = np.array(image)
    except (ImageFileError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise various exceptions for broken files
        raise _broken(name, str(error) or type(error).__name__) from error
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ImageFileError(f"{name}: 32-bit pixels are unsupported")
    return np.repeat(pixels[..., None].astype(np.uint16), 3, axis=2)


def _broken(name: str, reason: str = "") -> ImageFileError:
    details = f" ({reason})" if reason else ""
    return ImageFileError(f"{name}: broken, or an unsupported kind of image{details}")


def _listed(values: set[int] | set[str]) -> str:
    return "/".join(map(str, sorted(values)))

"""Reading the record of an LR file: a PNG text chunk, a JPEG comment, or a line of EXIF.

Files contain it twice, since tools differ in what they preserve: ImageMagick 6 drops the EXIF of a
PNG, Pillow drops text chunks and by default EXIF, and format converters keep only EXIF.
"""

from __future__ import annotations

from collections.abc import Iterator

from rescale_compat.errors import RescaleError

from PIL.Image import Image
from PIL.JpegImagePlugin import JpegImageFile

from rescale_data.decoding import PNG_START, is_tiff, open_with_pillow
from rescale_data.encoding import INFO_KEY
from rescale_data.exif import INFO_PREFIX, info_in_exif
from rescale_data.side_data import find_exif, png_info

__all__ = ["comments", "is_own_comment", "record_text", "record_text_of"]


def record_text(data: bytes) -> str | None:
    """Finds the record of an image file, a line of JSON, without decoding pixels.

    Raises:
        Exception: Any exception that Pillow raises for a broken file.
    """
    if data.startswith(PNG_START):
        info = png_info(data)
        text = info.get(INFO_KEY)
        return _in_exif(find_exif(info)) if text is None else str(text)
    if is_tiff(data):
        return _in_exif(data)
    image = open_with_pillow(data)
    if image is None:
        return None
    with image:
        return record_text_of(image)


def record_text_of(image: Image) -> str | None:
    """Finds the record of an image that Pillow has opened."""
    own = [comment for comment in comments(image) if is_own_comment(comment)]
    if own:
        return own[-1].removeprefix(INFO_PREFIX.encode("ascii")).decode("ascii", "replace")
    text = image.info.get(INFO_KEY)
    return _in_exif(find_exif(image.info)) if text is None else str(text)


def comments(image: Image) -> Iterator[bytes]:
    """Yields the comments of a JPEG or GIF."""
    if isinstance(image, JpegImageFile):
        yield from (segment for name, segment in image.applist if name == "COM")
    elif image.format == "GIF":
        yield image.info.get("comment", b"")


def is_own_comment(comment: bytes) -> bool:
    """Whether a comment is the record of an LR file."""
    return comment.startswith(INFO_PREFIX.encode("ascii"))


def _in_exif(exif: bytes | None) -> str | None:
    try:
        return None if exif is None else info_in_exif(exif)
    except RescaleError:  # broken EXIF contains no record
        return None

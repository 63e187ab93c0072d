"""EXIF: the part that LR and restored files keep, and the record of an LR file in it.

The record is a line of ImageHistory, a text in the first directory. EXIF is the only place for
metadata that PNG, JPEG and WebP share and most converters preserve.
"""

from __future__ import annotations

import struct

from rescale_compat.errors import RescaleError

from rescale_data.lr_info import LRInfo
from rescale_data.tiff_directories import (
    Directory,
    Entry,
    Order,
    read_directories,
    write_directories,
)

__all__ = [
    "INFO_PREFIX",
    "METADATA_TAGS",
    "carried_exif",
    "exif_is_broken",
    "exif_with_info",
    "info_in_exif",
]

INFO_PREFIX = "rescale:"
"""Prefix of a record that is stored as a line of text."""

METADATA_TAGS = frozenset({700, 33723, 34377, 37724})
"""Tags of TIFF files with metadata other than EXIF: XMP, IPTC, two of Photoshop."""

_EXIF, _GPS, _INTEROPERABILITY = 34665, 34853, 40965
_DIRECTORIES = (_EXIF, _GPS, _INTEROPERABILITY)
_IMAGE_HISTORY, _MAKER_NOTE, _WIDTH, _HEIGHT = 0x9213, 37500, 40962, 40963
# Storage of the pixels; orientation, thumbnail and color profile.
_STORAGE_TAGS = {
    *range(254, 267), 273, 274, *range(277, 282), 284, *range(288, 294), 297, 301, 317,
    *range(320, 326), 330, *range(332, 335), *range(336, 343), 347, *range(512, 522),
    *range(529, 533), 34675,
}  # fmt: skip
_ASCII, _LONG = 2, 4
_ORDER: Order = "<"


def carried_exif(source: bytes) -> bytes | None:
    """Selects tags that do not depend on the file: no orientation, thumbnail or record.

    Args:
        source: EXIF, with or without the header of a JPEG segment; or a TIFF file.

    Returns:
        EXIF as a TIFF structure, or None if nothing remains.

    Raises:
        ValueError: If the structure is broken.
    """
    directory, order = read_directories(_bare(source), _DIRECTORIES)
    for tag in _STORAGE_TAGS | METADATA_TAGS:
        directory.entries.pop(tag, None)
    others = [line for line in _history(directory) if not line.startswith(INFO_PREFIX)]
    _set_history(directory, others)
    directory.children = {tag: child for tag, child in directory.children.items() if child.entries}
    if not directory.entries and not directory.children:
        return None
    return write_directories(directory, order, _MAKER_NOTE)


def exif_is_broken(source: bytes) -> bool:
    """Whether `carried_exif` raises an error."""
    try:
        carried_exif(source)
    except RescaleError:
        return True
    return False


def exif_with_info(
    carried: bytes | None, info: LRInfo | None, size: tuple[int, int]
) -> bytes | None:
    """Returns the EXIF of a file to write as a TIFF structure, or None if it is empty.

    Args:
        carried: Result of `carried_exif`.
        info: Record of an LR file.
        size: (height, width) of the image in the file, for the tags that state it.
    """
    if carried is None and info is None:
        return None
    directory, order = Directory(), _ORDER
    if carried is not None:
        directory, order = read_directories(carried, _DIRECTORIES)
    details = directory.children.get(_EXIF, Directory()).entries
    for tag, pixels in ((_WIDTH, size[1]), (_HEIGHT, size[0])):
        if tag in details:
            details[tag] = Entry(_LONG, struct.pack(f"{order}L", pixels))
    if info is not None:
        _set_history(directory, [*_history(directory), f"{INFO_PREFIX}{info.to_json()}"])
    return write_directories(directory, order, _MAKER_NOTE)


def info_in_exif(exif: bytes) -> str | None:
    """Finds the record, a line of JSON, in the EXIF of an LR file.

    Raises:
        ValueError: If the structure is broken.
    """
    directory, _ = read_directories(_bare(exif), ())
    own = [line for line in _history(directory) if line.startswith(INFO_PREFIX)]
    return own[-1].removeprefix(INFO_PREFIX) if own else None


def _bare(exif: bytes) -> bytes:
    return exif.removeprefix(b"Exif\0\0")


def _history(directory: Directory) -> list[str]:
    """The lines of ImageHistory, in any encoding: every byte is a Latin-1 character."""
    entry = directory.entries.get(_IMAGE_HISTORY)
    return [] if entry is None else entry.values.rstrip(b"\0").decode("latin-1").split("\n")


def _set_history(directory: Directory, lines: list[str]) -> None:
    directory.entries.pop(_IMAGE_HISTORY, None)
    if lines:
        values = "\n".join(lines).encode("latin-1") + b"\0"
        directory.entries[_IMAGE_HISTORY] = Entry(_ASCII, values)

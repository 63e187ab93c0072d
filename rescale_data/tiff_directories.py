"""Directories of tags, the structure of TIFF and of EXIF (TIFF 6.0, section 2), as raw bytes.

Values are copied, not interpreted: Pillow writes EXIF with types guessed from the values and texts
reduced to ASCII.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal

from rescale_compat.errors import RescaleError

__all__ = ["Directory", "Entry", "Order", "read_directories", "write_directories"]

Order = Literal["<", ">"]
"""Byte order in the notation of `struct`."""

_HEADERS: dict[bytes, tuple[Order, bool]] = {
    b"II*\0": ("<", False),
    b"MM\0*": (">", False),
    b"II+\0": ("<", True),
    b"MM\0+": (">", True),
}
# Bytes of a value of each type; 16 to 18 are for BigTIFF.
_SIZES = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
    16: 8, 17: 8, 18: 8,
}  # fmt: skip
_LONG = 4
_MOST_PADDING = 8192


@dataclass(frozen=True)
class Entry:
    """The values of a tag.

    Attributes:
        type: TIFF's number of the type.
        values: The values as stored.
        offset: Position from which they were read; 0 for new values.
    """

    type: int
    values: bytes
    offset: int = 0


@dataclass
class Directory:
    """Tags with their entries, and directories that tags refer to."""

    entries: dict[int, Entry] = field(default_factory=dict)
    children: dict[int, Directory] = field(default_factory=dict)


def read_directories(
    data: bytes, children: Collection[int], depth: int = 3
) -> tuple[Directory, Order]:
    """Reads the first directory of a TIFF, BigTIFF or EXIF structure.

    Args:
        data: The structure.
        children: Tags that refer to a directory, which is read as well.
        depth: Maximum nesting of directories; deeper references are dropped.

    Raises:
        ValueError: If the structure is broken.
    """
    if data[:4] not in _HEADERS:
        raise RescaleError("EXIF without a TIFF header")
    order, big = _HEADERS[data[:4]]
    reader = _Reader(data, order, big, children)
    try:
        (start,) = reader.unpack("Q" if big else "L", 8 if big else 4)
        return reader.directory(start, depth), order
    except struct.error:
        raise RescaleError("EXIF is truncated") from None


def write_directories(directory: Directory, order: Order, pinned: int) -> bytes:
    """Writes a TIFF structure with a directory and the directories that it refers to.

    Args:
        directory: The directory.
        order: Byte order.
        pinned: A tag whose values keep the offset that they were read from, unless it is very
            large. (The maker notes of cameras contain offsets in the structure.)
    """
    kept = next((e for e in _entries(directory, pinned) if _can_stay(e)), None)
    result = bytearray(8)
    if kept is not None:
        result = result.ljust(kept.offset, b"\0") + kept.values
    start = len(result) + len(result) % 2
    result = result.ljust(start, b"\0") + _written(directory, order, start, kept)
    magic = {"<": b"II*\0", ">": b"MM\0*"}[order]
    result[:8] = magic + struct.pack(f"{order}L", start)
    return bytes(result)


def _entries(directory: Directory, tag: int) -> Iterator[Entry]:
    if tag in directory.entries:
        yield directory.entries[tag]
    for child in directory.children.values():
        yield from _entries(child, tag)


def _can_stay(entry: Entry) -> bool:
    return len(entry.values) > 4 and 8 <= entry.offset <= _MOST_PADDING


def _written(directory: Directory, order: Order, start: int, kept: Entry | None) -> bytes:
    """A directory at offset ``start``, followed by its values and children."""
    tags = sorted({**directory.entries, **directory.children})
    table = struct.pack(f"{order}H", len(tags))
    values = bytearray()
    behind = start + 2 + 12 * len(tags) + 4
    for tag in tags:
        if tag in directory.children:
            place = behind + len(values)
            values += _written(directory.children[tag], order, place, kept)
            table += struct.pack(f"{order}HHLL", tag, _LONG, 1, place)
        else:
            entry = directory.entries[tag]
            count = len(entry.values) // _SIZES[entry.type]
            table += struct.pack(f"{order}HHL", tag, entry.type, count)
            if len(entry.values) <= 4:
                table += entry.values.ljust(4, b"\0")
            elif entry is kept:
                table += struct.pack(f"{order}L", entry.offset)
            else:
                table += struct.pack(f"{order}L", behind + len(values))
                values += entry.values
        values += bytes(len(values) % 2)
    return table + bytes(4) + values


@dataclass(frozen=True)
class _Reader:
    data: bytes
    order: Order
    big: bool
    children: Collection[int]

    def unpack(self, codes: str, offset: int) -> tuple[int, ...]:
        return struct.unpack_from(self.order + codes, self.data, offset)

    def directory(self, start: int, depth: int) -> Directory:
        result = Directory()
        counter, entry_size, field_size = ("Q", 20, 8) if self.big else ("H", 12, 4)
        (count,) = self.unpack(counter, start)
        place = start + struct.calcsize(f"={counter}")
        for position in range(place, place + count * entry_size, entry_size):
            tag, kind, values = self.unpack("HHQ" if self.big else "HHL", position)
            if kind not in _SIZES:  # unknown types are ignored
                continue
            length = values * _SIZES[kind]
            offset = position + entry_size - field_size
            if length > field_size:
                (offset,) = self.unpack("Q" if self.big else "L", offset)
            if offset + length > len(self.data):
                raise RescaleError("EXIF is truncated")
            if tag not in self.children:
                result.entries[tag] = Entry(kind, self.data[offset : offset + length], offset)
            elif depth > 0 and values == 1 and length in (4, 8):
                (target,) = self.unpack("L" if length == 4 else "Q", offset)
                result.children[tag] = self.directory(target, depth - 1)
        return result

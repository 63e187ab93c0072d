"""Whether the format of an image file keeps every pixel as it was."""

from __future__ import annotations

import os
from typing import BinaryIO

# PNG; BMP; TIFF of either byte order, BigTIFF as well (JPEG inside of one is rare)
_STARTS = (b"\x89PNG", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NETPBM = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")  # PBM, PGM, PPM, as text and binary
_WEBP_FRAME = 16  # bytes of an animation frame before its chunks


def is_lossless(path: str | os.PathLike[str]) -> bool:
    """Tells whether an image file is stored without loss, judging by its first bytes.

    True for PNG, BMP, TIFF, PBM, PGM, PPM and lossless WebP. False for all others: JPEG, lossy WebP
    and AVIF, of which a few could be lossless, as JPEG 2000, and GIF, which has 256 colours.

    Raises:
        OSError: If the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(12)
        if start[:4] == b"RIFF" and start[8:] == b"WEBP":
            return _is_lossless_webp(file)
        return start.startswith(_STARTS + _NETPBM)


def _is_lossless_webp(file: BinaryIO) -> bool:
    """Looks for the first chunk with pixels; ``file`` is where the chunks begin."""
    while len(head := file.read(8)) == 8:
        kind, size = head[:4], int.from_bytes(head[4:], "little")
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8L"
        file.seek(_WEBP_FRAME if kind == b"ANMF" else size + size % 2, os.SEEK_CUR)
    return False

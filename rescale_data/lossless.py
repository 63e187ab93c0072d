"""Detection of lossless image formats."""

from __future__ import annotations

import os
from typing import BinaryIO

# PNG; BMP; TIFF and BigTIFF of either byte order (JPEG compression inside TIFF is rare)
_STARTS = (b"\x89PNG", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NETPBM = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")  # PBM, PGM, PPM, as text and binary
_WEBP_FRAME = 16  # bytes of an animation frame's header before its chunks


def is_lossless(path: str | os.PathLike[str]) -> bool:
    """Whether an image file is stored losslessly, according to its first bytes.

    True for PNG, BMP, TIFF, PBM, PGM, PPM and lossless WebP. False for all others: JPEG, lossy
    WebP, GIF with its 256 colors, and formats such as AVIF and JPEG 2000 that are rarely lossless.

    Raises:
        OSError: If the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(12)
        if start[:4] == b"RIFF" and start[8:] == b"WEBP":
            return _is_lossless_webp(file)
        return start.startswith(_STARTS + _NETPBM)


def _is_lossless_webp(file: BinaryIO) -> bool:
    """Finds the first chunk with pixels; ``file`` is positioned at the first chunk."""
    while len(head := file.read(8)) == 8:
        kind, size = head[:4], int.from_bytes(head[4:], "little")
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8L"
        file.seek(_WEBP_FRAME if kind == b"ANMF" else size + size % 2, os.SEEK_CUR)
    return False

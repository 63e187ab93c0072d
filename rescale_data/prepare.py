"""Preparing datasets: sub-images, cropped test images, LMDB and meta-info lists.

All functions can be interrupted; the next call with the same arguments continues where the previous
one stopped (see `rescale_data.journaled_output`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rescale_compat.errors import RescaleError

import cv2
import lmdb
import numpy as np

from rescale_data.image_file import (
    PNG_START,
    Image,
    ImageFileError,
    decode_image,
    image_names,
    write_file,
    write_parts,
)
from rescale_data.journaled_output import (
    BadPicturesError,
    ConvertedImage,
    JournaledOutput,
    PathLike,
    check_positive,
)
from rescale_data.name_table import NameTable

__all__ = [
    "BadPicturesError",
    "build_lmdb",
    "crop_to_multiple",
    "extract_sub_images",
    "write_meta_info",
]

# Higher levels take much longer to write, but the files are hardly smaller or faster to read.
PNG_LEVEL = 1
# An LMDB is written in transactions of about this many bytes, which are held in memory.
BATCH_BYTES = 64 * 2**20
FIRST_MAP_BYTES = 256 * 2**20
# LMDB's own limit.
MAX_KEY_BYTES = 511


def extract_sub_images(
    source: PathLike,
    out: PathLike,
    size: int = 480,
    step: int = 240,
    threshold: int = 0,
    workers: int | None = None,
) -> int:
    """Cuts the images of a folder into overlapping squares, which load faster than whole images.

    Crops of `a.jpg` are named `a_s001.png`, `a_s002.png` and so on, row by row, as in BasicSR. If a
    side is shorter than `size`, the crops have that side of the image.

    Args:
        source: Folder of images.
        out: Folder to create.
        size: Side of the squares in pixels.
        step: Distance from one square to the next.
        threshold: If more pixels than this are left over at the right or bottom, an additional
            square is aligned with that border.
        workers: Number of threads. Default: the number of cores that this process may use.

    Returns:
        The number of images that were cut.

    Raises:
        ValueError: If a number is invalid, or the names of two images differ in their suffix only.
        BadPicturesError: If images are broken. The others are converted and kept for the next run.
        OSError: If `out` exists, or a file cannot be read or written.
    """
    check_positive(size=size, step=step)
    if threshold < 0:
        raise RescaleError(f"threshold must be at least 0, but is {threshold}")
    settings = {"command": "sub-images", "size": size, "step": step, "threshold": threshold}

    def starts(side: int) -> list[int]:
        positions = list(range(0, max(0, side - size) + 1, step))
        if side - (positions[-1] + size) > threshold:
            positions.append(side - size)
        return positions

    def convert(path: Path, result: Path) -> ConvertedImage:
        image, _ = _read(path)
        height, width = image.shape[:2]
        corners = [(top, left) for top in starts(height) for left in starts(width)]
        for number, (top, left) in enumerate(corners, 1):
            crop = image[top : top + size, left : left + size]
            write_file(result / f"{path.stem}_s{number:03d}.png", _png(crop))
        return ConvertedImage(height, width)

    return _make_folder(source, out, settings, convert, workers)


def crop_to_multiple(
    source: PathLike, out: PathLike, mod: int = 12, workers: int | None = None
) -> int:
    """Crops the images of a folder to sides that are multiples of `mod`; the top left is kept.

    Arguments, result and errors are those of `extract_sub_images`; an image that is smaller than
    `mod` counts as broken. The results are PNG files.
    """
    check_positive(mod=mod)

    def convert(path: Path, result: Path) -> ConvertedImage:
        image, _ = _read(path)
        height, width = (side - side % mod for side in image.shape[:2])
        if not height or not width:
            raise ImageFileError(f"{path}: {image.shape[0]} x {image.shape[1]}, below {mod} pixels")
        write_file(result / f"{path.stem}.png", _png(image[:height, :width]))
        return ConvertedImage(height, width)

    return _make_folder(source, out, {"command": "mod-crop", "mod": mod}, convert, workers)


def build_lmdb(source: PathLike, out: PathLike, workers: int | None = None) -> int:
    """Stores the images of a folder in an LMDB in the format of BasicSR's datasets.

    The key of an image is its name without the suffix. PNG files are stored unchanged, others are
    converted to PNG. Arguments, result and errors are those of `extract_sub_images`.

    Raises:
        ValueError: Also if the name of `out` does not end in .lmdb, or the name of an image is not
            a valid key: BasicSR requires ASCII and cuts keys at the first dot.
    """
    if Path(out).suffix != ".lmdb":
        raise RescaleError(f"{out}: the name of an LMDB must end in .lmdb")
    names = _images(source)
    for name in names:
        key = _stem(name)
        if "." in key or not key.isascii() or not key.isprintable() or len(key) > MAX_KEY_BYTES:
            raise RescaleError(
                f"{Path(source, name)}: the name is not a valid LMDB key, which is at most "
                f"{MAX_KEY_BYTES} ASCII characters without a dot: rename it"
            )
    _check_distinct(source, names)

    def convert(path: Path) -> ConvertedImage:
        image, content = _read(path)
        if not content.startswith(PNG_START):
            content = _png(image)
        return ConvertedImage(image.shape[0], image.shape[1], content)

    settings = {"command": "lmdb", "source": os.path.abspath(source)}
    with JournaledOutput(source, names, out, settings, workers) as work:
        try:
            with lmdb.open(os.fspath(work.result), map_size=FIRST_MAP_BYTES) as environment:
                store = partial(_put, environment)
                work.convert_all(convert, store, BATCH_BYTES)
        except lmdb.Error as error:
            raise OSError(f"{work.folder}: {error}; finished images are kept there") from error
        lines = (f"{_stem(name)}.png {shape} {PNG_LEVEL}\n" for name, shape in work.shapes())
        write_parts(work.result / "meta_info.txt", map(str.encode, lines))
    return len(names)


def write_meta_info(source: PathLike, out: PathLike, workers: int | None = None) -> int:
    """Lists the images of a folder and its subfolders, one per line with its shape.

    Every image is decoded, so that the list contains readable images only. Arguments, result and
    errors are those of `extract_sub_images`; `out` is a text file.
    """
    names = _images(source, recursive=True)
    settings = {"command": "meta-info", "source": os.path.abspath(source)}
    with JournaledOutput(source, names, out, settings, workers) as work:
        work.convert_all(lambda path: ConvertedImage(*_read(path)[0].shape[:2]))
        lines = (f"{name} {shape}\n" for name, shape in work.shapes())
        work.result /= "meta_info.txt"
        write_parts(work.result, map(str.encode, lines))
    return len(names)


def _put(environment: lmdb.Environment, batch: Sequence[tuple[str, ConvertedImage]]) -> None:
    """Stores images in one transaction; the map size grows as needed."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for name, done in batch:
                    transaction.put(Path(name).stem.encode("ascii"), done.content)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])


def _make_folder(
    source: PathLike,
    out: PathLike,
    settings: dict[str, Any],
    convert: Callable[[Path, Path], ConvertedImage],
    workers: int | None,
) -> int:
    """Creates a folder of images; `convert` takes an image path and the folder to write to."""
    names = _images(source)
    _check_distinct(source, names)
    settings = {**settings, "source": os.path.abspath(source)}
    with JournaledOutput(source, names, out, settings, workers) as work:
        work.convert_all(lambda path: convert(path, work.result))
    return len(names)


def _images(source: PathLike, recursive: bool = False) -> NameTable:
    """The images of a folder, by path relative to it, sorted."""
    names = NameTable(image_names(source, recursive))
    if not names:
        raise FileNotFoundError(f"{source}: no images in this folder")
    return names


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _check_distinct(source: PathLike, names: NameTable) -> None:
    marks = np.fromiter((hash(_stem(name)) for name in names), np.int64, len(names))
    if len(np.unique(marks)) == len(marks):  # avoids a dictionary of millions of names
        return
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(_stem(name), name)
        if other != name:
            raise RescaleError(
                f"{Path(source, name)}: has the same name as {Path(source, other)} except for the "
                "suffix: rename one"
            )


def _read(path: Path) -> tuple[Image, bytes]:
    """Returns an image together with the bytes of its file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        # One unusable image among many, unlike an output that cannot be written.
        raise ImageFileError(f"{path}: {error.strerror}") from error
    return decode_image(content, os.fspath(path)), content


def _png(image: Image) -> bytes:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])[1].tobytes()

"""Preparing data sets: sub-images, cropped test pictures, LMDB and meta-info lists.

A data set appears under its name only when it is complete. Until then it grows in a folder beside
it, `<name>.partial`, and after an interruption the same command goes on from there: a journal in it
has a line for every picture that is done. Pictures are decoded and encoded by threads, since OpenCV
works outside of the interpreter lock, and no thread outlives a killed process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rescale_data.cores import usable_cores
from rescale_data.image_file import (
    PNG_START,
    Image,
    ImageFileError,
    decode_image,
    image_names,
    write_file,
    write_parts,
)
from rescale_data.name_table import NameTable

__all__ = [
    "BadPicturesError",
    "add_arguments",
    "build_lmdb",
    "crop_to_multiple",
    "extract_sub_images",
    "run",
    "write_meta_info",
]

# Higher levels take much longer to write, and neither read faster nor are much smaller.
PNG_LEVEL = 1
# An LMDB is written by transactions of about this many bytes, which are held in memory.
BATCH_BYTES = 64 * 2**20
# What Python needs for a picture in a batch beside its bytes.
OVERHEAD_BYTES = 1024
FIRST_MAP_BYTES = 256 * 2**20
# LMDB's own limit.
MAX_KEY_BYTES = 511

PathLike = str | os.PathLike[str]


class BadPicturesError(ImageFileError):
    """Some pictures cannot be used; `reasons` has a line for each, with its name."""

    def __init__(self, message: str, reasons: Sequence[str]) -> None:
        """Keeps the lines beside the message, which gives their number."""
        super().__init__(message)
        self.reasons = tuple(reasons)


@dataclass(frozen=True)
class _Done:
    """What became of a picture: its size, and the bytes that are still to be stored."""

    height: int
    width: int
    content: bytes = b""


def extract_sub_images(
    source: PathLike,
    out: PathLike,
    size: int = 480,
    step: int = 240,
    threshold: int = 0,
    workers: int | None = None,
) -> int:
    """Cuts the pictures of a folder into overlapping squares, which load faster than whole ones.

    Crops of `a.jpg` are named `a_s001.png`, `a_s002.png` and so on, row by row, as BasicSR names
    them. A side shorter than `size` is taken whole.

    Args:
        source: Folder of pictures.
        out: Folder to make.
        size: Side of the squares in pixels.
        step: Distance from one square to the next.
        threshold: One more square is put against the right and the lower end where more pixels than
            this are left over.
        workers: Number of threads; default: one for each core that this process may use.

    Returns:
        The number of pictures that were cut.

    Raises:
        ValueError: If a number does not fit, or two pictures differ in their suffix only.
        BadPicturesError: If pictures are broken. The others are done, and kept for the next run.
        OSError: If `out` exists, or something cannot be read or written.
    """
    _check_positive(size=size, step=step)
    if threshold < 0:
        raise ValueError(f"threshold must not be under 0, but is {threshold}")
    settings = {"command": "sub-images", "size": size, "step": step, "threshold": threshold}

    def starts(side: int) -> list[int]:
        positions = list(range(0, max(0, side - size) + 1, step))
        if side - (positions[-1] + size) > threshold:
            positions.append(side - size)
        return positions

    def convert(path: Path, result: Path) -> _Done:
        image, _ = _read(path)
        height, width = image.shape[:2]
        corners = [(top, left) for top in starts(height) for left in starts(width)]
        for number, (top, left) in enumerate(corners, 1):
            crop = image[top : top + size, left : left + size]
            write_file(result / f"{path.stem}_s{number:03d}.png", _png(crop))
        return _Done(height, width)

    return _make_folder(source, out, settings, convert, workers)


def crop_to_multiple(
    source: PathLike, out: PathLike, mod: int = 12, workers: int | None = None
) -> int:
    """Crops the pictures of a folder from the top left to sides that are multiples of `mod`.

    Arguments, result and errors are those of `extract_sub_images`; a picture that is smaller than
    `mod` counts as broken. The results are PNG files.
    """
    _check_positive(mod=mod)

    def convert(path: Path, result: Path) -> _Done:
        image, _ = _read(path)
        height, width = (side - side % mod for side in image.shape[:2])
        if not height or not width:
            raise ImageFileError(f"{path}: {image.shape[0]} x {image.shape[1]}, under {mod} pixels")
        write_file(result / f"{path.stem}.png", _png(image[:height, :width]))
        return _Done(height, width)

    return _make_folder(source, out, {"command": "mod-crop", "mod": mod}, convert, workers)


def build_lmdb(source: PathLike, out: PathLike, workers: int | None = None) -> int:
    """Puts the pictures of a folder into an LMDB as BasicSR's data sets read it.

    The key of a picture is its name without the suffix. PNG files are stored as they are, others
    as PNG. Arguments, result and errors are those of `extract_sub_images`.

    Raises:
        ValueError: Also if the name of `out` does not end in .lmdb, or the name of a picture makes
            no key: BasicSR cuts keys at the first dot and has them in ASCII.
    """
    if Path(out).suffix != ".lmdb":
        raise ValueError(f"{out}: the name of an LMDB must end in .lmdb")
    names = _pictures(source)
    for name in names:
        key = _stem(name)
        if "." in key or not key.isascii() or not key.isprintable() or len(key) > MAX_KEY_BYTES:
            raise ValueError(
                f"{Path(source, name)}: the name makes no LMDB key, which needs ASCII without a "
                f"dot, of at most {MAX_KEY_BYTES} characters: rename it"
            )
    _check_distinct(source, names)

    def convert(path: Path) -> _Done:
        image, content = _read(path)
        if not content.startswith(PNG_START):
            content = _png(image)
        return _Done(image.shape[0], image.shape[1], content)

    settings = {"command": "lmdb", "source": os.path.abspath(source)}
    with _Work(source, names, out, settings, workers) as work:
        try:
            with lmdb.open(os.fspath(work.result), map_size=FIRST_MAP_BYTES) as environment:
                store = partial(_put, environment)
                work.convert_all(convert, store, BATCH_BYTES)
        except lmdb.Error as error:
            raise OSError(f"{work.folder}: {error}; what is done is kept there") from error
        lines = (f"{_stem(name)}.png {shape} {PNG_LEVEL}\n" for name, shape in work.shapes())
        write_parts(work.result / "meta_info.txt", map(str.encode, lines))
    return len(names)


def write_meta_info(source: PathLike, out: PathLike, workers: int | None = None) -> int:
    """Lists the pictures of a folder and of those in it, one on a line with its shape.

    Every picture is decoded for it, so that a list holds good pictures only. Arguments, result and
    errors are those of `extract_sub_images`; `out` is a text file.
    """
    names = _pictures(source, recursive=True)
    settings = {"command": "meta-info", "source": os.path.abspath(source)}
    with _Work(source, names, out, settings, workers) as work:
        work.convert_all(lambda path: _Done(*_read(path)[0].shape[:2]))
        lines = (f"{name} {shape}\n" for name, shape in work.shapes())
        work.result /= "meta_info.txt"
        write_parts(work.result, map(str.encode, lines))
    return len(names)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands to a parser; `run` does what the parsed arguments say."""
    commands = parser.add_subparsers(dest="prepare_command", metavar="COMMAND", required=True)

    def command(name: str, source: str, out: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        sub.add_argument("source", metavar=source, type=Path, help="folder of pictures")
        sub.add_argument("out", metavar=out, type=Path, help="what to make; must not exist yet")
        sub.add_argument("--workers", type=int, metavar="N", help="threads (default: usable cores)")
        return sub

    sub = command("sub-images", "IN", "OUT", "cut pictures into overlapping squares for training")
    sub.add_argument(
        "--size", type=int, default=480, help="side of a square (default: %(default)s)"
    )
    sub.add_argument("--step", type=int, default=240, help="from one to the next (%(default)s)")
    sub.add_argument(
        "--threshold", type=int, default=0, help="rest that needs no square (%(default)s)"
    )
    sub.set_defaults(
        prepare=lambda a: extract_sub_images(
            a.source, a.out, a.size, a.step, a.threshold, a.workers
        )
    )
    sub = command("mod-crop", "IN", "OUT", "crop pictures to multiples of a number, for tests")
    sub.add_argument("--mod", type=int, default=12, help="the number (default: %(default)s)")
    sub.set_defaults(prepare=lambda a: crop_to_multiple(a.source, a.out, a.mod, a.workers))
    sub = command("lmdb", "IN", "OUT.lmdb", "put pictures into an LMDB, in BasicSR's format")
    sub.set_defaults(prepare=lambda a: build_lmdb(a.source, a.out, a.workers))
    sub = command("meta-info", "FOLDER", "OUT.txt", "list pictures and their shapes")
    sub.set_defaults(prepare=lambda a: write_meta_info(a.source, a.out, a.workers))


def run(args: argparse.Namespace) -> int:
    """Does what arguments parsed by `add_arguments` say, and reports broken pictures line by line.

    Returns:
        0; what goes wrong is raised.
    """
    try:
        count = args.prepare(args)
    except BadPicturesError as error:
        for reason in error.reasons:
            print(*reason.splitlines(), file=sys.stderr)  # names may have line breaks in them
        raise
    print(f"{args.out}: made from {count} pictures of {args.source}")
    return 0


class _Work:
    """The folder that a data set grows in, and its way from there to its final name.

    Used as a context manager: a block that succeeds makes the result final; after one that fails
    the folder stays, for the next run with the same settings to go on with.
    """

    def __init__(
        self,
        source: PathLike,
        names: NameTable,
        out: PathLike,
        settings: dict[str, Any],
        workers: int | None,
    ) -> None:
        self._source, self._names = source, names
        self.out = Path(out)
        self.workers = usable_cores() if workers is None else workers
        _check_positive(workers=self.workers)
        self.folder = self.out.with_name(f"{self.out.name}.partial")
        self.result = self.folder / "result"
        self._journal = self.folder / "journal.txt"
        if os.path.lexists(self.out):
            raise FileExistsError(f"{self.out}: exists already, and is not replaced")
        self._begin(settings)

    def _begin(self, settings: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        record = self.folder / "settings.json"
        if not record.exists():
            # Written before anything else, so that whatever else is there belongs to it.
            if any(not path.name.startswith(".") for path in self.folder.iterdir()):
                raise FileExistsError(f"{self.folder}: in the way, and not made by this command")
            write_file(record, json.dumps(settings).encode())
        begun = json.loads(record.read_bytes())
        if begun != settings:
            raise FileExistsError(
                f"{self.folder}: begun with other settings ({json.dumps(begun)}); finish with "
                f"those, or delete it"
            )
        if not self.result.exists():
            # A run that was killed just after it had moved the result leaves its journal.
            self._journal.unlink(missing_ok=True)
            self.result.mkdir()
        for temporary in self.result.glob(".*"):
            temporary.unlink()

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.result.replace(self.out)
            shutil.rmtree(self.folder)

    def convert_all(
        self,
        convert: Callable[[Path], _Done],
        store: Callable[[Sequence[tuple[str, _Done]]], None] = lambda batch: None,
        batch_bytes: int = 0,
    ) -> None:
        """Converts the pictures that the journal lacks, in order.

        `store` gets them in batches of `batch_bytes`, and what it has stored goes into the journal.
        """
        names = self._names
        done = self._sizes()[:, 0] > 0
        todo = (name for name, is_done in zip(names, done, strict=True) if not is_done)
        bad: list[str] = []
        batch: list[tuple[str, _Done]] = []
        size = 0

        def converted(name: str) -> _Done:
            return convert(Path(self._source, name))

        with tqdm(total=len(names), initial=done.sum(), unit="pictures", disable=None) as bar:
            for name, future in _in_order(todo, converted, self.workers):
                try:
                    batch.append((name, future.result()))
                    size += len(batch[-1][1].content) + OVERHEAD_BYTES
                except ImageFileError as error:
                    bad.append(str(error))
                if size >= batch_bytes:
                    self._finish(batch, store)
                    batch, size = [], 0
                bar.update()
        self._finish(batch, store)
        if bad:
            raise BadPicturesError(
                f"{self.out}: {len(bad)} of {len(names)} pictures cannot be used; the others are "
                f"kept in {self.folder}: mend or remove those, and run again",
                bad,
            )

    def shapes(self) -> Iterator[tuple[str, str]]:
        """Yields the names of the pictures, all of which are done, with their (h,w,c)."""
        for name, (height, width) in zip(self._names, self._sizes(), strict=True):
            yield name, f"({height},{width},3)"

    def _sizes(self) -> npt.NDArray[np.uint32]:
        """Returns from the journal (height, width) of every picture, (0, 0) if it is not done."""
        sizes = np.zeros((len(self._names), 2), np.uint32)
        if self._journal.exists():
            with open(self._journal, encoding="ascii") as lines:
                for line in lines:
                    # A full disk may have cut a line short: that picture is done again.
                    if line.endswith("]\n"):
                        name, *size = json.loads(line)
                        place = bisect_left(self._names, name)
                        if list(self._names[place : place + 1]) != [name]:
                            raise FileNotFoundError(
                                f"{self.folder}: holds {name}, which is no more among the "
                                "pictures; delete the folder to start anew"
                            )
                        sizes[place] = size
        return sizes

    def _finish(
        self,
        batch: Sequence[tuple[str, _Done]],
        store: Callable[[Sequence[tuple[str, _Done]]], None],
    ) -> None:
        store(batch)
        # Each line begins anew, because the one before may have been cut short.
        lines = [f"\n{json.dumps([name, done.height, done.width])}\n" for name, done in batch]
        try:
            with open(self._journal, "a", encoding="ascii") as journal:
                journal.write("".join(lines))
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fspath(self._journal)) from error


def _put(environment: lmdb.Environment, batch: Sequence[tuple[str, _Done]]) -> None:
    """Stores pictures in one transaction, in a map that grows as needed."""
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
    convert: Callable[[Path, Path], _Done],
    workers: int | None,
) -> int:
    """Makes a folder of pictures by a function of a path and of the folder for its results."""
    names = _pictures(source)
    _check_distinct(source, names)
    settings = {**settings, "source": os.path.abspath(source)}
    with _Work(source, names, out, settings, workers) as work:
        work.convert_all(lambda path: convert(path, work.result))
    return len(names)


def _in_order(
    items: Iterable[str], function: Callable[[str], _Done], workers: int
) -> Iterator[tuple[str, Future[_Done]]]:
    """Yields each item with its finished future, in order; only a few are begun ahead of it."""
    with ThreadPoolExecutor(workers) as pool:
        begun: deque[tuple[str, Future[_Done]]] = deque()
        try:
            for item in items:
                begun.append((item, pool.submit(function, item)))
                if len(begun) > 2 * workers:
                    yield begun.popleft()
            while begun:
                yield begun.popleft()
        finally:
            for _, future in begun:
                future.cancel()


def _pictures(source: PathLike, recursive: bool = False) -> NameTable:
    """The pictures of a folder, by path relative to it, sorted."""
    names = NameTable(image_names(source, recursive))
    if not names:
        raise FileNotFoundError(f"{source}: no pictures in this folder")
    return names


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _check_distinct(source: PathLike, names: NameTable) -> None:
    marks = np.fromiter((hash(_stem(name)) for name in names), np.int64, len(names))
    if len(np.unique(marks)) == len(marks):  # a dictionary of millions would be large
        return
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(_stem(name), name)
        if other != name:
            raise ValueError(
                f"{Path(source, name)}: has the same name as {Path(source, other)} but for the "
                "suffix: rename one"
            )


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be over 0, but is {number}")


def _read(path: Path) -> tuple[Image, bytes]:
    """Returns a picture with the bytes of its file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        # Counts as one bad picture among many, unlike an output that cannot be written.
        raise ImageFileError(f"{path}: {error.strerror}") from error
    return decode_image(content, os.fspath(path)), content


def _png(image: Image) -> bytes:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])[1].tobytes()

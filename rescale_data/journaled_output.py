"""Resumable conversion of many images into one output.

The output appears under its name only when it is complete. Until then, it is built in a folder
`<name>.partial` in the same place, whose journal has a line for every finished image. Images are
decoded and encoded in threads, since OpenCV releases the global interpreter lock, and threads do
not survive a killed process.
"""

from __future__ import annotations

import json
import os
import shutil
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rescale_compat.errors import RescaleError

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from rescale_data.cores import usable_cores
from rescale_data.image_file import ImageFileError, write_file
from rescale_data.name_table import NameTable

# Memory that Python needs for an image in a batch, in addition to its bytes.
OVERHEAD_BYTES = 1024

PathLike = str | os.PathLike[str]


class BadPicturesError(ImageFileError):
    """Some images cannot be used; `reasons` has a line with the name of each."""

    def __init__(self, message: str, reasons: Sequence[str]) -> None:
        """Stores the reasons; the message gives their number."""
        super().__init__(message)
        self.reasons = tuple(reasons)


@dataclass(frozen=True)
class ConvertedImage:
    """A converted image: its size, and its bytes if they are still to be stored."""

    height: int
    width: int
    content: bytes = b""


class JournaledOutput:
    """An output that is built in a temporary folder and then moved to its final name.

    A context manager: if the block succeeds, the result is moved; if it fails, the folder is kept,
    and the next run with the same settings continues from it.
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
        check_positive(workers=self.workers)
        self.folder = self.out.with_name(f"{self.out.name}.partial")
        self.result = self.folder / "result"
        self._journal = self.folder / "journal.txt"
        if os.path.lexists(self.out):
            raise FileExistsError(f"{self.out}: already exists, and is not replaced")
        self._begin(settings)

    def _begin(self, settings: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        record = self.folder / "settings.json"
        if not record.exists():
            # Written first, so that all other files in the folder belong to this command.
            if any(not path.name.startswith(".") for path in self.folder.iterdir()):
                raise FileExistsError(f"{self.folder}: exists, but was not created by this command")
            write_file(record, json.dumps(settings).encode())
        begun = json.loads(record.read_bytes())
        if begun != settings:
            raise FileExistsError(
                f"{self.folder}: begun with other settings ({json.dumps(begun)}); continue with "
                f"those, or delete the folder"
            )
        if not self.result.exists():
            # A run that was killed just after moving the result leaves its journal behind.
            self._journal.unlink(missing_ok=True)
            self.result.mkdir()
        for temporary in self.result.glob(".*"):
            temporary.unlink()

    def __enter__(self) -> JournaledOutput:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.result.replace(self.out)
            shutil.rmtree(self.folder)

    def convert_all(
        self,
        convert: Callable[[Path], ConvertedImage],
        store: Callable[[Sequence[tuple[str, ConvertedImage]]], None] = lambda batch: None,
        batch_bytes: int = 0,
    ) -> None:
        """Converts the images that are not in the journal yet, in order.

        `store` receives them in batches of `batch_bytes`; a stored batch is added to the journal.
        """
        names = self._names
        done = self._sizes()[:, 0] > 0
        todo = (name for name, is_done in zip(names, done, strict=True) if not is_done)
        bad: list[str] = []
        batch: list[tuple[str, ConvertedImage]] = []
        size = 0

        def converted(name: str) -> ConvertedImage:
            return convert(Path(self._source, name))

        with tqdm(total=len(names), initial=done.sum(), unit="images", disable=None) as bar:
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
                f"{self.out}: {len(bad)} of {len(names)} images cannot be used; the others are "
                f"kept in {self.folder}: fix or remove the unusable ones, and run again",
                bad,
            )

    def shapes(self) -> Iterator[tuple[str, str]]:
        """Yields the name and (h,w,c) of every image; all must be finished."""
        for name, (height, width) in zip(self._names, self._sizes(), strict=True):
            yield name, f"({height},{width},3)"

    def _sizes(self) -> npt.NDArray[np.uint32]:
        """Reads (height, width) of every image from the journal; (0, 0) if it is not finished."""
        sizes = np.zeros((len(self._names), 2), np.uint32)
        if self._journal.exists():
            with open(self._journal, encoding="ascii") as lines:
                for line in lines:
                    # A full disk may have truncated a line: that image is converted again.
                    if line.endswith("]\n"):
                        name, *size = json.loads(line)
                        place = bisect_left(self._names, name)
                        if list(self._names[place : place + 1]) != [name]:
                            raise FileNotFoundError(
                                f"{self.folder}: holds {name}, which is no longer among the "
                                "images; delete the folder to start over"
                            )
                        sizes[place] = size
        return sizes

    def _finish(
        self,
        batch: Sequence[tuple[str, ConvertedImage]],
        store: Callable[[Sequence[tuple[str, ConvertedImage]]], None],
    ) -> None:
        store(batch)
        # Each entry starts on a new line, because the previous one may have been truncated.
        lines = [f"\n{json.dumps([name, done.height, done.width])}\n" for name, done in batch]
        try:
            with open(self._journal, "a", encoding="ascii") as journal:
                journal.write("".join(lines))
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fspath(self._journal)) from error


def _in_order(
    items: Iterable[str], function: Callable[[str], ConvertedImage], workers: int
) -> Iterator[tuple[str, Future[ConvertedImage]]]:
    """Yields each item with its future, in order; only a few are submitted ahead."""
    with ThreadPoolExecutor(workers) as pool:
        begun: deque[tuple[str, Future[ConvertedImage]]] = deque()
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


def check_positive(**numbers: int) -> None:
    """Raises ValueError if a number is below 1; the message names it."""
    for name, number in numbers.items():
        if number < 1:
            raise RescaleError(f"{name} must be at least 1, but is {number}")

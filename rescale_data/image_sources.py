"""Sources of HR images: folders, and LMDBs in BasicSR's format."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import ClassVar, Protocol

from rescale_compat.errors import RescaleError

import lmdb

from rescale_data.image_file import IMAGE_SUFFIXES, ImageFileError, image_names
from rescale_data.name_table import NameTable


def is_lmdb(root: str) -> bool:
    """Whether a path names an LMDB: it ends in ``.lmdb``."""
    return root.rstrip("/").endswith(".lmdb")


class ImageSource(Protocol):
    """Source of the bytes of image files."""

    root: str
    names: NameTable

    def read(self, name: str) -> bytes:
        """Reads the file of an image."""
        ...


class FolderSource:
    """A folder of images.

    Args:
        root: the folder.
        chosen: file that lists the images to use, one per line; None: all.
        recursive: whether to include subfolders, if ``chosen`` is None.

    Raises:
        FileNotFoundError: there are no images, or listed ones are missing.
        ValueError: ``chosen`` is not such a list.
    """

    def __init__(self, root: str, chosen: str | None, recursive: bool) -> None:
        self.root = root
        if chosen is None:
            self.names = NameTable(image_names(root, recursive))
            if not self.names:
                raise FileNotFoundError(
                    f"{root}: no images in this folder ({', '.join(IMAGE_SUFFIXES)})"
                )
        else:
            self.names = NameTable(_listed_names(chosen))
            missing = (n for n in self.names if not os.path.isfile(os.path.join(root, n)))
            _check_none_missing(missing, chosen, root)

    def read(self, name: str) -> bytes:
        """Reads the file of an image."""
        with open(os.path.join(self.root, name), "rb") as file:
            return file.read()


class LmdbSource:
    """An LMDB in BasicSR's format: the key of an image is its name up to the first dot.

    Args:
        root: the folder of the LMDB.
        chosen: file that lists the images to use, one per line; None: all.

    Raises:
        FileNotFoundError: the LMDB is incomplete, or listed images are missing.
        ValueError: ``chosen`` is not such a list.
    """

    # A process can open an LMDB only once, but several datasets may use it; and an environment must
    # not be used after a fork. Hence one environment per file, with the process that opened it.
    _environments: ClassVar[dict[tuple[int, int], tuple[int, lmdb.Environment]]] = {}

    def __init__(self, root: str, chosen: str | None) -> None:
        self.root = root
        for name in ("data.mdb", "meta_info.txt"):
            if not os.path.isfile(os.path.join(root, name)):
                raise FileNotFoundError(f"{root}: there is no {name} in this LMDB")
        with open(os.path.join(root, "meta_info.txt"), encoding="utf-8") as lines:
            self.names = NameTable(line.split(".")[0] for line in lines if line.strip())
        if not self.names:
            raise FileNotFoundError(f"{root}: no images in this LMDB")
        stored = self._environment().stat()["entries"]
        if stored < len(self.names):
            raise FileNotFoundError(
                f"{root}: data.mdb holds {stored} images, meta_info.txt lists {len(self.names)}"
            )
        if chosen is not None:
            self.names = NameTable(name.split(".")[0] for name in _listed_names(chosen))
            with self._environment().begin() as transaction, transaction.cursor() as cursor:
                missing = (name for name in self.names if not cursor.set_key(name.encode()))
                _check_none_missing(missing, chosen, root)

    def read(self, name: str) -> bytes:
        """Reads the file of an image."""
        with self._environment().begin() as transaction:
            content = transaction.get(name.encode())
        if content is None:
            raise ImageFileError(f"{self.root}: there is no image under the key {name!r}")
        return bytes(content)

    def _environment(self) -> lmdb.Environment:
        status = os.stat(os.path.join(self.root, "data.mdb"))
        file = status.st_dev, status.st_ino
        if file in self._environments:
            process, environment = self._environments[file]
            if process == os.getpid():
                return environment
            environment.close()
        try:
            environment = lmdb.open(self.root, readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            raise ImageFileError(f"{self.root}: LMDB cannot be opened ({error})") from error
        self._environments[file] = os.getpid(), environment
        return environment


_FILE_NAME = re.compile(
    rf"(.+?(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))}))(?:\s|$)", re.IGNORECASE
)


def _listed_names(path: str) -> Iterator[str]:
    """Reads the file names of a meta-info list; each may be followed by a shape and more."""
    empty = True
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(map(str.strip, lines), 1):
            # A name may contain spaces, so it ends at the suffix.
            match = _FILE_NAME.match(line)
            if match:
                empty = False
                yield match[1]
            elif line:
                raise RescaleError(
                    f"{path}: line {number} does not start with an image name: {line!r}"
                )
    if empty:
        raise RescaleError(f"{path}: lists no images")


def _check_none_missing(missing: Iterator[str], chosen: str, root: str) -> None:
    first = next(missing, None)
    if first is not None:
        more = sum(1 for _ in missing)
        raise FileNotFoundError(
            f"{chosen}: lists images that are not in {root}: {first}"
            + (f" and {more} more" if more else "")
        )

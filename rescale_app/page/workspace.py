"""Temporary files of the page: folders for the results of each visitor."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

KEPT_SECONDS = 12 * 3600.0
"""How long results are kept after the connection to the visitor's browser has ended."""


class Workspace:
    """A temporary folder with folders for visitors.

    A context manager: everything is removed on exit.

    Args:
        clock: returns the time in seconds.

    Attributes:
        root: the folder.
        uploads: its subfolder for uploaded files.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._temporary = tempfile.TemporaryDirectory(prefix="rescale-demo-")
        self.root = Path(self._temporary.name).resolve()
        self.uploads = self.root / "uploads"
        self.uploads.mkdir()
        # of every visitor and kind of result: the folder that is shown, and later ones
        self._folders: dict[tuple[str, str], list[Path]] = {}
        self._left: dict[str, float] = {}
        self._lock = Lock()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.cleanup()

    @contextmanager
    def new(self, visitor: str, kind: str) -> Iterator[Path]:
        """Creates a folder for a result, and removes it if the result fails.

        Earlier results of the visitor stay until `delivered`.
        """
        with self._lock:
            self._left.pop(visitor, None)
            folder = Path(tempfile.mkdtemp(dir=self.root))
            self._folders.setdefault((visitor, kind), []).append(folder)
        self._sweep()
        try:
            yield folder
        except BaseException:
            with self._lock:
                folders = self._folders.get((visitor, kind), [])
                is_there = folder in folders
                if is_there:
                    folders.remove(folder)
            if is_there:
                shutil.rmtree(folder)
            raise

    def delivered(self, visitor: str, kind: str, folder: Path) -> None:
        """Removes results older than that in ``folder``, which the visitor now sees instead."""
        with self._lock:
            folders = self._folders.get((visitor, kind), [])
            at = folders.index(folder) if folder in folders else 0
            old = folders[:at]
            del folders[:at]
        for each in old:
            shutil.rmtree(each)

    def leave(self, visitor: str) -> None:
        """Removes the visitor's results in `KEPT_SECONDS`, unless there is a new one before.

        A lost connection does not mean that the page is closed: a computer may have been asleep.
        """
        with self._lock:
            self._left[visitor] = self._clock()
        self._sweep()

    def _sweep(self) -> None:
        """Removes the results of visitors who left long ago."""
        with self._lock:
            now = self._clock()
            gone = {name for name, at in self._left.items() if now - at >= KEPT_SECONDS}
            keys = [key for key in self._folders if key[0] in gone]
            old = [folder for key in keys for folder in self._folders.pop(key)]
            for name in gone:
                del self._left[name]
        for folder in old:
            shutil.rmtree(folder)

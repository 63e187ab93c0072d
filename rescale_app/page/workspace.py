"""Temporary files of the page: folders for each visitor, removed when the visitor leaves."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from threading import Lock


class Workspace:
    """A temporary folder with folders for visitors.

    A context manager: everything is removed on exit.

    Attributes:
        root: the folder.
        uploads: its subfolder for uploaded files.
    """

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="rescale-demo-")
        self.root = Path(self._temporary.name).resolve()
        self.uploads = self.root / "uploads"
        self.uploads.mkdir()
        self._folders: dict[tuple[str, str], Path] = {}
        self._lock = Lock()

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.cleanup()

    def fresh(self, visitor: str, purpose: str) -> Path:
        """Creates an empty folder; the visitor's previous one for this purpose is removed."""
        folder = Path(tempfile.mkdtemp(dir=self.root))
        with self._lock:
            before = self._folders.get((visitor, purpose))
            self._folders[visitor, purpose] = folder
        if before is not None:
            shutil.rmtree(before)
        return folder

    def forget(self, visitor: str) -> None:
        """Removes the visitor's folders."""
        with self._lock:
            keys = [key for key in self._folders if key[0] == visitor]
            folders = [self._folders.pop(key) for key in keys]
        for folder in folders:
            shutil.rmtree(folder)

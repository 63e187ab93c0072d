"""Atomic writing: files appear only when they are complete."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike, fspath

TEMPORARY_PREFIX = ".tmp-"
"""Prefix of the names of temporary files; a killed process leaves such a file behind."""

# Longer suffixes do not denote a format, and could exceed the limit of the file system.
_LONGEST_SUFFIX = 32


@contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[str]:
    """Yields the name of a temporary file, which is renamed to ``path`` if the block succeeds.

    The temporary file is created in the same folder, with the permissions of any new file: read and
    write for all, minus the umask.

    Raises:
        OSError: the folder is missing or not writable.
        Exception: any exception of the block; the temporary file is then removed.
    """
    name = fspath(path)
    temporary = _create_beside(name)
    try:
        yield temporary
        os.replace(temporary, name)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _create_beside(name: str) -> str:
    """Creates an empty hidden file with a short random name in the folder of ``name``."""
    folder, base = os.path.split(name)
    # The suffix is kept, since image libraries choose the format by it.
    suffix = os.path.splitext(base)[1]
    if len(os.fsencode(suffix)) > _LONGEST_SUFFIX:
        suffix = ""
    while True:
        temporary = os.path.join(folder, f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{suffix}")
        # The system applies the umask, which cannot be read without changing it: that would not
        # be thread-safe.
        with suppress(FileExistsError):
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return temporary

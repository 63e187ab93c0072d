"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike, fspath


@contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[str]:
    """Gives the name of a temporary file beside ``path``, which it becomes if the block succeeds.

    Raises:
        OSError: the folder is missing or not writable.
        Exception: whatever the block raises; the temporary file is then removed.
    """
    name = fspath(path)
    folder, base = os.path.split(name)
    # the suffix is kept, since image libraries go by it
    stem, suffix = os.path.splitext(base)
    handle, temporary = tempfile.mkstemp(suffix, f".{stem}.", folder or ".")
    os.close(handle)
    try:
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 is for secrets
        yield temporary
        os.replace(temporary, name)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise

"""Fetching files of an npm package of a fixed version with known content."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rescale_compat.errors import RescaleError


def fetch_files(package: str, integrity: str, names: Sequence[str]) -> dict[str, bytes]:
    """Fetches files of a package with ``npm``, from its cache or the configured registry.

    Args:
        package: name and version, ``name@1.2.3``.
        integrity: integrity of the package's archive in npm's notation: ``sha512-..`` in base64.
        names: paths of the files in the package.

    Returns:
        The content of each file.

    Raises:
        ValueError: npm is missing or fails, or the archive differs.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise RescaleError(f"{package} is fetched by npm, which is not installed (see nodejs.org)")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", package, "--prefer-offline", "--ignore-scripts", "--silent"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            raise RescaleError(f"npm cannot fetch {package}: {_reason(done)}")
        data = archives[0].read_bytes()
    digest = base64.b64encode(hashlib.sha512(data).digest()).decode("ascii")
    if f"sha512-{digest}" != integrity:
        raise RescaleError(f"{package} has the content sha512-{digest}: expected {integrity}")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {name: _content(archive, name) for name in names}


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(f"package/{name}")
    assert file is not None
    return file.read()


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {done.returncode}"

"""Fetching the runtime of the exported page from npm."""

import shutil
from pathlib import Path

import pytest

from rescale_app.export import npm
from rescale_app.export.npm import fetch_files


def test_npm_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npm.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="npm, which is not installed"):
        fetch_files("onnxruntime-web@1.30.0", "", [])


def test_another_archive_is_refused(tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    package = tmp_path / "package"
    package.mkdir()
    (package / "package.json").write_text('{"name": "small", "version": "1.0.0"}')
    with pytest.raises(ValueError, match=r"has the content sha512-.*: expected sha512-AAAA"):
        fetch_files(str(package), "sha512-AAAA", [])
    with pytest.raises(ValueError, match="npm cannot fetch"):
        fetch_files(str(tmp_path / "missing"), "sha512-AAAA", [])

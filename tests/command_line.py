"""The command's images, as in ``conftest.py`` of its tests, and its messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from rescale_data.losses import Loss

ODD_SIZES = {"deep": (41, 53), "gray": (33, 27), "jpeg": (47, 61), "rgba": (24, 39)}


def losses_in(folder: Path) -> str:
    """The warning of what the images of ``folder`` lose."""
    return f"rescale: warning: {folder}/deep.png: {Loss.DEPTH.value}\n"


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """What was written to stderr: one line, no traceback."""
    error = capsys.readouterr().err
    assert error.startswith("rescale: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return error

"""Errors and warnings of commands: one line each, on the standard error output."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rescale_compat.errors import RescaleError


class UsageError(RescaleError):
    """An invalid command line; exit code 2."""


def describe(error: BaseException, source: Path | None = None) -> str:
    """``error`` in one line that names the affected file, ``source`` unless it names another."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}"
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    if source is not None and not text.startswith(f"{source}:"):
        text = f"{source}: {text}"
    return text


def print_warning(message: str) -> None:
    """Prints a line that begins with ``rescale: warning:``."""
    _print(f"warning: {message}")


def print_error(message: str) -> None:
    """Prints a line that begins with ``rescale: error:``."""
    _print(f"error: {message}")


def print_interrupted() -> None:
    """Prints that the user interrupted the command."""
    _print("interrupted")


def _print(message: str) -> None:
    from tqdm import tqdm

    # File names may contain line breaks; tqdm.write does not break a progress bar. It would
    # write the line end separately, and messages of other processes could come in between.
    tqdm.write(f"rescale: {' '.join(message.splitlines())}\n", file=sys.stderr, end="")

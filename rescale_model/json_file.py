"""JSON files of results: metrics, and the options that they were computed with."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rescale_data.image_file import write_file


def write_json(path: str, content: Any) -> None:
    """Writes ``content`` as JSON.

    Numbers that are not finite, which JSON does not support, are converted to strings, as are keys.
    A class or function, such as the plugin of an option file, is written as its dotted name, any
    other object as its ``str``.

    Raises:
        OSError: the file cannot be written.
    """
    write_file(path, json.dumps(_plain(content), indent=1, allow_nan=False).encode())


def write_options(folder: str, opt: Mapping[str, Any]) -> None:
    """Writes ``options.json`` to the folder of the metrics of a test.

    Args:
        folder: folder of the metrics.
        opt: the options as resolved by BasicSR. The file also contains ``date``, the local time.

    Raises:
        OSError: the file cannot be written.
    """
    date = datetime.now().isoformat(" ", "minutes")
    write_json(os.path.join(folder, "options.json"), {**opt, "date": date})


def _plain(value: Any) -> Any:
    """Converts ``value`` to types that JSON supports."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return str(value)

"""The record of an LR file: the information needed to restore it, as JSON and in file names.

Restoring requires the scale and the size of the original, which the pixels of an LR image do not
determine. They are stored in the file as a line of JSON (`rescale_data.records`) and, on request,
in its name, which is preserved if metadata is stripped: `photo.s2.5.1920x1080.png`.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from rescale_compat.errors import RescaleError

__all__ = ["LRInfo", "NameHint", "hint_in_name", "name_with_hint", "name_without_hint"]

INFO_VERSION = 1
# Scales that a record may contain; networks may have narrower limits.
SCALE_LIMITS = (1.0, 256.0)

_NUMBER = r"\d+(?:\.\d+)?"
_HINT = re.compile(
    rf"\.s(?P<vertical>{_NUMBER})(?:x(?P<horizontal>{_NUMBER}))?"
    r"\.(?P<width>[1-9]\d{0,8})x(?P<height>[1-9]\d{0,8})(?!\d)"
)


@dataclass(frozen=True)
class LRInfo:
    """The record of an LR file, with all information needed to restore it.

    Args:
        network: Name of the network that created the LR image ("aidn").
        scale: HR side over LR side, (vertical, horizontal).
        size: (height, width) of the HR image in pixels.
        weights: Fingerprint of the weights that created the LR image.

    Raises:
        ValueError: If a value has the wrong type or is out of range.
    """

    network: str
    scale: tuple[float, float]
    size: tuple[int, int]
    weights: str

    def __post_init__(self) -> None:
        """Checks the values, and converts lists to tuples."""
        for name, text in (("network", self.network), ("weights", self.weights)):
            if not isinstance(text, str) or not text:
                raise RescaleError(f"{name} must be a name, not {text!r}")
        low, high = SCALE_LIMITS
        scale, size = _pair(self.scale), _pair(self.size)
        if not all(_is_number(s) and low <= s <= high for s in scale):
            raise RescaleError(
                f"scale must be two numbers from {low} to {high}, not {self.scale!r}"
            )
        if not all(_is_number(n) and isinstance(n, int) and n > 0 for n in size):
            raise RescaleError(f"size must be two integers above 0, not {self.size!r}")
        object.__setattr__(self, "scale", tuple(map(float, scale)))
        object.__setattr__(self, "size", size)

    def to_json(self) -> str:
        """Returns the record as one line of JSON; `from_json` is the exact inverse."""
        return json.dumps({"version": INFO_VERSION, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> LRInfo:
        """Parses the output of `to_json`.

        Raises:
            ValueError: If the text is malformed.
        """
        try:
            entries = json.loads(text)
        except RecursionError:
            raise RescaleError("JSON nested too deeply") from None
        names = {"version", "network", "scale", "size", "weights"}
        if not isinstance(entries, dict) or set(entries) != names:
            raise RescaleError(f"expected the entries {', '.join(sorted(names))}")
        if entries.pop("version") != INFO_VERSION:
            raise RescaleError(
                f"written by a later version: only version {INFO_VERSION} is supported"
            )
        return cls(**entries)


@dataclass(frozen=True)
class NameHint:
    """Scale and original size in the name of a file.

    Attributes:
        scale: HR side over LR side, (vertical, horizontal).
        size: (height, width) of the HR image in pixels.
    """

    scale: tuple[float, float]
    size: tuple[int, int]


def name_with_hint(stem: str, info: LRInfo) -> str:
    """Appends scale and original size to the name of a file without its suffix.

    Example:
        >>> name_with_hint("photo", LRInfo("aidn", (2.5, 2.5), (1080, 1920), "sha256:0"))
        'photo.s2.5.1920x1080'
    """
    vertical, horizontal = map(_number_text, info.scale)
    scale = vertical if vertical == horizontal else f"{vertical}x{horizontal}"
    return f"{stem}.s{scale}.{info.size[1]}x{info.size[0]}"


def hint_in_name(name: str) -> NameHint | None:
    """Finds the last hint in the name of a file, regardless of what follows it.

    Returns:
        Scale and size exactly as passed to `name_with_hint`, or None without a hint.
    """
    match = _last_hint(name)
    if match is None:
        return None
    vertical = float(match["vertical"])
    horizontal = float(match["horizontal"] or vertical)
    return NameHint((vertical, horizontal), (int(match["height"]), int(match["width"])))


def name_without_hint(name: str) -> str:
    """Removes the last hint from the name of a file; a name without one is returned unchanged."""
    match = _last_hint(name)
    return name if match is None else name[: match.start()] + name[match.end() :]


def _last_hint(name: str) -> re.Match[str] | None:
    low, high = SCALE_LIMITS
    matches = [
        match
        for match in _HINT.finditer(name)
        if all(low <= float(match[axis] or low) <= high for axis in ("vertical", "horizontal"))
    ]
    return matches[-1] if matches else None


def _number_text(value: float) -> str:
    """The shortest text that parses to the same number: `2`, `2.5`."""
    return f"{value:.0f}" if value == int(value) else repr(value)


def _pair(values: object) -> tuple[Any, ...]:
    """Returns a list or tuple of length two as a tuple, anything else as (None, None)."""
    return tuple(values) if isinstance(values, list | tuple) and len(values) == 2 else (None, None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

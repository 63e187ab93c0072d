"""A table of measurements, as text and as JSON, and the settings of all tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Settings:
    """Settings of all tables.

    Attributes:
        quick: use tiny networks and images, to check that everything runs.
        threads: CPU threads of every process.
        repeats: number of rounds of measurements.
        devices: devices to measure, of ``cpu`` and ``cuda``.
        folder: for temporary files.
    """

    quick: bool
    threads: int
    repeats: int
    devices: Sequence[str]
    folder: str

    def repeats_on(self, device: str) -> int:
        """Number of rounds; on a GPU, each process repeats its measurement itself."""
        return 1 if device == "cuda" else self.repeats


@dataclass
class Table:
    """Rows of numbers by column name; ratios are relative to the first row."""

    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    has_failures: bool = False

    def as_json(self) -> dict[str, Any]:
        """The table as stored in the results file."""
        return {"title": self.title, "rows": self.rows, "notes": self.notes}

    def __str__(self) -> str:
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        cells = [columns] + [[text(row.get(key)) for key in columns] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if index else cell.ljust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ]
        return "\n".join([self.title, *lines, *self.notes])


def text(value: Any) -> str:
    """Formats a value for tables and plots."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)

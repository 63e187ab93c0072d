"""A plot of the tables: seconds and peak memory of each row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.table import Table, text


def plot(tables: Sequence[Table], path: Path) -> bool:
    """Plots tables with seconds and memory to a PNG file; returns False if there are none."""
    shown = [table for table in tables if any("seconds" in row for row in table.rows)]
    if not shown:
        return False
    figure = Figure(figsize=(9, 1.9 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 2, squeeze=False)
    for line, table in zip(axes, shown, strict=True):
        rows = [row for row in table.rows if "seconds" in row]
        labels = [row[""] for row in rows]
        for axis, key in zip(line, ("seconds", "MiB"), strict=True):
            bars = axis.barh(labels, [row[key] for row in rows], color="#4878a8")
            axis.bar_label(bars, fmt=text, padding=3)
            axis.invert_yaxis()
            axis.set_xlabel(key)
            axis.margins(x=0.25)
        line[0].set_title(table.title, loc="left", fontsize=9)
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=120)
    os.replace(temporary, path)
    return True

"""A plot of the tables: seconds and peak memory of each row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.table import Table, text


def plot(tables: Sequence[Table], path: Path) -> bool:
    """Plots tables with seconds and memory to a PNG file; returns False if there are none."""
    columns = ("seconds", "MiB")
    measured = [[row for row in table.rows if row.keys() >= set(columns)] for table in tables]
    shown = [(table, rows) for table, rows in zip(tables, measured, strict=True) if rows]
    if not shown:
        return False
    figure = Figure(figsize=(9, 1.9 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 2, squeeze=False)
    for line, (table, rows) in zip(axes, shown, strict=True):
        labels = [row[""] for row in rows]
        for axis, key in zip(line, columns, strict=True):
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

"""The results of a comparison of methods, as tables (Markdown, CSV, JSON) and as a plot."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from rescale_data.image_file import write_file
from rescale_model.evaluation.cost import Cost

_KEYS = ("set", "image", "lr_file", "method", "scale")
_INCHES = (4.0, 3.2)  # of one plot
_INTRODUCTION = """\
# Benchmark

Means over the images of a set. Every method downscales, stores the LR image in a file and restores
from it; bicubic interpolation is antialiased, with the true scale in both directions. Metrics are
computed on 8-bit images without a border of ceil(scale) pixels; those with "float" in their name
are not rounded. Those that start with "lr" compare the stored LR image with the bicubic one."""


@dataclass(frozen=True)
class ComparisonReport:
    """The results of a comparison of methods.

    Attributes:
        metrics: name -> options of the metric; the first one is plotted.
        rows: one per image, LR file, method and scale: ``set``, ``image``, ``lr_file``, ``method``,
            ``scale`` (label) and the metrics.
        costs: method -> time and memory.
        conditions: how these were measured, as text.
    """

    metrics: Mapping[str, Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]
    costs: Mapping[str, Cost]
    conditions: str

    def write(self, folder: str) -> None:
        """Writes ``benchmark.md``, ``.csv``, ``.json`` and ``.png``.

        Raises:
            OSError: a file cannot be written.
        """
        for suffix, content in (
            ("md", self.markdown().encode()),
            ("csv", self.csv().encode()),
            ("json", self.json().encode()),
            ("png", self.plot()),
        ):
            write_file(os.path.join(folder, f"benchmark.{suffix}"), content)

    def means(self) -> dict[tuple[str, ...], dict[str, float]]:
        """(set, LR file, method, scale) -> metric -> mean over the images."""
        groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
        for row in self.rows:
            key = tuple(row[name] for name in _KEYS if name != "image")
            groups.setdefault(key, []).append(row)
        return {
            key: {name: math.fsum(row[name] for row in rows) / len(rows) for name in self.metrics}
            for key, rows in groups.items()
        }

    def table(self, metric: str) -> str:
        """The means of a metric in Markdown: a column for each scale."""
        digits = 2 if "psnr" in self.metrics[metric]["type"] else 4
        means, scales = self.means(), self._values("scale")
        lines = [
            [*place, *(f"{means[*place, scale][metric]:.{digits}f}" for scale in scales)]
            for place in product(*map(self._values, ("set", "lr_file", "method")))
            if (*place, scales[0]) in means  # not every kind of LR file has every method
        ]
        return _markdown(["set", "LR file", "method", *scales], lines, texts=3)

    def markdown(self) -> str:
        """All tables in Markdown."""
        parts = [_INTRODUCTION]
        for metric in self.metrics:
            parts += [f"## {metric}", self.table(metric)]
        scales = self._values("scale")
        lines = [
            [
                method,
                f"{cost.parameters:,}",
                *(f"{cost.seconds[scale]:.2f}" for scale in scales),
                "not measured" if cost.memory is None else f"{cost.memory / 1e6:.0f}",
            ]
            for method, cost in self.costs.items()
        ]
        header = ["method", "parameters", *(f"{scale}, s" for scale in scales), "peak memory, MB"]
        parts += [
            "## Time and memory per megapixel",
            f"For downscaling and restoring, per megapixel of the HR image; {self.conditions}.",
            _markdown(header, lines, texts=1),
        ]
        return "\n\n".join(parts) + "\n"

    def csv(self) -> str:
        """CSV with a line per image, LR file, method and scale."""
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, [*_KEYS, *self.metrics])
        writer.writeheader()
        writer.writerows(self.rows)
        return table.getvalue()

    def json(self) -> str:
        """JSON of means, costs and results per image; infinite PSNRs are written as ``"inf"``."""
        names = [name for name in _KEYS if name != "image"]
        means: list[dict[str, Any]] = [
            {**dict(zip(names, key, strict=True)), **mean} for key, mean in self.means().items()
        ]
        images = [dict(row) for row in self.rows]
        for row in (*means, *images):
            for name in self.metrics:
                row[name] = row[name] if math.isfinite(row[name]) else str(row[name])
        content = {
            "mean": means,
            "cost": {method: asdict(cost) for method, cost in self.costs.items()},
            "cost_conditions": self.conditions,
            "images": images,
        }
        return json.dumps(content, indent=1, allow_nan=False)

    def plot(self) -> bytes:
        """The first metric over the scale as a PNG: a row for each set, a column for each file."""
        from matplotlib.figure import Figure  # imported late: it takes a second

        means, metric = self.means(), next(iter(self.metrics))
        sets, files, scales = (self._values(name) for name in ("set", "lr_file", "scale"))
        figure = Figure((_INCHES[0] * len(files), _INCHES[1] * len(sets)), layout="constrained")
        axes = figure.subplots(len(sets), len(files), squeeze=False, sharex=True, sharey="row")
        for row, name in zip(axes, sets, strict=True):
            for plot, file in zip(row, files, strict=True):
                for method in self.costs:
                    if (name, file, method, scales[0]) not in means:
                        continue
                    values = [means[name, file, method, scale][metric] for scale in scales]
                    factors = [float(scale.removeprefix("x")) for scale in scales]
                    plot.plot(factors, values, marker="o", markersize=3, label=method)
                plot.set_title(f"{name}, {file}")
                plot.grid(alpha=0.3)
            row[0].set_ylabel(metric)
        for plot in axes[-1]:
            plot.set_xlabel("scale")
        axes[0][0].legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
        return buffer.getvalue()

    def _values(self, name: str) -> list[str]:
        return list(dict.fromkeys(row[name] for row in self.rows))


def _markdown(header: Sequence[str], lines: Iterable[Sequence[str]], texts: int) -> str:
    """A table whose first ``texts`` columns are text and the others numbers."""
    rule = ["---" if column < texts else "--:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines))

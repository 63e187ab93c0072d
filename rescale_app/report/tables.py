"""Tables of metrics, for the template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from rescale_app.html.rendering import number_text, render
from rescale_app.report.results import Outcome, Results

Row = tuple[str, Sequence[str], bool]
"""Name, cells, and whether the row is highlighted."""


@dataclass(frozen=True)
class Table:
    """A table; ``title`` may be empty."""

    header: Sequence[str]
    rows: Sequence[Row]
    title: str = ""


@dataclass(frozen=True)
class SetMeans:
    """The tables of a dataset."""

    name: str
    tables: Sequence[Table]


def means(results: Results) -> list[SetMeans]:
    """Means over the images of each dataset."""
    tables = _by_metric if results.is_benchmark else _by_scale
    return [SetMeans(name, list(tables(results, name))) for name in results.values("set")]


def costs(results: Results) -> Table | None:
    """Time and memory of the methods of a benchmark."""
    if not results.is_benchmark:
        return None
    scales = results.values("scale")
    rows = {
        method: [
            f"{cost['parameters']:,}",
            *(f"{cost['seconds'][scale]:.2f}" for scale in scales),
            "not measured" if cost["memory"] is None else f"{cost['memory'] / 1e6:.0f}",
        ]
        for method, cost in results.costs.items()
    }
    header = ["method", "parameters", *(f"{scale}, s" for scale in scales), "peak memory, MB"]
    return Table(header, _rows(rows))


def of_image(results: Results, outcomes: Sequence[Outcome]) -> Markup:
    """HTML table of all metrics of outcomes of an image, a row for each."""
    rows = {
        outcome.variant if results.is_benchmark else outcome.scale: _cells(results, outcome.figures)
        for outcome in outcomes
    }
    first = outcomes[0].scale if results.is_benchmark else "scale"
    return render("figures.html", header=[first, *results.metrics], rows=_rows(rows))


def _by_scale(results: Results, name: str) -> Iterator[Table]:
    rows = {
        scale: _cells(results, mean)
        for (set_name, _, _, scale), mean in results.means.items()
        if set_name == name
    }
    yield Table(["scale", *results.metrics], _rows(rows))


def _by_metric(results: Results, name: str) -> Iterator[Table]:
    """A table for each metric."""
    for metric, options in results.metrics.items():
        rows: dict[str, list[str]] = {}
        for (set_name, lr_file, method, _), mean in results.means.items():
            if set_name == name:
                row = rows.setdefault(f"{method}, {lr_file}", [])
                row.append(_number(mean[metric], options))
        yield Table(["method, LR file", *results.values("scale")], _rows(rows), metric)


def _rows(rows: Mapping[str, Sequence[str]]) -> list[Row]:
    return [(name, cells, False) for name, cells in rows.items()]


def _cells(results: Results, figures: Mapping[str, float]) -> list[str]:
    return [_number(figures[metric], options) for metric, options in results.metrics.items()]


def _number(value: float, metric: Mapping[str, Any]) -> str:
    return number_text(value, 2 if "psnr" in metric["type"] else 4)

"""Tables of metrics, for the template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from rescale_app.html.rendering import number_text, render
from rescale_app.report.headings import headings
from rescale_app.report.results import BICUBIC, Outcome, Results

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
    bicubic = {
        (outcome.lr_file, outcome.scale): outcome.figures
        for outcome in outcomes
        if outcome.method == BICUBIC
    }
    rows = {}
    for outcome in outcomes:
        name = outcome.variant if results.is_benchmark else outcome.scale
        reference = outcome.figures
        if results.is_benchmark:
            reference = bicubic.get((outcome.lr_file, outcome.scale), {})
        rows[name] = _cells(results, outcome.figures, reference or None)
    first = outcomes[0].scale if results.is_benchmark else "Scale"
    return render("figures.html", header=[first, *_header(results)], rows=_rows(rows))


def _by_scale(results: Results, name: str) -> Iterator[Table]:
    rows = {
        scale: _cells(results, mean, mean)
        for (set_name, _, _, scale), mean in results.means.items()
        if set_name == name
    }
    yield Table(["Scale", *_header(results)], _rows(rows))


def _by_metric(results: Results, name: str) -> Iterator[Table]:
    """The gain over bicubic, and a table for each metric."""
    header = ["Method, LR file", *results.values("scale")]
    means = {key[1:]: mean for key, mean in results.means.items() if key[0] == name}
    if results.compared_metric is not None:
        rows: dict[str, list[str]] = {}
        for (lr_file, method, scale), mean in means.items():
            if method != BICUBIC:
                gain = results.gain(mean, means.get((lr_file, BICUBIC, scale)))
                rows.setdefault(f"{method}, {lr_file}", []).append(_gain_text(gain))
        yield Table(header, _rows(rows), _gain_heading(results))
    for metric, heading in headings(results.metrics).items():
        rows = {}
        for (lr_file, method, _), mean in means.items():
            row = rows.setdefault(f"{method}, {lr_file}", [])
            row.append(_number(mean[metric], results.metrics[metric]))
        yield Table(header, _rows(rows), heading)


def _header(results: Results) -> list[str]:
    gain = [] if results.compared_metric is None else [_gain_heading(results)]
    return [*gain, *headings(results.metrics).values()]


def _gain_heading(results: Results) -> str:
    assert results.compared_metric is not None
    heading = headings(results.metrics)[results.compared_metric[0]]
    return f"Gain over bicubic, {heading}"


def _rows(rows: Mapping[str, Sequence[str]]) -> list[Row]:
    return [(name, cells, False) for name, cells in rows.items()]


def _cells(
    results: Results, figures: Mapping[str, float], bicubic: Mapping[str, float] | None
) -> list[str]:
    cells = [_number(figures[metric], options) for metric, options in results.metrics.items()]
    if results.compared_metric is None:
        return cells
    return [_gain_text(results.gain(figures, bicubic)), *cells]


def _gain_text(gain: float | None) -> str:
    return "" if gain is None else f"{'+' if gain > 0 else ''}{number_text(gain, 2)}"


def _number(value: float, metric: Mapping[str, Any]) -> str:
    return number_text(value, 2 if "psnr" in metric["type"] else 4)

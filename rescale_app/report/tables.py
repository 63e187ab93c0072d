"""Figures as HTML tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from rescale_app.report.results import Outcome, Results


def means(results: Results) -> Iterator[str]:
    """Means over the pictures of each data set, and of a benchmark time and memory."""
    for name in results.values("set"):
        yield f"<h3>{escape(name)}</h3>"
        yield from _by_metric(results, name) if results.is_benchmark else _by_scale(results, name)
    if results.is_benchmark:
        yield _costs(results)


def of_picture(results: Results, outcomes: Sequence[Outcome]) -> str:
    """All figures of some outcomes of a picture, a row for each."""
    rows = {
        outcome.variant if results.is_benchmark else outcome.scale: _row(results, outcome.figures)
        for outcome in outcomes
    }
    first = outcomes[0].scale if results.is_benchmark else "scale"
    return _table([first, *results.metrics], rows)


def _by_scale(results: Results, name: str) -> Iterator[str]:
    rows = {
        scale: _row(results, mean)
        for (set_name, _, _, scale), mean in results.means.items()
        if set_name == name
    }
    yield _table(["scale", *results.metrics], rows)


def _by_metric(results: Results, name: str) -> Iterator[str]:
    """A table for each metric; the first one is open."""
    for number, (metric, options) in enumerate(results.metrics.items()):
        rows: dict[str, list[str]] = {}
        for (set_name, lr_file, method, _), mean in results.means.items():
            if set_name == name:
                row = rows.setdefault(f"{method}, {lr_file}", [])
                row.append(_number(mean[metric], options))
        table = _table(["method, LR file", *results.values("scale")], rows)
        opened = "" if number else " open"
        yield f"<details{opened}><summary>{escape(metric)}</summary>{table}</details>"


def _costs(results: Results) -> str:
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
    return (
        "<h3>Time and memory of a megapixel</h3><p class='soft'>Of the HR picture, downscaled and "
        f"restored; {escape(results.conditions)}.</p>{_table(header, rows)}"
    )


def _row(results: Results, figures: Mapping[str, float]) -> list[str]:
    return [_number(figures[metric], options) for metric, options in results.metrics.items()]


def _number(value: float, metric: Mapping[str, Any]) -> str:
    if not math.isfinite(value):
        return str(value).replace("inf", "\N{INFINITY}")
    return f"{value:.{2 if 'psnr' in metric['type'] else 4}f}"


def _table(header: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    head = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr><th scope='row'>{escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for name, row in rows.items()
    )
    return (
        "<div class='rescale-scroll' tabindex='0'><table class='rescale-figures'>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )

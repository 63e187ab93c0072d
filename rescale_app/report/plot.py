"""PSNR over the scale, as SVG that inherits its colors from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import product
from typing import Any

from rescale_app.report.headings import headings
from rescale_app.report.results import BICUBIC, Results, distinct, factor

_INCHES = (4.8, 3.4)
_INK = "#010203"  # placeholder for the text color of the page
# HTML needs no namespaces; styles and most ids would affect the whole page
_SURPLUS = (
    r"<metadata>.*?</metadata>|<style.*?</style>"
    r"| xmlns(?::\w+)?=\"[^\"]*\"| id=\"[\w.]+_\d+\""
)
_COLORS = ("#12908a", "#d9792b", "#7c6fd0", "#c74f77", "#6f9a2e", "#4c87c7")  # on white and black

_Points = list[tuple[float, float]]


def plots(results: Results) -> Iterator[str]:
    """Yields an SVG element for each dataset and, in a benchmark, each kind of LR file.

    Yields nothing if there is only one scale, or no PSNR.
    """
    scales = sorted(results.values("scale"), key=factor)
    metric = results.compared_metric or (results.main_metric, None)
    if len(scales) < 2 or metric[0] is None:
        return
    label = headings(results.metrics)[metric[0]]
    for place in product(results.values("set"), results.values("lr_file")):

        def points(method: str, name: str, place: tuple[str, str] = place) -> _Points:
            return [(factor(s), results.means[*place, method, s][name]) for s in scales]

        methods = distinct(key[2] for key in results.means if key[:2] == place)
        if results.is_benchmark:
            curves = {method: points(method, metric[0]) for method in methods}
        else:
            curves = {methods[0]: points(methods[0], metric[0])}
            if metric[1] is not None:
                curves[BICUBIC] = points(methods[0], metric[1])
        yield _plot(", ".join(filter(None, place)), label, scales, curves)


def _plot(title: str, label: str, scales: Sequence[str], curves: Mapping[str, _Points]) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = dict.fromkeys(ink, _INK)
    with rc_context({**settings, "svg.fonttype": "none", "svg.hashsalt": title, "font.size": 11}):
        figure = Figure(_INCHES, layout="constrained")
        axes = figure.subplots()
        for number, (name, points) in enumerate(curves.items()):
            color = _COLORS[number % len(_COLORS)]
            axes.plot(*zip(*points, strict=True), "o-", ms=4, color=color, label=name)
        axes.grid(alpha=0.18, color=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        # a pair is at its geometric mean, labeled with both factors
        axes.set_xticks([factor(scale) for scale in scales], [s.removeprefix("x") for s in scales])
        axes.set_title(title)
        axes.set_xlabel("scale")
        axes.set_ylabel(label)
        axes.legend(framealpha=0)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue().replace(_INK, "currentColor")
    svg = re.sub(_SURPLUS, "", svg, flags=re.S)
    svg = svg[svg.index("<svg") :]
    label = escape(f"PSNR over the scale: {title}")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)

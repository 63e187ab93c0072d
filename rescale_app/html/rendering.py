"""Jinja2 templates of the page and of reports; all values are escaped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(template: str, **values: Any) -> Markup:
    """Renders a template in ``rescale_app/html/templates``."""
    return Markup(_ENVIRONMENT.get_template(template).render(values))


def stream(template: str, **values: Any) -> Iterator[str]:
    """Yields the HTML of a template in pieces; iterators among ``values`` are consumed lazily."""
    return _ENVIRONMENT.get_template(template).generate(values)


def size_text(size: tuple[int, int]) -> str:
    """(height, width) in the usual notation, width first: ``640 x 480``."""
    return f"{size[1]} \N{MULTIPLICATION SIGN} {size[0]}"


def bytes_text(file: Path) -> str:
    """Size of a file in kB (1000 bytes) or MB."""
    return count_text(file.stat().st_size)


def count_text(size: int) -> str:
    """A number of bytes in kB (1000 bytes) or MB, with two digits or more."""
    unit, number = ("MB", size / 1e6) if size >= 1e6 else ("kB", size / 1e3)
    return f"{number:.{1 if number < 10 else 0}f} {unit}"


def number_text(value: float, digits: int) -> str:
    """Formats a number with ``digits`` decimals, or as the infinity sign."""
    if not math.isfinite(value):
        return str(value).replace("inf", "\N{INFINITY}")
    return f"{value:.{digits}f}"


_ENVIRONMENT = Environment(
    loader=PackageLoader("rescale_app.html"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters.update(size=size_text, bytes=bytes_text, number=number_text)

"""Components of the page and of reports: the comparison with a divider, notices, data URLs."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markupsafe import Markup

from rescale_app.html import error_levels
from rescale_app.html.rendering import render


@dataclass(frozen=True)
class Layer:
    """An image of the scene.

    Attributes:
        name: identifier, unique in the scene.
        label: display name.
        source: URL of the image file, possibly a data URL.
        enlarged: the image is smaller than the scene, and is enlarged with visible pixels.
        errors: the image is an `error_levels.error_image`.
    """

    name: str
    label: str
    source: str
    enlarged: bool = False
    errors: bool = False


def comparison(
    layers: Sequence[Layer],
    size: tuple[int, int],
    left: str,
    right: str,
    *,
    panes: bool = False,
    plain: bool = False,
    keep: str | None = None,
) -> Markup:
    """HTML of images under a divider; the document needs `script` too.

    Args:
        layers: the images, in the order of the menus.
        size: (height, width) of the scene in pixels.
        left: name of the image initially on the left of the divider.
        right: name of the image initially on its right.
        panes: adds small views of all images, which follow zoom and position.
        plain: shows only images and divider.
        keep: a name; zoom and position are kept when the element is replaced by another one of the
            same name and size.
    """
    return render(
        "compare.html",
        layers=layers,
        size=size,
        left=left,
        right=right,
        panes=panes,
        plain=plain,
        keep=keep,
        errors_max=error_levels.MOST,
        errors_colors=error_levels.COLORS,
    )


@cache
def script() -> Markup:
    """The JavaScript of `comparison`."""
    return Markup(Path(__file__).with_name("compare.js").read_text(encoding="utf-8"))


@cache
def style() -> Markup:
    """The CSS that page and reports share."""
    return Markup(Path(__file__).with_name("style.css").read_text(encoding="utf-8"))


def notice(text: str, kind: str = "error") -> Markup:
    """A message instead of a result, or above one (``kind``: ``error``, ``warning``, ``hint``)."""
    return render("notice.html", text=text, kind=kind)


def data_url(data: bytes, name: str) -> str:
    """A file as a URL that holds it; the suffix of ``name`` determines its type."""
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"

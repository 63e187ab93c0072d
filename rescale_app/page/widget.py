"""HTML that the page and reports share: the comparison with a divider, and notices."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

from rescale_app.page import error_map


@dataclass(frozen=True)
class Layer:
    """A picture of the scene.

    Attributes:
        name: by which it is chosen; unlike the others'.
        label: what people read.
        source: URL of the picture file, possibly a data URL.
        enlarged: it is smaller than the scene, and its pixels are to be seen.
        errors: it is an `error_map.error_picture`.
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
) -> str:
    """HTML of pictures under a divider; the document needs `script` too.

    Args:
        layers: the pictures, as they shall be offered.
        size: (height, width) of the scene in pixels.
        left: name of the picture on the left of the divider at first.
        right: and of that on its right.
        panes: adds small views of all pictures, which follow zoom and position.
        plain: leaves everything out but pictures and divider.
        keep: a name; pictures of the same name and size that come after these are shown at the
            same zoom and position.
    """
    attributes = {
        "width": size[1],
        "height": size[0],
        "left": left,
        "right": right,
        "errors-max": error_map.MOST,
        "errors-colors": ",".join(error_map.COLORS),
        **({"panes": ""} if panes else {}),
        **({"plain": ""} if plain else {}),
        **({"keep": keep} if keep else {}),
    }
    images = "".join(
        f'<img data-name="{escape(layer.name)}" data-label="{escape(layer.label)}"'
        f"{' data-enlarged' if layer.enlarged else ''}{' data-errors' if layer.errors else ''}"
        f' alt="{escape(layer.label)}" loading="lazy" src="{escape(layer.source)}">'
        for layer in layers
    )
    named = " ".join(f'{name}="{escape(str(value))}"' for name, value in attributes.items())
    return f"<rescale-compare {named}>{images}</rescale-compare>"


@cache
def script() -> str:
    """The JavaScript that brings `comparison` to life."""
    return Path(__file__).with_name("compare.js").read_text(encoding="utf-8")


@cache
def style() -> str:
    """The CSS that page and reports share."""
    return Path(__file__).with_name("style.css").read_text(encoding="utf-8")


def notice(text: str, kind: str = "error") -> str:
    """A message in place of a result, or above one (``kind``: ``error``, ``warning``, ``hint``)."""
    sentence = text[:1].upper() + text[1:]
    return f"<p class='rescale-notice {kind}' role='alert'>{escape(sentence)}</p>"


def data_url(data: bytes, name: str) -> str:
    """A file as a URL that holds it; ``name`` tells by its suffix what it is."""
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"

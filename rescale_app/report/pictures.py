"""Pictures under a divider."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rescale_app.page.widget import Layer, comparison, data_url, notice
from rescale_app.report import tables
from rescale_app.report.originals import Originals
from rescale_app.report.results import BICUBIC, Outcome, Results
from rescale_app.report.worst_crops import Crop
from rescale_data.image_file import read_image

LONGEST = 1024
"""Pictures with a longer side are scaled down to this."""

Pixels = NDArray[np.uint8]
Size = tuple[int, int]


def crop_figure(crop: Crop) -> str:
    """A crop, original against restored, with what it is of."""
    divider = comparison(
        [
            Layer("hr", "Original", _png(crop.original)),
            Layer("restored", "Restored", _png(crop.restored)),
        ],
        (crop.original.shape[0], crop.original.shape[1]),
        "hr",
        "restored",
        plain=True,
    )
    outcome = crop.outcome
    what = f"{outcome.image} {outcome.scale}"
    where = f"{outcome.variant}, {outcome.set}, at {crop.left}, {crop.top}"
    return (
        f"<figure class='crop'>{divider}<figcaption><b>{escape(what)}</b>"
        f"<span>{crop.psnr:.2f} dB</span><small>{escape(where)}</small></figcaption></figure>"
    )


def all_pictures(
    results: Results, originals: Mapping[str, Originals], limit: int, remarks: list[str]
) -> Iterator[str]:
    """Every picture under a divider, as far as it was saved, and its figures.

    Those with the lowest figures come first. Of a benchmark each scale has a divider of its own.

    Args:
        results: of the test.
        originals: by set, those that were found.
        limit: characters that dividers may take; after that there are figures only.
        remarks: grows if it comes to that.
    """
    rest = limit
    for outcomes in _ranked(results):
        name = f"{escape(outcomes[0].image)} <small>{escape(outcomes[0].set)}</small>"
        yield f"<article><h3>{name}</h3>"
        for group in _groups(results, outcomes):
            if rest >= 0:
                divider = _divider(results, originals, group)
                rest -= len(divider)
                if rest >= 0:
                    yield divider
                else:
                    remarks.append(
                        f"from {outcomes[0].image} on there are figures only: pictures take no "
                        f"more than {limit / 1e6:g} MB, but for another --limit"
                    )
                    yield notice(f"{remarks[-1]}.", "warning")
            yield tables.of_picture(results, group)
        yield "</article>"


def _ranked(results: Results) -> list[list[Outcome]]:
    """The outcomes of each picture."""
    pictures: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in results.outcomes:
        pictures.setdefault((outcome.set, outcome.image), []).append(outcome)
    return sorted(pictures.values(), key=lambda of_picture: sum(map(results.rank, of_picture)))


def _groups(results: Results, outcomes: Sequence[Outcome]) -> Iterable[list[Outcome]]:
    if not results.is_benchmark:
        return [list(outcomes)]
    return [list(group) for _, group in groupby(outcomes, key=lambda outcome: outcome.scale)]


def _divider(
    results: Results, originals: Mapping[str, Originals], outcomes: Sequence[Outcome]
) -> str:
    """The pictures of outcomes of one picture under a divider; empty if none was saved."""
    saved = [outcome for outcome in outcomes if outcome.restored.is_file()]
    if not saved:
        return ""
    set_name, image = saved[0].set, saved[0].image
    layers, size = [], (0, 0)
    if set_name in originals and image in originals[set_name]:
        url, size = _embedded(originals[set_name][image])
        layers.append(Layer("hr", "Original", url))
    for outcome in saved:
        url, size = _embedded(outcome.restored)
        layers.append(Layer(f"hr {_label(results, outcome)}", _label(results, outcome), url))
    for outcome in outcomes:
        if outcome.lr.is_file():
            label = f"LR {_label(results, outcome).removeprefix('Restored ')}"
            layers.append(Layer(label, label, _embedded(outcome.lr)[0], enlarged=True))
    networks = [outcome for outcome in saved if outcome.method != BICUBIC] or saved
    right = f"hr {_label(results, min(networks, key=results.rank))}"
    left = layers[0].name if layers[0].name != right else layers[-1].name
    order = ", ".join(layer.label for layer in layers)
    full = read_image(saved[0].restored).shape[:2]
    reduced = (
        f"<p class='soft'>{full[1]} \N{MULTIPLICATION SIGN} {full[0]} pixels, shown with {size[1]} "
        f"\N{MULTIPLICATION SIGN} {size[0]}.</p>"
        if full != size
        else ""
    )
    return (
        f"{comparison(layers, size, left, right, panes=not results.is_benchmark)}"
        f"<noscript><p class='soft'>In this order: {escape(order)}.</p></noscript>{reduced}"
    )


def _label(results: Results, outcome: Outcome) -> str:
    return outcome.variant if results.is_benchmark else f"Restored {outcome.scale}"


def _embedded(picture: Path | Pixels) -> tuple[str, Size]:
    """A data URL with a picture, as it is or scaled down to `LONGEST`, and its (height, width)."""
    pixels = read_image(picture) if isinstance(picture, Path) else picture
    height, width = pixels.shape[:2]
    longest = max(height, width)
    if longest > LONGEST:
        height, width = (max(1, round(side * LONGEST / longest)) for side in (height, width))
        smaller = Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX)
        return _png(np.asarray(smaller)), (height, width)
    if isinstance(picture, Path):
        return data_url(picture.read_bytes(), "picture.png"), (height, width)
    return _png(pixels), (height, width)


def _png(pixels: Pixels) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data_url(data.getvalue(), "picture.png")

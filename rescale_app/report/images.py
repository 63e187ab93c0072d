"""Images under a divider."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from rescale_app.html.components import Layer, comparison, data_url, notice
from rescale_app.html.error_levels import error_image, error_levels
from rescale_app.html.rendering import render
from rescale_app.report import tables
from rescale_app.report.originals import Originals
from rescale_app.report.results import BICUBIC, Outcome, Results, factors
from rescale_app.report.worst_crops import Crop
from rescale_arch import imresize
from rescale_arch.bicubic import bicubic_lr
from rescale_arch.rounding import quantize
from rescale_data.image_file import read_image
from rescale_data.pixels import to_pixels, to_tensor

LONGEST = 1024
"""Images with a longer side are scaled down to this."""

Pixels = NDArray[np.uint8]
Size = tuple[int, int]


@dataclass(frozen=True)
class CropFigure:
    """A crop, original against restored, with its caption."""

    comparison: Markup
    title: str
    place: str
    psnr: float


@dataclass(frozen=True)
class ImageArticle:
    """An image under dividers with its metrics; ``parts`` are computed lazily."""

    name: str
    set: str
    parts: Iterator[Markup]


def crop_figure(crop: Crop) -> CropFigure:
    """The figure of a crop in a report."""
    outcome = crop.outcome
    return CropFigure(
        comparison(
            [
                Layer("hr", "Original", _png(crop.original)),
                Layer("restored", "Restored", _png(crop.restored)),
            ],
            (crop.original.shape[0], crop.original.shape[1]),
            "hr",
            "restored",
            plain=True,
        ),
        title=f"{outcome.image} {outcome.scale}",
        place=f"{outcome.variant}, {outcome.set}, at {crop.left}, {crop.top}",
        psnr=crop.psnr,
    )


def all_images(
    results: Results, originals: Mapping[str, Originals], limit: int, remarks: list[str]
) -> Iterator[ImageArticle]:
    """Yields every image under a divider, if it was saved, with its metrics.

    Images with the lowest main metric are first. In a benchmark each scale has its own divider.

    Args:
        results: of the test.
        originals: set -> its originals, if found.
        limit: maximum total size of the dividers in characters; further images have only metrics.
        remarks: a message is appended if the limit is reached.
    """
    rest = limit

    def parts(outcomes: list[Outcome]) -> Iterator[Markup]:
        nonlocal rest
        for group in _groups(results, outcomes):
            if rest >= 0:
                divider = _divider(results, originals, group)
                rest -= len(divider)
                if rest >= 0:
                    yield divider
                else:
                    remarks.append(
                        f"from {outcomes[0].image} on, only metrics are shown, since images are "
                        f"limited to {limit / 1e6:g} MB: raise --limit"
                    )
                    yield notice(f"{remarks[-1]}.", "warning")
            yield tables.of_image(results, group)

    for outcomes in _ranked(results):
        yield ImageArticle(outcomes[0].image, outcomes[0].set, parts(outcomes))


def _ranked(results: Results) -> list[list[Outcome]]:
    """The outcomes of each image."""
    by_image: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in results.outcomes:
        by_image.setdefault((outcome.set, outcome.image), []).append(outcome)
    return sorted(by_image.values(), key=lambda each: sum(map(results.rank, each)))


def _groups(results: Results, outcomes: Sequence[Outcome]) -> Iterable[list[Outcome]]:
    if not results.is_benchmark:
        return [list(outcomes)]
    return [list(group) for _, group in groupby(outcomes, key=lambda outcome: outcome.scale)]


def _divider(
    results: Results, originals: Mapping[str, Originals], outcomes: Sequence[Outcome]
) -> Markup:
    """The saved images for one original under a divider; empty if none was saved."""
    saved = [outcome for outcome in outcomes if outcome.restored.is_file()]
    if not saved:
        return Markup()
    set_name, image = saved[0].set, saved[0].image
    original = None
    if set_name in originals and image in originals[set_name]:
        original = originals[set_name][image]
    layers, size = [], (0, 0)
    if original is not None:
        layers.append(Layer("original", "Original", _embedded(original)[0]))
    for outcome in saved:
        label = _label(results, outcome)
        url, size = _embedded(outcome.restored)
        layers.append(Layer(label, label, url))
    if original is not None:
        layers += _against(results, original, saved)
    for outcome in outcomes:
        if outcome.lr.is_file():
            label = f"LR {_label(results, outcome).removeprefix('Restored ')}"
            layers.append(Layer(label, label, _embedded(outcome.lr)[0], enlarged=True))
    worst = min([each for each in saved if each.method != BICUBIC] or saved, key=results.rank)
    right, names = _label(results, worst), [layer.name for layer in layers]
    left = next(name for name in (_bicubic(results, worst), *names) if name in names)
    order = ", ".join(layer.label for layer in layers)
    full = read_image(saved[0].restored).shape[:2]
    return render(
        "divider.html",
        comparison=comparison(layers, size, left, right, panes=not results.is_benchmark),
        order=order,
        full=full,
        shown=size,
    )


def _against(results: Results, original: Pixels, saved: Sequence[Outcome]) -> Iterator[Layer]:
    """Bicubic images, which a benchmark has saved itself, and errors."""
    compared = {_label(results, outcome): read_image(outcome.restored) for outcome in saved}
    if not results.is_benchmark:
        for outcome in saved:
            label = _bicubic(results, outcome)
            compared[label] = bicubic_round_trip(original, factors(outcome.scale))
            yield Layer(label, label, _embedded(compared[label])[0])
    for label, pixels in compared.items():
        levels = error_levels(original, pixels)
        smaller = Image.fromarray(levels).resize(_fitting(levels)[::-1], Image.Resampling.BOX)
        url = data_url(error_image(np.asarray(smaller)), "image.png")
        yield Layer(f"errors {label}", f"Error: {label}", url, errors=True)


def bicubic_round_trip(original: Pixels, scale: tuple[float, float]) -> Pixels:
    """Downscales to an 8-bit LR image and back by bicubic interpolation, as tests evaluate it.

    Args:
        original: (H, W, 3) uint8 RGB.
        scale: factors (vertical, horizontal).

    Returns:
        the same shape, uint8.
    """
    size = (original.shape[0], original.shape[1])
    lr = quantize(bicubic_lr(to_tensor(original), scale))
    return to_pixels(imresize(lr, size, scale))


def _label(results: Results, outcome: Outcome) -> str:
    return outcome.variant if results.is_benchmark else f"Restored {outcome.scale}"


def _bicubic(results: Results, outcome: Outcome) -> str:
    """Name of the bicubic image to compare an outcome with."""
    if results.is_benchmark:
        return replace(outcome, method=BICUBIC).variant
    return f"Bicubic {outcome.scale}"


def _fitting(pixels: NDArray[np.uint8]) -> Size:
    """The size of an image, scaled down if a side is longer than `LONGEST`."""
    height, width = pixels.shape[:2]
    longest = max(height, width, LONGEST)
    return max(1, round(height * LONGEST / longest)), max(1, round(width * LONGEST / longest))


def _embedded(image: Path | Pixels) -> tuple[str, Size]:
    """A data URL with an image, unchanged or scaled down to `LONGEST`, and its (height, width)."""
    pixels = read_image(image) if isinstance(image, Path) else image
    size = _fitting(pixels)
    if size != pixels.shape[:2]:
        smaller = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BOX)
        return _png(np.asarray(smaller)), size
    if isinstance(image, Path):
        return data_url(image.read_bytes(), "image.png"), size
    return _png(pixels), size


def _png(pixels: Pixels) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data_url(data.getvalue(), "image.png")

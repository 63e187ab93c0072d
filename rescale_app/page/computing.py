"""What all computations of the page share: reading within limits, progress, cancellation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rescale_compat.errors import RescaleError

import numpy as np
from numpy.typing import NDArray

from rescale_app.html.error_levels import error_image, error_levels
from rescale_app.rescaler import OnProgress, Rescaler
from rescale_data.decoding import image_size
from rescale_data.image_file import read_image, write_file

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """An uploaded file.

    Attributes:
        path: where it is; its name lacks characters that are unsafe in file names.
        name: its name on the visitor's device.
    """

    path: Path
    name: str


def read_within(source: Source, max_pixels: int) -> NDArray[Any]:
    """Reads an image that has at most ``max_pixels``, which its header tells.

    Raises:
        ImageFileError: the file is not an image.
        ValueError: the image is too large.
    """
    check_pixels(source.name, image_size(source.path.read_bytes(), source.name), max_pixels)
    return read_image(source.path)


def check_pixels(name: str, size: tuple[int, int], max_pixels: int, verb: str = "is") -> None:
    """Raises ValueError for an image ``name`` of ``size`` (H, W) that is too large."""
    if size[0] * size[1] > max_pixels:
        raise RescaleError(
            f"{name} {verb} {size[1]}x{size[0]}, {size[0] * size[1] / 1e6:.3g} megapixels: this "
            f"page accepts up to {max_pixels / 1e6:g}. The command rescale has no such limit"
        )


def work_of_round_trip(effort: int) -> list[tuple[str, float]]:
    """The steps of a round trip in order, and how long they take; restoring takes 1."""
    work = [("Downscaling", 3.0)]
    if effort:
        # both LR images are restored, and the better one is kept
        work += [("Optimizing", 3.5 * effort), ("Restoring", 1.0), ("Restoring", 1.0)]
    return [*work, ("Restoring", 1.0)]


@contextmanager
def optimizing(rescaler: Rescaler, effort: int, jpeg_quality: int | None = None) -> Iterator[None]:
    """Sets ``rescaler.effort`` and ``rescaler.jpeg_quality``.

    Networks are shared, which is safe since images are computed one at a time.
    """
    before = rescaler.effort, rescaler.jpeg_quality
    rescaler.effort, rescaler.jpeg_quality = effort, jpeg_quality
    try:
        yield
    finally:
        rescaler.effort, rescaler.jpeg_quality = before


@contextmanager
def watched(
    rescaler: Rescaler,
    progress: OnProgress,
    work: Sequence[tuple[str, float]],
    span: tuple[float, float],
) -> Iterator[None]:
    """Reports the progress of a network to ``progress``, which may raise to stop it.

    This sets ``rescaler.progress``, which is safe since images are computed one at a time.

    Args:
        rescaler: the network.
        progress: called with a step and the completed fraction of the whole.
        work: steps of `Rescaler` in order, and how long they take in relation to each other.
        span: the part of the whole that they take together.
    """
    start, end = span
    share = (end - start) / sum(weight for _, weight in work)
    at, done_before = 0, 0.0
    last = ("", start)

    def report(step: str, done: float) -> None:
        nonlocal at, done_before, last
        if step != work[at][0] or done <= done_before:
            # Some steps occur several times, and small images do not report all of them.
            later = (index for index in range(at + 1, len(work)) if work[index][0] == step)
            at = next(later, at)
        done_before = done
        passed = sum(weight for _, weight in work[:at]) + done * work[at][1]
        last = (step, start + share * passed)
        progress(*last)

    hooks = []
    if not rescaler.architecture.exact_tiles:
        # Tiles are few or none: every layer is an opportunity to stop.
        for module in rescaler.network.modules():
            hooks.append(module.register_forward_pre_hook(lambda *_: progress(*last)))
    before = rescaler.progress
    rescaler.progress = report
    try:
        yield
    finally:
        rescaler.progress = before
        for hook in hooks:
            hook.remove()


def write_errors(file: Path, reference: Pixels, other: Pixels) -> Path:
    """Writes an image of the errors of ``other`` and returns ``file``."""
    write_file(file, error_image(error_levels(reference, other)))
    return file

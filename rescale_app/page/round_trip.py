"""Computations of the page: round trips, and restoring LR files."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rescale_compat.errors import RescaleError

from rescale_app.html.error_levels import error_image, error_levels
from rescale_app.lr_image import LRImage
from rescale_app.quality import Comparison, Quality, image_quality
from rescale_app.rescaler import OnProgress, Rescaler, RescaleWarning
from rescale_arch.scales import MAX_SCALE
from rescale_data.image_file import LRInfo, read_image, read_info, write_file, write_image


@dataclass(frozen=True)
class LongestSide:
    """Requested length of the longest side of the LR image, in pixels."""

    pixels: int


@dataclass(frozen=True, eq=False)
class RoundTrip:
    """The round trip of an image, and its files.

    Attributes:
        comparison: through a PNG file, compared with bicubic interpolation.
        jpeg: quality of the image restored from a JPEG file.
        bicubic_jpeg: the same for bicubic.
        jpeg_quality: quality of the JPEG files, 1 to 100.
        hr_file: the original as 8-bit PNG.
        lr_file: the LR image as PNG, which can be restored.
        jpeg_file: the LR image as JPEG, which can be restored.
        views: further PNG files: ``restored``, ``jpeg``, ``bicubic``, ``errors`` (of ``restored``),
            ``jpeg_errors`` and ``bicubic_errors``.
    """

    comparison: Comparison
    jpeg: Quality
    bicubic_jpeg: Quality
    jpeg_quality: int
    hr_file: Path
    lr_file: Path
    jpeg_file: Path
    views: dict[str, Path]


@dataclass(frozen=True, eq=False)
class Restored:
    """An image restored from its LR file.

    Attributes:
        info: the record stored in the file.
        lr_size: (h, w).
        weights: name of the weights that restored it.
        file: the restored image, PNG.
        lr_file: the LR image as it was read, PNG.
        warning: why the result is likely to be poor; empty if it is not.
        seconds: time for restoring.
    """

    info: LRInfo
    lr_size: tuple[int, int]
    weights: str
    file: Path
    lr_file: Path
    warning: str
    seconds: float


def scale_for_longest(size: tuple[int, int], longest: int) -> float:
    """The scale that downscales the longest side of an image to ``longest`` pixels.

    Args:
        size: (H, W).
        longest: pixels.

    Raises:
        ValueError: the image is not larger, or more than 4 times as large.
    """
    scale = max(size) / longest if longest >= 1 else float("inf")
    if not 1 < scale <= MAX_SCALE:
        least, most = -(-max(size) // int(MAX_SCALE)), max(size) - 1
        raise RescaleError(
            f"the longest side is {max(size)} pixels now: it can become {least} to {most}, "
            f"not {longest}"
        )
    return scale


def make_round_trip(
    source: Path,
    rescaler: Rescaler,
    target: float | LongestSide | None,
    quality: int,
    folder: Path,
    progress: OnProgress,
) -> RoundTrip:
    """Downscales and restores an image through PNG and JPEG, by a network and by bicubic.

    Args:
        source: image file.
        rescaler: the network.
        target: factor, or longest side; None for a network with a fixed factor.
        quality: JPEG quality, 1 to 100.
        folder: where the files are written.
        progress: called with the progress.

    Raises:
        ImageFileError: the file is not an image.
        ValueError: the image is too small, or the factor out of range.
    """
    progress("Reading the image", 0.02)
    image = read_image(source)
    if isinstance(target, LongestSide):
        scale: float | None = scale_for_longest((image.shape[0], image.shape[1]), target.pixels)
    else:
        scale = target
    progress("Downscaling and restoring", 0.05)
    with _tiles_told(rescaler, progress, {"Downscaling": (0.05, 0.25), "Restoring": (0.25, 0.45)}):
        comparison = rescaler.compare(image, scale)
    hr, lr = comparison.hr, comparison.lr
    stem = f"{source.stem}-{scale_text(lr.info)}"
    lr_file, jpeg_file = folder / f"{stem}.png", folder / f"{stem}-q{quality}.jpg"
    write_image(lr_file, lr.pixels, info=lr.info)
    write_image(jpeg_file, lr.pixels, quality=quality, info=lr.info)
    progress("Restoring from the JPEG", 0.5)
    with _tiles_told(rescaler, progress, {"Restoring": (0.5, 0.75)}):
        from_jpeg = rescaler.upscale(LRImage(read_image(jpeg_file), lr.info))
    progress("Comparing", 0.75)
    bicubic_file = folder / f"bicubic-q{quality}.jpg"
    write_image(bicubic_file, comparison.bicubic_lr, quality=quality)
    size, factors = (hr.shape[0], hr.shape[1]), lr.info.scale
    bicubic_from_jpeg = rescaler.bicubic(read_image(bicubic_file), size, factors)
    border = math.ceil(max(factors))
    shown = {
        "restored": comparison.restored,
        "jpeg": from_jpeg,
        "bicubic": comparison.bicubic,
    }
    views = {name: folder / f"{name}.png" for name in shown}
    for name, pixels in shown.items():
        write_image(views[name], pixels)
    for name, pixels in shown.items():
        errors = "errors" if name == "restored" else f"{name}_errors"
        views[errors] = folder / f"{errors}.png"
        write_file(views[errors], error_image(error_levels(hr, pixels)))
    hr_file = folder / "original.png"
    write_image(hr_file, hr)
    return RoundTrip(
        comparison=comparison,
        jpeg=image_quality(hr, from_jpeg, border),
        bicubic_jpeg=image_quality(hr, bicubic_from_jpeg, border),
        jpeg_quality=quality,
        hr_file=hr_file,
        lr_file=lr_file,
        jpeg_file=jpeg_file,
        views=views,
    )


def restore(
    source: Path, rescalers: Mapping[str, Rescaler], folder: Path, progress: OnProgress
) -> Restored:
    """Restores an LR file using its record, with the weights that created it if available.

    Args:
        source: LR file.
        rescalers: name of weights -> the network with them.
        folder: where the files are written.
        progress: called with the progress.

    Raises:
        ImageFileError: the file is not an image.
        ValueError: the record is missing or malformed, or names a network that is not loaded.
    """
    progress("Reading the image", 0.02)
    info, pixels = read_info(source), read_image(source)
    if info is None:
        raise RescaleError(
            f"{source.name} contains no record of its scale and original size, so it cannot be "
            "restored: either it was not created by this program, or a platform has stripped the "
            "record. If scale and original size are known, `rescale up -s SCALE --size WxH` "
            "restores it"
        )
    name, rescaler = _rescaler_for(info, rescalers, source.name)
    progress(f"Restoring with {name}", 0.1)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RescaleWarning)
        with _tiles_told(rescaler, progress, {"Restoring": (0.1, 0.9)}):
            restored = rescaler.upscale(LRImage(pixels, info))
    seconds = time.perf_counter() - start
    progress("Writing the image", 0.9)
    file, lr_file = folder / f"{source.stem}-restored.png", folder / "lr.png"
    write_image(file, restored)
    write_image(lr_file, pixels, info=info)
    return Restored(
        info=info,
        lr_size=(pixels.shape[0], pixels.shape[1]),
        weights=name,
        file=file,
        lr_file=lr_file,
        warning="; ".join(str(warning.message) for warning in caught),
        seconds=seconds,
    )


@contextmanager
def _tiles_told(
    rescaler: Rescaler, progress: OnProgress, spans: Mapping[str, tuple[float, float]]
) -> Iterator[None]:
    """Reports the progress of tiles to ``progress``; ``spans`` maps steps to parts of the total.

    This sets ``rescaler.progress``, which is safe since images are computed one at a time.
    """

    def tell(step: str, done: float) -> None:
        start, end = spans[step]
        progress(f"{step}, {done:.0%}", start + done * (end - start))

    before = rescaler.progress
    rescaler.progress = tell
    try:
        yield
    finally:
        rescaler.progress = before


def scale_text(info: LRInfo) -> str:
    """The scale as in ``x2.5``, or ``x2x1.5`` (vertical, horizontal)."""
    vertical, horizontal = info.scale
    return f"x{vertical:g}" if vertical == horizontal else f"x{vertical:g}x{horizontal:g}"


def _rescaler_for(
    info: LRInfo, rescalers: Mapping[str, Rescaler], file: str
) -> tuple[str, Rescaler]:
    """The weights that created the file, or else others of its network."""
    of_network = [
        (name, rescaler)
        for name, rescaler in rescalers.items()
        if rescaler.architecture.name == info.network
    ]
    if not of_network:
        raise RescaleError(
            f"{file} was created by the network {info.network!r} with the weights {info.weights}: "
            f"no weights of this network are loaded (loaded: {', '.join(rescalers)}). Start "
            "the page with --weights FILE"
        )
    return next((pair for pair in of_network if pair[1].fingerprint == info.weights), of_network[0])

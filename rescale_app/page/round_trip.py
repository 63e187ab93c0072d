"""Round trips of the page: through a PNG file, and through a JPEG file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from rescale_compat.errors import RescaleError

from rescale_app.lr_image import LRImage, scale_text
from rescale_app.page.computing import (
    Pixels,
    Source,
    optimizing,
    read_within,
    watched,
    work_of_round_trip,
    write_errors,
)
from rescale_app.quality import Quality, image_quality
from rescale_app.rescaler import OnProgress, Rescaler
from rescale_arch.scales import MAX_SCALE
from rescale_data.image_file import read_image, write_image


@dataclass(frozen=True)
class LongestSide:
    """Requested length of the longest side of the LR image, in pixels."""

    pixels: int


Target = float | LongestSide | None
"""What to downscale to: a scale, a length, or None for a network with a fixed factor."""


@dataclass(frozen=True, eq=False)
class PngTrip:
    """The round trip of an image through a PNG file, compared with that of bicubic interpolation.

    Attributes:
        folder: where all files are.
        name: name of the original's file.
        original_bytes: size of the original's file.
        target: what was requested.
        effort: number of steps in which the LR image was optimized.
        size: (H, W).
        lr: the LR image.
        bicubic_lr: (h, w, 3), the bicubic LR image.
        quality: of the restored image.
        bicubic_quality: of the bicubic image.
        lr_psnr: PSNR of the LR image against the bicubic one, RGB, dB.
        lr_psnr_y: the same for Y.
        seconds: time for downscaling and for restoring.
        hr_file: the original as 8-bit PNG.
        lr_file: the LR image, which can be restored.
        views: further PNG files: ``restored``, ``bicubic``, and ``restored_errors``,
            ``bicubic_errors``.
    """

    folder: Path
    name: str
    original_bytes: int
    target: Target
    effort: int
    size: tuple[int, int]
    lr: LRImage
    bicubic_lr: Pixels
    quality: Quality
    bicubic_quality: Quality
    lr_psnr: float
    lr_psnr_y: float
    seconds: tuple[float, float]
    hr_file: Path
    lr_file: Path
    views: dict[str, Path]


@dataclass(frozen=True, eq=False)
class JpegTrip:
    """The same image through a JPEG file; attributes are as for `PngTrip`.

    Attributes:
        folder: where the files are, without the original.
        jpeg_quality: quality of the JPEG file, 1 to 100.
        effort: number of steps in which the LR image was optimized, for this quality.
        lr: the LR image before compression.
        quality: of the restored image.
        bicubic_quality: of the bicubic image, also through a JPEG file.
        lr_file: the LR image, which can be restored.
        views: further PNG files.
    """

    folder: Path
    jpeg_quality: int
    effort: int
    lr: LRImage
    quality: Quality
    bicubic_quality: Quality
    lr_file: Path
    views: dict[str, Path]


def scale_for_longest(size: tuple[int, int], longest: int) -> float:
    """The scale that downscales the longest side of an image to ``longest`` pixels.

    Args:
        size: (H, W).
        longest: pixels.

    Raises:
        ValueError: this would enlarge the image, or downscale it by more than the largest factor.
    """
    side = max(size)
    least = math.ceil(side / MAX_SCALE)
    if not least <= longest < side:
        raise RescaleError(
            f"the longest side is {side}: it can become {least} to {side - 1}, not {longest}"
        )
    return side / longest


def through_png(
    source: Source,
    rescaler: Rescaler,
    target: Target,
    folder: Path,
    progress: OnProgress,
    max_pixels: int,
    effort: int = 0,
) -> PngTrip:
    """Downscales and restores an image through a PNG file.

    Args:
        source: image file.
        rescaler: network with weights.
        target: what to downscale to.
        folder: where the files are written.
        progress: called with the progress; an exception that it raises ends the computation.
        max_pixels: limit for the image.
        effort: number of steps in which the LR image is optimized.

    Raises:
        ImageFileError: the file is not an image.
        ValueError: the image is too small or too large, or the factor out of range.
    """
    progress("Reading the image", 0.0)
    image = read_within(source, max_pixels)
    if isinstance(target, LongestSide):
        scale: float | None = scale_for_longest((image.shape[0], image.shape[1]), target.pixels)
    else:
        scale = target
    progress("Downscaling", 0.02)
    work = work_of_round_trip(effort)
    with optimizing(rescaler, effort), watched(rescaler, progress, work, (0.02, 0.8)):
        result = rescaler.compare(image, scale)
    progress("Writing the images", 0.9)
    hr, lr = result.hr, result.lr
    hr_file = folder / "original.png"
    write_image(hr_file, hr)
    lr_file = folder / f"{source.path.stem}-x{scale_text(lr.info.scale)}.png"
    write_image(lr_file, lr.pixels, info=lr.info)
    return PngTrip(
        folder=folder,
        name=source.name,
        original_bytes=source.path.stat().st_size,
        target=target,
        effort=effort,
        size=(hr.shape[0], hr.shape[1]),
        lr=lr,
        bicubic_lr=result.bicubic_lr,
        quality=result.quality,
        bicubic_quality=result.bicubic_quality,
        lr_psnr=result.lr_psnr,
        lr_psnr_y=result.lr_psnr_y,
        seconds=(result.seconds_down, result.seconds_up),
        hr_file=hr_file,
        lr_file=lr_file,
        views=_views(folder, hr, {"restored": result.restored, "bicubic": result.bicubic}),
    )


def through_jpeg(
    trip: PngTrip,
    rescaler: Rescaler,
    quality: int,
    folder: Path,
    progress: OnProgress,
    lr: LRImage | None = None,
    effort: int = 0,
) -> JpegTrip:
    """Sends the image of ``trip`` through a JPEG file instead.

    Args:
        trip: the round trip through a PNG file.
        rescaler: network with weights for JPEG.
        quality: quality of the JPEG file, 1 to 100.
        folder: where the files are written.
        progress: as for `through_png`.
        lr: the LR image, if it is known; without effort, quality does not change it.
        effort: number of steps in which the LR image is optimized for the quality.
    """
    progress("Downscaling for JPEG", 0.0)
    hr = read_image(trip.hr_file)
    if not (effort or trip.effort) and trip.lr.info.weights == rescaler.fingerprint:
        lr = trip.lr
    work = work_of_round_trip(effort)
    with optimizing(rescaler, effort, quality), watched(rescaler, progress, work, (0.0, 0.8)):
        if lr is None:
            lr = rescaler.downscale(hr, trip.lr.info.scale)
        stem = trip.lr_file.stem
        lr_file, bicubic_file = folder / f"{stem}-q{quality}.jpg", folder / "bicubic.jpg"
        write_image(lr_file, lr.pixels, quality=quality, info=lr.info)
        restored = rescaler.upscale(LRImage(read_image(lr_file), lr.info))
    progress("Comparing", 0.8)
    write_image(bicubic_file, trip.bicubic_lr, quality=quality)
    bicubic = rescaler.bicubic(read_image(bicubic_file), trip.size, lr.info.scale)
    border = math.ceil(max(lr.info.scale))
    return JpegTrip(
        folder=folder,
        jpeg_quality=quality,
        effort=effort,
        lr=lr,
        quality=image_quality(hr, restored, border),
        bicubic_quality=image_quality(hr, bicubic, border),
        lr_file=lr_file,
        views=_views(folder, hr, {"restored": restored, "bicubic": bicubic}),
    )


def _views(folder: Path, hr: Pixels, images: dict[str, Pixels]) -> dict[str, Path]:
    """Writes images and their errors as PNG files."""
    views = {}
    for name, pixels in images.items():
        views[name] = folder / f"{name}.png"
        write_image(views[name], pixels)
        errors = f"{name}_errors"
        views[errors] = write_errors(folder / f"{errors}.png", hr, pixels)
    return views

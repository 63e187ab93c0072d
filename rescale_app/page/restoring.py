"""Restoring LR files on the page."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from rescale_app.lr_image import LRImage
from rescale_app.page.computing import Source, check_pixels, read_within, watched
from rescale_app.page.weights import Rescalers, for_file, without_record
from rescale_app.rescaler import OnProgress, RescaleWarning
from rescale_arch.scales import Scale, as_pair
from rescale_data.image_file import LRInfo, write_image
from rescale_data.lossless import is_lossless


@dataclass(frozen=True)
class Given:
    """What a visitor knows of an LR file without a record.

    Attributes:
        scale: its downscaling factor, or a pair (vertical, horizontal); None for a network with a
            fixed factor.
        size: (H, W) of the original.
        weights: name of the weights; None: selected by the format of the file.
    """

    scale: Scale | None
    size: tuple[int, int]
    weights: str | None = None


@dataclass(frozen=True, eq=False)
class Restored:
    """An image restored from its LR file.

    Attributes:
        folder: where the files are.
        name: name of the LR file.
        scale: (vertical, horizontal); None: not known, but fixed by the network.
        size: (H, W).
        lr_size: (h, w).
        created_by: the record's network and weights; None: the file has no record.
        weights: name of the weights that restored it.
        file: the restored image, PNG.
        lr_file: the LR image as it was read, PNG.
        warning: why the result is likely to be poor; empty if it is not.
        seconds: time for restoring.
    """

    folder: Path
    name: str
    scale: tuple[float, float] | None
    size: tuple[int, int]
    lr_size: tuple[int, int]
    created_by: tuple[str, str] | None
    weights: str
    file: Path
    lr_file: Path
    warning: str
    seconds: float


def restore(
    source: Source,
    info: LRInfo | Given,
    rescalers: Rescalers,
    folder: Path,
    progress: OnProgress,
    max_pixels: int,
) -> Restored:
    """Restores an LR file.

    Args:
        source: LR file.
        info: its record, for which the weights that created it are used if available; or what is
            known of it without.
        rescalers: name of weights -> the network with them.
        folder: where the files are written.
        progress: called with the progress; an exception that it raises ends the computation.
        max_pixels: limit for the LR image and for the restored one.

    Raises:
        ImageFileError: the file is not an image.
        ValueError: the record names a network that is not loaded, scale and size do not match
            the LR image, or an image is too large.
    """
    progress("Reading the image", 0.0)
    pixels = read_within(source, max_pixels)
    check_pixels(source.name, info.size, max_pixels, "would become")
    caution = ""
    if isinstance(info, LRInfo):
        name = for_file(info, rescalers, source.name)
        scale: tuple[float, float] | None = info.scale
    else:
        lossless = is_lossless(source.path)
        name = info.weights or without_record(lossless, rescalers)
        scale = None if info.scale is None else as_pair(info.scale)
        caution = (
            f"{source.name} contains no record that it was created by this program: rescaling is "
            "not super-resolution, and other images are restored poorly"
        )
    rescaler = rescalers[name]
    progress("Restoring", 0.02)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RescaleWarning)
        with watched(rescaler, progress, [("Restoring", 1.0)], (0.02, 0.9)):
            if isinstance(info, LRInfo):
                restored = rescaler.upscale(LRImage(pixels, info))
            else:
                restored = rescaler.upscale(pixels, info.scale, info.size)
    seconds = time.perf_counter() - start
    progress("Writing the image", 0.9)
    file, lr_file = folder / f"{source.path.stem}-restored.png", folder / "lr.png"
    write_image(file, restored)
    write_image(lr_file, pixels)
    return Restored(
        folder=folder,
        name=source.name,
        scale=scale,
        size=info.size,
        lr_size=(pixels.shape[0], pixels.shape[1]),
        created_by=(info.network, info.weights) if isinstance(info, LRInfo) else None,
        weights=name,
        file=file,
        lr_file=lr_file,
        warning="; ".join([caution] * bool(caution) + [str(each.message) for each in caught]),
        seconds=seconds,
    )

"""Rows of `rescale compare`: methods and codecs, for one image and as means over many."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from rescale_app.equal_bytes import available_codecs, within_bytes
from rescale_app.lr_image import LRImage, scale_text
from rescale_app.quality import Comparison, Quality, image_quality
from rescale_data.decoding import decode_image
from rescale_data.encoding import JPEG_QUALITY, encode_image
from rescale_data.image_file import write_file
from rescale_data.pixels import Pixels


@dataclass(frozen=True)
class Row:
    """A method on an image, or the mean of several images.

    Attributes:
        method: ``bicubic``, the network in capitals, or a codec.
        bytes: size of the file.
        bits_per_pixel: bits of the file for each pixel of the original.
        codec_quality: quality of the file, 1 to 100; None for lossless files.
        quality: similarity to the original.
        images: number of images in the mean.
    """

    method: str
    bytes: float
    bits_per_pixel: float
    codec_quality: float | None
    quality: Quality
    images: int = 1


@dataclass(frozen=True)
class Summary:
    """The results of comparing an image.

    Attributes:
        name: name of its file.
        size: (H, W) of the original.
        lr_size: (h, w).
        scale: the scale as text.
        rows: one for each method.
        lr_psnr: LR fidelity, RGB, dB.
        lr_psnr_y: the same for Y.
        seconds_down: time for downscaling.
        seconds_up: time for restoring.
    """

    name: str
    size: tuple[int, int]
    lr_size: tuple[int, int]
    scale: str
    rows: list[Row]
    lr_psnr: float
    lr_psnr_y: float
    seconds_down: float
    seconds_up: float


class LRFile:
    """An LR file in memory, as `rescale down` writes it.

    Args:
        suffix: selects the format: ``.png``, ``.jpg`` or ``.webp``.
        quality: 1 to 100; None: the default of the format.

    Attributes:
        quality: None for a lossless file.
        sizes: bytes of the files so far.
    """

    def __init__(self, suffix: str, quality: int | None) -> None:
        self.suffix = suffix
        self.quality = JPEG_QUALITY if quality is None and suffix == ".jpg" else quality
        self.sizes: list[int] = []

    def __call__(self, lr: LRImage) -> Pixels:
        """Writes and reads an LR image."""
        content = encode_image(lr.pixels, self.suffix, quality=self.quality, info=lr.info)
        self.sizes.append(len(content))
        return decode_image(content, f"LR image as {self.suffix}")


def summary_of(name: str, comparison: Comparison, file: LRFile, codecs: bool) -> Summary:
    """Summarizes an image that was compared through ``file``.

    Args:
        name: name of the image.
        comparison: result of `Rescaler.compare`.
        file: the file that it was called with.
        codecs: whether to add codecs that store the original in as many bytes as the LR file.
    """
    hr, lr = comparison.hr, comparison.lr
    return Summary(
        name=name,
        size=(hr.shape[0], hr.shape[1]),
        lr_size=(lr.pixels.shape[0], lr.pixels.shape[1]),
        scale=scale_text(lr.info.scale),
        rows=_rows(comparison, file, codecs),
        lr_psnr=comparison.lr_psnr,
        lr_psnr_y=comparison.lr_psnr_y,
        seconds_down=comparison.seconds_down,
        seconds_up=comparison.seconds_up,
    )


def _rows(comparison: Comparison, file: LRFile, codecs: bool) -> list[Row]:
    hr, lr = comparison.hr, comparison.lr
    pixels = hr.shape[0] * hr.shape[1]

    def row(method: str, size: int, codec_quality: int | None, quality: Quality) -> Row:
        return Row(method, size, 8 * size / pixels, codec_quality, quality)

    lr_bytes, bicubic_bytes = file.sizes[-2:]
    rows = [
        row("bicubic", bicubic_bytes, file.quality, comparison.bicubic_quality),
        row(lr.info.network.upper(), lr_bytes, file.quality, comparison.quality),
    ]
    if not codecs:
        return rows
    border = math.ceil(max(lr.info.scale))
    for codec in available_codecs():
        coded = within_bytes(hr, codec, lr_bytes)
        if coded is not None:
            quality = image_quality(hr, coded.pixels, border)
            rows.append(row(codec.name, coded.bytes, coded.quality, quality))
    return rows


def means(rows: Iterable[Row]) -> list[Row]:
    """Means over the images for each method, in the order in which they appear."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.method, []).append(row)
    return [_mean(group) for group in groups.values()]


def write_csv(path: str | os.PathLike[str], summaries: Iterable[Summary]) -> None:
    """Writes a line for each image and method.

    Args:
        path: file to write; an existing one is replaced.
        summaries: one for each image.

    Raises:
        OSError: it cannot be written.
    """
    names = [entry.name for entry in fields(Quality)]
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["image", "method", "bytes", "bits_per_pixel", "codec_quality", *names])
    for summary in summaries:
        for row in summary.rows:
            writer.writerow(
                [
                    summary.name,
                    row.method,
                    f"{row.bytes:.0f}",
                    f"{row.bits_per_pixel:.6f}",
                    "" if row.codec_quality is None else f"{row.codec_quality:.0f}",
                    *(f"{getattr(row.quality, name):.6f}" for name in names),
                ]
            )
    write_file(path, buffer.getvalue().encode())


def _mean(rows: Sequence[Row]) -> Row:
    def mean(values: Iterable[float]) -> float:
        return math.fsum(values) / len(rows)

    qualities = [row.codec_quality for row in rows if row.codec_quality is not None]
    return Row(
        method=rows[0].method,
        bytes=mean(row.bytes for row in rows),
        bits_per_pixel=mean(row.bits_per_pixel for row in rows),
        codec_quality=mean(qualities) if len(qualities) == len(rows) else None,
        quality=Quality(
            *(mean(getattr(row.quality, entry.name) for row in rows) for entry in fields(Quality))
        ),
        images=len(rows),
    )

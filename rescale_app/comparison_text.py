"""Tables of `rescale compare`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rescale_app.comparison_rows import Row, Summary, means


def image_table(path: str, summary: Summary, precision: str) -> str:
    """The results for a single image.

    Args:
        path: its file.
        summary: the results.
        precision: precision of the computation.
    """
    height, width = summary.size
    return "\n".join(
        [
            f"{path}: {width}x{height} -> {summary.lr_size[1]}x{summary.lr_size[0]} -> "
            f"{width}x{height}, scale {summary.scale}",
            _methods(summary.rows),
            _fidelity([summary]),
            f"seconds: down {summary.seconds_down:.2f}, up {summary.seconds_up:.2f}, "
            f"in {precision}",
        ]
    )


def folder_table(summaries: Sequence[Summary], precision: str) -> str:
    """PSNR of every image, and the means of all metrics."""
    rows = means(row for summary in summaries for row in summary.rows)
    methods = [row.method for row in rows]
    width = max(len(summary.name) for summary in summaries)
    width = max(width, len("PSNR Y in dB"))
    lines = [f"{'PSNR Y in dB':<{width}}{'size':>11}{'bits/px':>9}" + _cells(methods)]
    for summary in summaries:
        of_method = {row.method: row for row in summary.rows}
        figures = [
            f"{of_method[name].quality.psnr_y:.2f}" if name in of_method else "-"
            for name in methods
        ]
        size = f"{summary.size[1]}x{summary.size[0]}"
        rate = summary.rows[1].bits_per_pixel  # of the network's LR file
        lines.append(f"{summary.name:<{width}}{size:>11}{rate:>9.3f}" + _cells(figures))
    count = len(summaries)
    rate = math.fsum(summary.rows[1].bits_per_pixel for summary in summaries) / count
    figures = [f"{row.quality.psnr_y:.2f}" for row in rows]
    lines.append(f"{f'mean of {count}':<{width}}{'':>11}{rate:>9.3f}" + _cells(figures))
    down, up = (
        math.fsum(getattr(summary, name) for summary in summaries)
        for name in ("seconds_down", "seconds_up")
    )
    return "\n".join(
        [
            *lines,
            "",
            f"means at scale {summaries[0].scale}",
            _methods(rows, count),
            _fidelity(summaries),
            f"seconds: down {down:.2f}, up {up:.2f}, in {precision}",
        ]
    )


def _methods(rows: Sequence[Row], images: int = 1) -> str:
    """A line for each method; for codecs that could not store all images, with their number."""
    lines = [
        f"{'':<16}{'bytes':>10}{'bits/px':>9}{'quality':>9}"
        f"{'PSNR RGB':>10}{'SSIM RGB':>10}{'PSNR Y':>8}{'SSIM Y':>8}"
    ]
    for row in rows:
        name = row.method
        if row.images < images:
            name += f" ({row.images} of {images})"
        level = "lossless" if row.codec_quality is None else f"{row.codec_quality:.0f}"
        figures = row.quality
        lines.append(
            f"{name:<16}{row.bytes:>10.0f}{row.bits_per_pixel:>9.3f}{level:>9}"
            f"{figures.psnr:>10.2f}{figures.ssim:>10.4f}"
            f"{figures.psnr_y:>8.2f}{figures.ssim_y:>8.4f}"
        )
    return "\n".join(lines)


def _fidelity(summaries: Sequence[Summary]) -> str:
    rgb, luma = (
        math.fsum(getattr(summary, name) for summary in summaries) / len(summaries)
        for name in ("lr_psnr", "lr_psnr_y")
    )
    return f"LR fidelity: PSNR {rgb:.2f} dB RGB, {luma:.2f} dB Y"


def _cells(texts: Sequence[str]) -> str:
    return "".join(f"{text:>9}" for text in texts)

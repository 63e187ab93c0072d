"""``rescale compare``: compares round trips with bicubic interpolation and with codecs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rescale_compat.errors import RescaleError

from rescale_app.commands import arguments
from rescale_app.commands.files import check_folder, check_target, find_images
from rescale_app.commands.messages import UsageError, describe, print_error, print_warning
from rescale_app.commands.networks import (
    check_scale,
    choose_default_weights,
    load_rescaler,
    tell_format,
)
from rescale_app.distributed import Ranks

if TYPE_CHECKING:
    from rescale_app.comparison_rows import Summary
    from rescale_app.rescaler import Rescaler

DESCRIPTION = """\
Downscale and restore an image, or all of a folder, and compare with bicubic interpolation
(antialiased, with the true scale in both directions and an 8-bit LR image); with --codecs, also
with JPEG, WebP and AVIF files of the original that take no more bytes than the LR file. Metrics
are computed on 8-bit pixels without a border of ceil(scale); Y is that of MATLAB's rgb2ycbcr. LR
fidelity is the PSNR of the LR image against the bicubic one."""
_SCALE = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("input", metavar="IN", type=Path, help="image, or a folder of them")
    arguments.add_scale(
        parser, f"factor above 1 and at most 4, or a pair 2x1.5 (default: {_SCALE:g})"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="PANEL",
        type=Path,
        help="file for the images side by side (default: <name>-x<scale>.png in the current "
        "folder); for a folder of images a folder (default: none)",
    )
    parser.add_argument(
        "--codecs",
        action="store_true",
        help="also compare with JPEG, WebP and AVIF at the file size of the LR file",
    )
    parser.add_argument(
        "--format",
        choices=("png", "jpg", "webp"),
        help="format of the LR file that images are restored from (default: png)",
    )
    parser.add_argument(
        "--quality",
        type=arguments.quality,
        metavar="Q",
        help="quality of a JPEG (default: 95) or WebP (default: lossless) LR file, 1 to 100; "
        "implies jpg unless --format says webp",
    )
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="write the results for every image to a CSV file"
    )
    arguments.add_network(parser)
    arguments.add_effort(parser)


def run(args: argparse.Namespace) -> int:
    """Compares, prints the metrics and writes panels; returns the exit code."""
    from tqdm import tqdm

    if args.quality is not None and args.format == "png":
        raise UsageError("--quality requires --format jpg or webp, not png")
    suffix = f".{args.format or ('png' if args.quality is None else 'jpg')}"
    many = args.input.is_dir()
    sources = find_images(args.input, args.output) if many else [args.input]
    _check_output(args, many)
    choose_default_weights(args, suffix)
    rescaler = load_rescaler(args, Ranks())
    tell_format(rescaler, args, suffix)
    own = rescaler.architecture.fixed_scale
    if own is None and args.scale is None:
        args.scale = _SCALE
    check_scale(rescaler, args, ("scale",))
    summaries: list[Summary] = []
    # A bar is shown on a terminal and for a folder only.
    for source in tqdm(sources, unit="image", disable=None if many else True):
        try:
            summaries.append(_compare(source, rescaler, suffix, args))
        except (RescaleError, OSError, MemoryError) as error:
            if not many or os.environ.get("RESCALE_DEBUG") == "1":
                raise
            print_error(describe(error, source))
    if summaries:
        _report(summaries, rescaler.precision, args)
    failures = len(sources) - len(summaries)
    if failures:
        print(f"{failures} of {len(sources)} images failed")
    return 1 if failures else 0


def _report(summaries: Sequence[Summary], precision: str, args: argparse.Namespace) -> None:
    from rescale_app.comparison_rows import write_csv
    from rescale_app.comparison_text import folder_table, image_table

    if args.input.is_dir():
        print(folder_table(summaries, precision))
    else:
        print(image_table(str(args.input), summaries[0], precision))
        print(f"side by side: {_panel(args.input, summaries[0].scale, args)}")
    if args.csv is not None:
        write_csv(args.csv, summaries)


def _check_output(args: argparse.Namespace, many: bool) -> None:
    if args.csv is not None and not args.csv.parent.is_dir():
        raise FileNotFoundError(f"{args.csv.parent}: no such folder")
    if args.output is None:
        return
    if not many:
        check_target(args.input, args.output)
    else:
        check_folder(args.input, args.output)
        args.output.mkdir(parents=True, exist_ok=True)


def _compare(source: Path, rescaler: Rescaler, suffix: str, args: argparse.Namespace) -> Summary:
    from rescale_app.comparison_rows import LRFile, summary_of
    from rescale_app.lr_image import scale_text
    from rescale_app.panel import comparison_panel
    from rescale_data.image_file import decode_image, write_image
    from rescale_data.losses import Loss, side_data_and_losses
    from rescale_data.side_data import SideData

    data = source.read_bytes()
    image = decode_image(data, str(source))
    side_data, losses = side_data_and_losses(data)
    panel = _panel(source, scale_text(rescaler.architecture.fixed_scale or args.scale), args)
    if panel is not None:
        check_target(source, panel)
    file = LRFile(suffix, args.quality)
    try:
        comparison = rescaler.compare(image, args.scale, file)
        summary = summary_of(source.name, comparison, file, args.codecs)
    except RescaleError as error:
        raise RescaleError(describe(error, source)) from error
    if panel is not None:
        profile = SideData(profile=side_data.profile)
        write_image(panel, comparison_panel(comparison), side_data=profile)
    if side_data.alpha is not None:
        print_warning(f"{source}: transparency is ignored")
    for loss in losses:
        if loss is Loss.DEPTH:
            print_warning(f"{source}: more than 8 bits per channel are rounded to 8")
        elif loss not in (Loss.METADATA, Loss.EXIF):  # a panel does not show them
            print_warning(f"{source}: {loss.value}")
    return summary


def _panel(source: Path, scale: str, args: argparse.Namespace) -> Path | None:
    name = f"{source.stem}-x{scale}.png"
    if args.input.is_dir():
        return None if args.output is None else args.output / name
    return args.output or Path(name)

"""``rescale compare``: compares a round trip with that of bicubic interpolation."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rescale_compat.errors import RescaleError

from rescale_app.commands import arguments
from rescale_app.commands.files import check_target
from rescale_app.commands.messages import UsageError, describe, print_warning
from rescale_app.commands.networks import check_scale, load_rescaler
from rescale_app.distributed import Ranks

if TYPE_CHECKING:
    from rescale_app.quality import Comparison

DESCRIPTION = """\
Downscale and restore an image, and compare with bicubic interpolation (antialiased, with the true
scale in both directions and an 8-bit LR image). Metrics are computed on 8-bit pixels without a
border of ceil(scale); Y is that of MATLAB's rgb2ycbcr. LR fidelity is the PSNR of the LR image
against the bicubic one."""
_SCALE = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("input", metavar="IN", type=Path, help="image")
    arguments.add_scale(
        parser, f"factor above 1 and at most 4, or a pair 2x1.5 (default: {_SCALE:g})"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="PANEL",
        type=Path,
        help="file for the images side by side "
        "(default: <name>-x<scale>.png in the current folder)",
    )
    arguments.add_network(parser)
    arguments.add_effort(parser)


def run(args: argparse.Namespace) -> int:
    """Compares, prints the metrics and writes the panel; returns the exit code."""
    from rescale_app.lr_image import scale_text
    from rescale_app.panel import comparison_panel
    from rescale_data.image_file import decode_image, write_image
    from rescale_data.losses import Loss, side_data_and_losses
    from rescale_data.side_data import SideData

    if args.input.is_dir():
        raise UsageError(f"{args.input}: is a folder; compare takes one image")
    if args.output is not None:
        check_target(args.input, args.output)
    data = args.input.read_bytes()
    image = decode_image(data, str(args.input))
    side_data, losses = side_data_and_losses(data)
    rescaler = load_rescaler(args, Ranks())
    own = rescaler.architecture.fixed_scale
    if own is None and args.scale is None:
        args.scale = _SCALE
    check_scale(rescaler, args, ("scale",))
    scale = scale_text(own or args.scale)
    panel = args.output or Path(f"{args.input.stem}-x{scale}.png")
    check_target(args.input, panel)
    try:
        comparison = rescaler.compare(image, args.scale)
    except RescaleError as error:
        raise RescaleError(describe(error, args.input)) from error
    profile = SideData(profile=side_data.profile)
    write_image(panel, comparison_panel(comparison), side_data=profile)
    if side_data.alpha is not None:
        print_warning(f"{args.input}: transparency is ignored")
    for loss in losses:
        if loss is Loss.DEPTH:
            print_warning(f"{args.input}: more than 8 bits per channel are rounded to 8")
        elif loss not in (Loss.METADATA, Loss.EXIF):  # not expected in a panel
            print_warning(f"{args.input}: {loss.value}")
    print(_table(args.input, scale, comparison, rescaler.precision))
    print(f"side by side: {panel}")
    return 0


def _table(source: Path, scale: str, comparison: Comparison, precision: str) -> str:
    height, width = comparison.hr.shape[:2]
    lr = comparison.lr
    rows = [
        f"{source}: {width}x{height} -> {lr.pixels.shape[1]}x{lr.pixels.shape[0]} -> "
        f"{width}x{height}, scale {scale}",
        f"{'':<10}{'PSNR RGB':>10}{'SSIM RGB':>10}{'PSNR Y':>10}{'SSIM Y':>10}",
    ]
    for name, quality in (
        ("bicubic", comparison.bicubic_quality),
        (lr.info.network.upper(), comparison.quality),
    ):
        rows.append(
            f"{name:<10}{quality.psnr:>10.2f}{quality.ssim:>10.4f}"
            f"{quality.psnr_y:>10.2f}{quality.ssim_y:>10.4f}"
        )
    rows.append(
        f"LR fidelity: PSNR {comparison.lr_psnr:.2f} dB RGB, {comparison.lr_psnr_y:.2f} dB Y"
    )
    down, up = comparison.seconds_down, comparison.seconds_up
    rows.append(f"seconds: down {down:.2f}, up {up:.2f}, in {precision}")
    return "\n".join(rows)

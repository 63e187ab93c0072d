"""``rescale down``: downscales images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rescale_compat.errors import RescaleError

from rescale_app.commands import arguments
from rescale_app.commands.files import Result, convert_all, find_jobs
from rescale_app.commands.networks import check_scale, load_rescaler, ranks_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rescale_app.lr_image import LRImage
    from rescale_app.rescaler import Rescaler

DESCRIPTION = """\
Downscale images so that `rescale up` can restore them. The information needed for that (scale,
original size, network, weights) is stored in the file. Images are converted to 8-bit RGB; what this
drops (transparency, further frames, color profile, metadata, depth) is reported in a warning."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    arguments.add_files(parser, "image, or a folder of them")
    target = parser.add_mutually_exclusive_group()
    arguments.add_scale(
        target, "factor above 1 and at most 4, as 2.5; or 2x1.5 (vertical x horizontal)"
    )
    target.add_argument(
        "--fit",
        type=arguments.positive,
        metavar="N",
        help="longest side at most N pixels; an image that already fits is copied",
    )
    target.add_argument(
        "--size",
        type=arguments.size,
        metavar="WxH",
        help="exactly this size, at most a factor of 4 smaller on each axis; an image that already "
        "has this size is copied",
    )
    arguments.add_network(parser)


def run(args: argparse.Namespace) -> int:
    """Downscales the input images and returns the exit code."""
    jobs = find_jobs(args)
    if args.weights is None:
        from rescale_app.included_weights import default_weights

        lossless = jobs[0].target.suffix.lower() == ".png"
        args.weights = default_weights(lossless, args.method)
    ranks = ranks_of(args)
    rescaler = load_rescaler(args, ranks)
    check_scale(rescaler, args, ("scale", "fit", "size"))

    def convert(source: Path) -> Result:
        from rescale_app.lr_image import UNCHANGED
        from rescale_data.image_file import read_image

        lr = _downscale(rescaler, read_image(source), args)
        fits = lr.info.scale == UNCHANGED
        return Result(lr.pixels, lr.info, "already fits, copied unchanged" if fits else "")

    return convert_all(jobs, convert, args, ranks)


def _downscale(rescaler: Rescaler, image: NDArray[Any], args: argparse.Namespace) -> LRImage:
    if args.size is not None:
        return rescaler.downscale(image, size=args.size)
    if args.fit is None:
        return rescaler.downscale(image, args.scale)
    height, width = image.shape[:2]
    longest = max(height, width)
    if longest <= args.fit:
        return rescaler.downscale(image, size=(height, width))
    if longest > rescaler.max_scale * args.fit:
        least = rescaler.network.lr_size((height, width), rescaler.max_scale)
        raise RescaleError(
            f"cannot fit {width}x{height} into {args.fit}: the factor is at most "
            f"{rescaler.max_scale:g}, which gives {least[1]}x{least[0]}"
        )
    return rescaler.downscale(image, longest / args.fit)

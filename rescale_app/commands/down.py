"""``rescale down``: downscales images."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rescale_compat.errors import RescaleError

from rescale_app.commands import arguments
from rescale_app.commands.files import (
    Job,
    Result,
    Source,
    convert_all,
    find_jobs,
    over_background,
)
from rescale_app.commands.messages import UsageError
from rescale_app.commands.networks import (
    check_scale,
    choose_default_weights,
    load_rescaler,
    ranks_of,
    tell_format,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rescale_app.lr_image import LRImage
    from rescale_app.rescaler import Rescaler

DESCRIPTION = """\
Downscale images so that `rescale up` can restore them. The information needed for that (scale,
original size, network, weights) is stored in the file. Images become 8-bit RGB. Transparency, color
profile and EXIF are kept; what is not (further frames, other metadata, bit depth) is reported in a
warning."""


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
    parser.add_argument(
        "--max-bytes",
        type=arguments.byte_count,
        metavar="N",
        help="files of at most N bytes (150000, 150k, 1.5M), as JPEG unless --format or OUT says "
        "otherwise: the smallest scale, and then the highest quality, that fit; with -s or --size "
        "the scale is kept. Prints what was chosen",
    )
    parser.add_argument(
        "--hint-name",
        action="store_true",
        help="write scale and original size into the name as well (photo.s2.5.1920x1080.png), from "
        "which `rescale up` reads them where a platform has stripped the record from the file",
    )
    arguments.add_network(parser)
    arguments.add_effort(parser)


def run(args: argparse.Namespace) -> int:
    """Downscales the input images and returns the exit code."""
    jobs = find_jobs(args)
    suffix = jobs[0].target.suffix.lower()
    if args.max_bytes is not None:
        return _run_limited(jobs, suffix, args)
    choose_default_weights(args, suffix)
    ranks = ranks_of(args)
    rescaler = load_rescaler(args, ranks)
    check_scale(rescaler, args, ("scale", "fit", "size"))
    tell_format(rescaler, args, suffix)

    def convert(source: Source) -> Result:
        from rescale_app import side_data as sides
        from rescale_app.lr_image import UNCHANGED

        pixels, side_data = over_background(source.pixels, source.side_data, args)
        lr = _downscale(rescaler, pixels, args)
        side_data = sides.downscaled(side_data, lr.pixels.shape[:2], lr.info.scale)
        fits = lr.info.scale == UNCHANGED
        remark = "already fits, copied unchanged" if fits else ""
        return Result(lr.pixels, side_data, source.losses, lr.info, remark)

    return convert_all(jobs, convert, args, ranks)


def _run_limited(jobs: list[Job], suffix: str, args: argparse.Namespace) -> int:
    from rescale_app.commands.limited import LimitedFiles
    from rescale_app.included_weights import default_weights

    if args.quality is not None:
        raise UsageError("--max-bytes chooses the quality: omit --quality")
    if args.effort:
        raise UsageError("--effort is not supported with --max-bytes")
    may_be_lossy = args.weights is None and suffix == ".webp"
    lossy_weights = default_weights(lossless=False, method=args.method) if may_be_lossy else None
    choose_default_weights(args, suffix)
    ranks = ranks_of(args)
    rescaler = load_rescaler(args, ranks)
    if rescaler.architecture.fixed_scale is not None:
        check_scale(rescaler, args, ("scale", "fit", "size"))
    files = LimitedFiles(rescaler, lossy_weights, args, ranks, suffix)
    code = convert_all(jobs, files.convert, args, ranks)
    if table := files.table():
        print(table)
    return code


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

"""``rescale up``: restores downscaled images."""

from __future__ import annotations

import argparse
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rescale_compat.errors import RescaleError

from rescale_app.commands import arguments
from rescale_app.commands.files import Result, Source, convert_all, find_jobs, over_background
from rescale_app.commands.messages import UsageError, print_warning
from rescale_app.commands.networks import load_rescaler, ranks_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rescale_app.rescaler import Rescaler
    from rescale_data.image_file import LRInfo

_EXAMPLE = 2  # the factor of an example

DESCRIPTION = """\
Restore images that `rescale down` created, to exactly their original size. Only the file is needed.
If a platform has stripped the record from the file, scale and size are taken from its name
(photo.s2.5.1920x1080.png, as written by `rescale down --hint-name`), or from -s and --size.
Rescaling is not super-resolution: an image that this network did not downscale is restored poorly.
An image that `down` copied because it already fit is copied back."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    arguments.add_files(parser, "downscaled image, or a folder of them")
    arguments.add_scale(
        parser, "downscaling factor, if the file does not contain it: 2.5, or SVxSH"
    )
    parser.add_argument(
        "--size",
        type=arguments.size,
        metavar="WxH",
        help="original size, if the file does not contain it",
    )
    parser.add_argument(
        "--depth",
        type=int,
        choices=(8, 16),
        default=8,
        help="bits per channel of the restored PNG; 16 rounds less (default: 8)",
    )
    arguments.add_network(parser)


def run(args: argparse.Namespace) -> int:
    """Restores the input images and returns the exit code."""
    from rescale_data.lr_info import name_without_hint

    jobs = find_jobs(args, name_without_hint)
    if args.depth == 16 and jobs[0].target.suffix.lower() != ".png":
        raise UsageError(f"--depth 16 requires PNG files, not {jobs[0].target.suffix}")
    ranks = ranks_of(args)
    by_file = args.weights is None
    network = _network_options(args)
    if by_file:
        from rescale_app.included_weights import default_weights

        args.weights = default_weights(method=args.method)
    default = load_rescaler(args, ranks)
    _check(default, args)
    # by name of the weights; files of a folder may name different ones
    rescalers = {args.weights: default}

    def convert(source: Source) -> Result:
        from rescale_app import side_data as sides
        from rescale_data.image_file import read_info
        from rescale_data.losses import Loss

        info = read_info(source.path)
        name, choice = _choose_weights(source.path, info, args) if by_file else (args.weights, "")
        if name not in rescalers:
            rescalers[name] = load_rescaler(args, ranks, name)
        restored, scale = _upscale(rescalers[name], source, info, args, choice, network)
        side_data = sides.restored(source.side_data, restored.shape[:2], scale)
        # Networks accept LR images of any depth.
        losses = [loss for loss in source.losses if loss is not Loss.DEPTH]
        pixels, carried = over_background(restored, side_data, args)
        return Result(pixels, carried, losses)

    return convert_all(jobs, convert, args, ranks)


def _check(rescaler: Rescaler, args: argparse.Namespace) -> None:
    if rescaler.architecture.fixed_scale is None:
        if (args.scale is None) != (args.size is None):
            raise UsageError("-s and --size (of the original, WxH) are required together")
    elif args.scale is not None:
        name = rescaler.architecture.name
        raise UsageError(f"-s is not supported: {name} has a fixed factor")


def _choose_weights(
    source: Path, info: LRInfo | None, args: argparse.Namespace
) -> tuple[str | None, str]:
    """The included weights for a file, and how they were chosen if the file does not name them."""
    from rescale_app.included_weights import default_weights, weights_with_fingerprint
    from rescale_data.lossless import is_lossless

    known = None if info is None else weights_with_fingerprint(info.weights)
    if known is not None:
        return known, ""
    lossless = is_lossless(source)
    name = default_weights(lossless, args.method)
    return name, (
        f"restored with {name}, since the file is {'lossless' if lossless else 'lossy'} "
        "(--weights selects others)"
    )


def _upscale(
    rescaler: Rescaler,
    source: Source,
    info: LRInfo | None,
    args: argparse.Namespace,
    choice: str,
    network: Sequence[str],
) -> tuple[NDArray[Any], tuple[float, float]]:
    """Restores an image, and returns its scale; ``choice`` explains a guess of the weights."""
    from rescale_app.lr_image import LRImage
    from rescale_app.rescaler import RescaleWarning

    if info is None:
        return _upscale_without_record(rescaler, source, args, choice, network)
    if args.size is not None:
        pair = args.scale if isinstance(args.scale, tuple) else (args.scale, args.scale)
        if args.size != info.size or (args.scale is not None and pair != info.scale):
            raise RescaleError(
                f"contains scale {info.scale[0]:g}x{info.scale[1]:g} and original size "
                f"{info.size[1]}x{info.size[0]}, which -s and --size contradict: omit them"
            )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RescaleWarning)
        restored = rescaler.upscale(LRImage(source.pixels, info), depth=args.depth)
    for warning in caught:
        print_warning(f"{source.path}: {warning.message}{f'; {choice}' if choice else ''}")
    return restored, info.scale


def _upscale_without_record(
    rescaler: Rescaler,
    source: Source,
    args: argparse.Namespace,
    choice: str,
    network: Sequence[str],
) -> tuple[NDArray[Any], tuple[float, float]]:
    """Restores an image according to ``-s`` and ``--size``, or to the hint in its name."""
    from rescale_app.lr_image import LRImage, scale_text
    from rescale_data.lr_info import LRInfo, hint_in_name

    end = f"{choice}; " if choice else ""
    end += "rescaling is not super-resolution, and other images are restored poorly"
    if args.size is not None:
        restored = rescaler.upscale(source.pixels, args.scale, args.size, depth=args.depth)
        print_warning(f"{source.path}: contains no record that this network created it; {end}")
        return restored, rescaler.network.factors(args.scale)
    hint = hint_in_name(source.path.name)
    if hint is None:
        raise RescaleError(_what_is_needed(rescaler, source, network))
    info = LRInfo(rescaler.architecture.name, hint.scale, hint.size, rescaler.fingerprint)
    restored = rescaler.upscale(LRImage(source.pixels, info), depth=args.depth)
    print_warning(
        f"{source.path}: contains no record that this network created it; restored "
        f"according to its name, from {hint.size[1]}x{hint.size[0]} at scale "
        f"{scale_text(hint.scale)}; {end}"
    )
    return restored, hint.scale


def _what_is_needed(rescaler: Rescaler, source: Source, network: Sequence[str]) -> str:
    """What to specify for a file without a record, with a command for this file."""
    height, width = source.pixels.shape[:2]
    factor = rescaler.architecture.fixed_scale
    by = factor or _EXAMPLE
    size = f"{width * by:.0f}x{height * by:.0f}"
    options = ["--size", size] if factor else ["-s", f"{by:g}", "--size", size]
    words = ["rescale", "up", str(source.path), "-o", str(source.target), *network, *options]
    return (
        "contains no scale and original size, which something may have stripped: specify them, "
        f"as in `{shlex.join(words)}` if `rescale down` made it from {size} by {by:g}"
    )


def _network_options(args: argparse.Namespace) -> list[str]:
    """The options on the command line that select the network."""
    given = {"-m": args.method, "--weights": args.weights}
    return [word for option, value in given.items() if value for word in (option, str(value))]

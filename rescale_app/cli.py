"""The ``rescale`` command.

Handlers import what they need when they run: ``rescale --help`` is instant, and PyTorch loads only
for commands that compute.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rescale_app.ranks import Ranks
    from rescale_app.rescaler import Comparison, LRImage, Rescaler
    from rescale_data.image_file import LRInfo
    from rescale_data.losses import Loss

_SUFFIXES = (".png", ".jpg", ".jpeg")
_METHODS = ("aidn", "vqir16", "vqir32")  # those of rescale_app.methods, which loads PyTorch
_COMPARE_SCALE = 2.0
_EPILOG = """\
Exit code: 0 all done, 1 something failed, 2 wrong usage, 130 interrupted, 143 terminated (training
saves first). Errors are one line each; RESCALE_DEBUG=1 shows where they come from."""
_DOWN = """\
Downscale pictures so that `rescale up` can restore them. What that needs (scale, original size,
network, weights) travels in the file. Pictures become 8-bit RGB; what is dropped with that
(transparency, further frames, color profile, metadata, depth) is said in a warning."""
_UP = """\
Restore pictures that `rescale down` made, to exactly their original size. It needs nothing but the
file. Where a platform has stripped the record from the file, say it by -s and --size. Rescaling is
not super-resolution: a picture that this network did not downscale comes out poorly. A picture that
`down` copied because it already fitted is copied back."""
_COMPARE = """\
Downscale and restore a picture, and compare with bicubic interpolation (antialiased, the true scale
both ways, 8 bits between). Figures are of 8-bit pixels without a border of ceil(scale); Y is
that of MATLAB's rgb2ycbcr. LR fidelity is the PSNR of the LR picture against bicubic's."""
_PREPARE = "Prepare data sets for training and testing."
_DEMO = """\
Serve a page to shrink, restore and compare pictures with a browser. Everything stays on this
machine, and the page's files are removed at the end."""
_REPORT = """\
Turn what `rescale test` left in its folder into one HTML file: tables, PSNR over the scale, the
pictures under a divider and, where the originals are there, the places that came out worst."""
_WEIGHTS = "List, inspect and import the weights of networks."
# The commands that are a module each, with `add_arguments` and `run`.
_MODULES = {
    "weights": ("rescale_app.weights_command", _WEIGHTS),
    "demo": ("rescale_app.page.command", _DEMO),
    "report": ("rescale_app.report.command", _REPORT),
}


class UsageError(ValueError):
    """The command line itself is wrong: exit code 2."""


@dataclass(frozen=True)
class _Job:
    source: Path
    target: Path


@dataclass(frozen=True)
class _Result:
    pixels: NDArray[np.uint8]
    info: LRInfo | None = None
    remark: str = ""  # worth saying even among many files


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: arguments after the command's name; by default those of the process.

    Returns:
        The exit code: 0 all done, 1 something failed, 2 wrong usage, 130 interrupted.
    """
    # OpenCV writes what it thinks of a broken file beside the one line that is ours
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    warnings.filterwarnings("ignore", module=r"PIL\.")  # and Pillow, too
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except (ValueError, OSError, MemoryError) as error:
        if os.environ.get("RESCALE_DEBUG") == "1":
            raise
        _complain(f"error: {_describe(error)}")
        return 2 if isinstance(error, UsageError) else 1


def _run(argv: list[str]) -> int:
    # These have parsers of their own, which load more than `rescale --help` should.
    command, rest = (argv[0], argv[1:]) if argv else ("", [])
    if command == "prepare":
        return _prepare(rest)
    if command in _MODULES:
        module, description = _MODULES[command]
        return _run_module(command, module, description, rest)
    if command in ("train", "test"):
        from rescale_model import runner

        return int((runner.train if command == "train" else runner.test)(rest))
    args = _parser().parse_args(argv)
    handler: Callable[[argparse.Namespace], int] = args.handler
    return handler(args)


# --- the command line ---------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see `{self.prog} --help`)")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(f"rescale {version('rescale-basicsr')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rescale",
        description="Downscale pictures so that they can be restored, and restore them.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    down = commands.add_parser("down", help="downscale pictures", description=_DOWN)
    down.set_defaults(handler=_down)
    _add_files(down, "picture, or a folder of them")
    target = down.add_mutually_exclusive_group()
    _add_scale(target, "factor above 1 and at most 4, as 2.5; or 2x1.5 (vertical x horizontal)")
    target.add_argument(
        "--fit",
        type=_positive,
        metavar="N",
        help="longest side at most N pixels; a picture that already fits is copied",
    )
    target.add_argument(
        "--size",
        type=_size,
        metavar="WxH",
        help="exactly this size, at most a factor of 4 smaller on each axis; a picture that has "
        "this size already is copied",
    )
    _add_network(down)
    _add_method(down)

    up = commands.add_parser("up", help="restore downscaled pictures", description=_UP)
    up.set_defaults(handler=_up)
    _add_files(up, "downscaled picture, or a folder of them")
    _add_scale(up, "what it was downscaled by, where the file does not tell: 2.5, or SVxSH")
    up.add_argument(
        "--size", type=_size, metavar="WxH", help="original size, where the file does not tell"
    )
    _add_network(up)
    _add_method(up, None)

    compare = commands.add_parser("compare", help="compare with bicubic", description=_COMPARE)
    compare.set_defaults(handler=_compare)
    compare.add_argument("input", metavar="IN", type=Path, help="picture")
    _add_scale(compare, "factor above 1 and at most 4, or a pair 2x1.5 (default: 2)")
    compare.add_argument(
        "-o",
        "--output",
        metavar="PANEL",
        type=Path,
        help="file for the pictures side by side (default: <name>-x<scale>.png in this folder)",
    )
    _add_network(compare)
    _add_method(compare)

    for name, text in (
        ("prepare", "prepare data sets (sub-images, mod-crop, lmdb, meta-info)"),
        ("weights", "list, inspect and import weights (list, info, import)"),
        ("train", "train a network: rescale train -opt FILE.yml"),
        ("test", "test a network: rescale test -opt FILE.yml"),
        ("report", "turn the results of a test into an HTML file"),
        ("demo", "serve a page to shrink, restore and compare pictures with a browser"),
    ):
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _add_files(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("input", metavar="IN", type=Path, help=what)
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=Path,
        required=True,
        help=".png or .jpg file, or an existing folder; for a folder IN, a folder. Existing files "
        "are replaced, but never IN itself",
    )
    parser.add_argument(
        "--format", choices=("png", "jpg"), help="format where OUT is a folder (default: png)"
    )
    parser.add_argument(
        "--quality", type=_quality, metavar="Q", help="JPEG quality, 1 to 100; asks for jpg"
    )
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave images out whose file OUT exists already, whatever it was made with: goes on "
        "where an earlier run ended",
    )
    parser.add_argument(
        "--launcher",
        choices=("none", "pytorch"),
        default="none",
        help="pytorch: the processes that torchrun starts share the images of a folder out "
        "(default: none, whatever the environment says)",
    )


def _add_scale(parser: argparse._ActionsContainer, text: str) -> None:
    parser.add_argument("-s", "--scale", type=_scale, metavar="S", help=text)


def _add_method(parser: argparse.ArgumentParser, default: str | None = "aidn") -> None:
    parser.add_argument(
        "-m",
        "--method",
        choices=_METHODS,
        default=default,
        help="network; vqir16 and vqir32 downscale by 16 and 32 "
        f"(default: {default or 'that of the weights'})",
    )


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="weights file, or name of shipped weights (default: aidn-small; aidn-plus, which "
        "survives compression, where a JPEG is written; `up`: what the picture was made with; "
        "where it does not tell, aidn-plus for JPEG and lossy WebP)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="bf16 is a little less exact, and faster on devices with bfloat16 instructions",
    )
    parser.add_argument(
        "--tile",
        type=_tile,
        default="auto",
        metavar="auto|none|N",
        help="compute in tiles of N x N pixels of the large picture, which bounds the memory "
        "(default: auto, tiles for images that are too large for the memory of the GPU, and on "
        "a CPU for those above 1 or 2 megapixels)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the network first, which takes a minute or more: for many pictures, on a "
        "GPU, with --tile none",
    )


def _scale(text: str) -> float | tuple[float, float]:
    try:
        factors = [float(part) for part in text.lower().split("x")]
    except ValueError:
        factors = []
    if len(factors) not in (1, 2):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no scale: valid is 1 < scale <= 4, as 2.5, or a pair 2x1.5"
        )
    from rescale_arch import scale_pair

    try:
        pair = scale_pair((factors[0], factors[-1]))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return pair[0] if pair[0] == pair[1] else pair


def _size(text: str) -> tuple[int, int]:
    """``WxH`` as (height, width)."""
    width, _, height = text.lower().partition("x")
    try:
        return _positive(height), _positive(width)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size: give width and height in pixels, as 640x480"
        ) from None


def _tile(text: str) -> str | int | None:
    if text in ("auto", "none"):
        return None if text == "none" else text
    try:
        return _positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no tile: valid are auto, none or a number of pixels above 0"
        ) from None


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _quality(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 100):
        raise argparse.ArgumentTypeError(f"{text!r} is no JPEG quality: valid are 1 to 100")
    return int(text)


# --- commands -----------------------------------------------------------------------------------


def _down(args: argparse.Namespace) -> int:
    _check_scale(args, ("scale", "fit", "size"))
    jobs = _jobs(args)
    if args.weights is None and args.method == "aidn":
        from rescale_app.rescaler import default_weights

        args.weights = default_weights(lossless=jobs[0].target.suffix.lower() == ".png")
    ranks = _ranks(args)
    rescaler = _rescaler(args, ranks)

    def convert(source: Path) -> _Result:
        from rescale_app.rescaler import UNCHANGED
        from rescale_data.image_file import read_image

        lr = _downscale(rescaler, read_image(source), args)
        fits = lr.info.scale == UNCHANGED
        return _Result(lr.pixels, lr.info, "already fits, copied unchanged" if fits else "")

    return _convert_all(jobs, convert, args, ranks)


def _downscale(rescaler: Rescaler, image: NDArray[Any], args: argparse.Namespace) -> LRImage:
    if args.size is not None:
        return rescaler.downscale(image, size=args.size)
    if args.fit is None:  # VQIR has a factor of its own
        return rescaler.downscale(image, args.scale)
    height, width = image.shape[:2]
    longest = max(height, width)
    if longest <= args.fit:
        return rescaler.downscale(image, size=(height, width))
    try:
        return rescaler.downscale(image, longest / args.fit)
    except ValueError as error:
        from rescale_arch import MAX_SCALE, lr_size

        if longest <= MAX_SCALE * args.fit:
            raise
        least = lr_size((height, width), MAX_SCALE)
        raise ValueError(
            f"cannot fit {width}x{height} into {args.fit}: it shrinks by a factor of {MAX_SCALE:g} "
            f"at most, to {least[1]}x{least[0]}"
        ) from error


def _up(args: argparse.Namespace) -> int:
    if args.method in ("vqir16", "vqir32"):
        if args.scale is not None:
            raise UsageError(f"-s is for aidn: {args.method} has a factor of its own")
    elif (args.scale is None) != (args.size is None):
        raise UsageError("-s and --size (of the original, WxH) are needed together")
    jobs = _jobs(args)
    ranks = _ranks(args)
    by_file = args.weights is None and args.method in (None, "aidn")
    if by_file:
        from rescale_app.rescaler import default_weights

        args.weights = default_weights()
    # by name of the weights: of a folder, each file may ask for its own
    rescalers = {args.weights: _rescaler(args, ranks)}

    def convert(source: Path) -> _Result:
        from rescale_app.rescaler import default_weights, weights_with
        from rescale_data.image_file import read_image, read_info
        from rescale_data.lossless import is_lossless

        pixels, info = read_image(source), read_info(source)
        name, choice = args.weights, ""
        if by_file:
            known = None if info is None else weights_with(info.weights)
            lossless = is_lossless(source)
            name = known or default_weights(lossless)
            if known is None:
                choice = f"{name} restored it, as it is stored {'without' if lossless else 'with'} "
                choice += "loss (--weights names others)"
        if name not in rescalers:
            rescalers[name] = _rescaler(args, ranks, name)
        return _Result(_upscale(rescalers[name], source, pixels, info, args, choice))

    return _convert_all(jobs, convert, args, ranks)


def _upscale(
    rescaler: Rescaler,
    source: Path,
    pixels: NDArray[Any],
    info: LRInfo | None,
    args: argparse.Namespace,
    choice: str,
) -> NDArray[np.uint8]:
    """Restores ``pixels``; ``choice`` tells how the weights were chosen, where it was a guess."""
    from rescale_app.rescaler import LRImage, RescaleWarning

    if info is None:
        if args.size is None:
            raise ValueError(
                "carries no scale and original size: say them by -s and --size WxH, if "
                "`rescale down` made it"
            )
        restored = rescaler.upscale(pixels, args.scale, args.size)
        _warn(
            f"{source}: carries no record that this network made it; "
            f"{f'{choice}; ' if choice else ''}rescaling is not super-resolution, and other "
            "pictures come out poorly"
        )
        return restored
    if args.size is not None:
        pair = args.scale if isinstance(args.scale, tuple) else (args.scale, args.scale)
        if args.size != info.size or (args.scale is not None and pair != info.scale):
            raise ValueError(
                f"carries scale {info.scale[0]:g}x{info.scale[1]:g} and original size "
                f"{info.size[1]}x{info.size[0]}, which -s and --size contradict: leave them out"
            )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RescaleWarning)
        restored = rescaler.upscale(LRImage(pixels, info))
    for warning in caught:
        _warn(f"{source}: {warning.message}{f'; {choice}' if choice else ''}")
    return restored


def _compare(args: argparse.Namespace) -> int:
    from rescale_app.picture import comparison_panel
    from rescale_app.ranks import Ranks
    from rescale_data.image_file import read_image, write_image
    from rescale_data.losses import Loss, find_losses

    if args.input.is_dir():
        raise UsageError(f"{args.input}: is a folder; compare takes one picture")
    if args.method == "aidn" and args.scale is None:
        args.scale = _COMPARE_SCALE
    _check_scale(args, ("scale",))
    scale = float(args.method.removeprefix("vqir")) if args.scale is None else args.scale
    text = f"{scale:g}" if isinstance(scale, float) else f"{scale[0]:g}x{scale[1]:g}"
    panel = args.output or Path(f"{args.input.stem}-x{text}.png")
    _check_target(args.input, panel)
    image = read_image(args.input)
    rescaler = _rescaler(args, Ranks())
    try:
        comparison = rescaler.compare(image, scale)
    except ValueError as error:
        raise ValueError(_describe(error, args.input)) from error
    write_image(panel, comparison_panel(comparison))
    for loss in find_losses(args.input.read_bytes()):
        if loss is not Loss.METADATA:  # the panel is no substitute for the file
            _warn(f"{args.input}: {loss.value}")
    print(_table(args.input, text, comparison))
    print(f"side by side: {panel}")
    return 0


def _table(source: Path, scale: str, comparison: Comparison) -> str:
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
    rows.append(f"seconds: down {comparison.seconds_down:.2f}, up {comparison.seconds_up:.2f}")
    return "\n".join(rows)


def _prepare(argv: list[str]) -> int:
    from rescale_data import prepare

    parser = _Parser(prog="rescale prepare", description=_PREPARE)
    prepare.add_arguments(parser)
    return int(prepare.run(parser.parse_args(argv)))


def _run_module(command: str, name: str, description: str, argv: list[str]) -> int:
    module = importlib.import_module(name)
    parser = _Parser(prog=f"rescale {command}", description=description)
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(argv)))


def _ranks(args: argparse.Namespace) -> Ranks:
    """The processes that ``--launcher`` says share the work."""
    from rescale_app.ranks import Ranks

    if args.launcher == "none":
        return Ranks()
    if not args.input.is_dir():
        raise UsageError(f"--launcher is for a folder, to share its images out: not {args.input}")
    try:
        return Ranks.of_torchrun()
    except ValueError as error:
        raise UsageError(f"--launcher {args.launcher}: {error}") from error


def _rescaler(args: argparse.Namespace, ranks: Ranks, another: str | None = None) -> Rescaler:
    """The network with the weights that ``args`` ask for, or with ``another`` set of them."""
    from rescale_app.rescaler import Rescaler, RescaleWarning

    ranks.choose_gpu()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RescaleWarning)
        rescaler = Rescaler(
            another or args.weights,
            args.device,
            args.precision,
            args.method,
            tile=args.tile,
            progress=ranks.is_first,
            compile=args.compile,
        )
    if ranks.is_first and another is None:  # once
        for warning in caught:
            _warn(str(warning.message))
    return rescaler


def _check_scale(args: argparse.Namespace, names: Sequence[str]) -> None:
    """AIDN needs to be told by how much to downscale; VQIR must not be told."""
    given = [name for name in names if getattr(args, name) is not None]
    options = " or ".join("-s" if name == "scale" else f"--{name}" for name in names)
    if args.method == "aidn" and not given:
        raise UsageError(f"{options} is needed: how much to downscale by")
    if args.method != "aidn" and given:
        raise UsageError(f"{options} is for aidn: {args.method} has a factor of its own")


# --- from files to files ------------------------------------------------------------------------


def _jobs(args: argparse.Namespace) -> list[_Job]:
    """What to read and write, checked before anything heavy is loaded."""
    source, output = args.input, args.output
    if args.quality is not None and args.format == "png":
        raise UsageError("--quality is for jpg, not with --format png")
    suffix = ".jpg" if args.format == "jpg" or args.quality is not None else ".png"
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder")
    if not source.is_dir():
        if output.is_dir():
            output = output / f"{source.stem}{suffix}"
        _check_target(source, output)
        is_png = output.suffix.lower() == ".png"
        if args.format and is_png != (args.format == "png"):
            raise UsageError(f"{output}: is no {args.format} file, which --format asks for")
        if is_png and args.quality is not None:
            raise UsageError(f"{output}: --quality is for jpg, not for png")
        return [_Job(source, output)]
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: is a file; for the folder {source}, a folder is needed")
    if output.resolve() == source.resolve():
        raise UsageError(f"{output}: is the input folder; its pictures would be replaced")
    from rescale_data.image_file import list_images

    sources = list_images(source)
    if not sources:
        others = _other_files(source, output)
        there = f" (not read: {others})" if others else ""
        raise ValueError(f"{source}: no pictures in this folder{there}")
    return [_Job(path, output / f"{path.stem}{suffix}") for path in sources]


def _check_target(source: Path, target: Path) -> None:
    if target.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{target}: name a file that ends in {', '.join(_SUFFIXES)}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent}: no such folder")
    if target.resolve() == source.resolve():
        raise UsageError(f"{target}: is the input itself, which would be replaced")
    if target.is_dir():
        raise UsageError(f"{target}: is a folder; name a file")


def _convert_all(
    jobs: list[_Job],
    convert: Callable[[Path], _Result],
    args: argparse.Namespace,
    ranks: Ranks,
) -> int:
    """Converts every file; one that fails, also in writing, is reported, and the rest goes on.

    Returns:
        The exit code: 1 if any file failed.
    """
    from tqdm import tqdm

    from rescale_data.image_file import write_image
    from rescale_data.losses import find_losses

    many = args.input.is_dir()
    if many:
        args.output.mkdir(parents=True, exist_ok=True)
    written = failures = kept = 0
    first: dict[Path, Path] = {}  # who a target belongs to, whichever process converts it
    for job in jobs:
        first.setdefault(job.target, job.source)
    share = ranks.share(jobs)
    present = {job.target for job in share if job.target.is_file()}
    losses: dict[Loss, list[Path]] = {}
    # On a terminal only, and only for a folder; below, tqdm.write keeps the bar in one piece.
    for job in tqdm(share, unit="picture", disable=None if many and ranks.is_first else True):
        try:
            if first[job.target] != job.source:
                raise ValueError(f"would be written to {job.target}, as {first[job.target]} is")
            if args.skip_existing and job.target.is_file():
                kept += 1
                continue
            result = convert(job.source)
            appeared = job.target not in present and job.target.is_file()
            if appeared and args.skip_existing:
                kept += 1
                continue
            lost = find_losses(job.source.read_bytes())
            write_image(job.target, result.pixels, quality=args.quality, info=result.info)
        except (ValueError, OSError, MemoryError) as error:
            if os.environ.get("RESCALE_DEBUG") == "1":
                raise
            _complain(f"error: {_describe(error, job.source)}")
            failures += 1
            continue
        written += 1
        if appeared:
            _warn(f"{job.target}: appeared since this run began, replaced")
        for loss in lost:
            losses.setdefault(loss, []).append(job.source)
        if result.remark:
            tqdm.write(f"{job.source}: {result.remark}")
    for loss, sources in losses.items():  # a line each, however many files there are
        more = f" and {len(sources) - 1} more" if len(sources) > 1 else ""
        _warn(f"{sources[0]}{more}: {loss.value}")
    written, failures, kept = ranks.total(written, failures, kept)
    if ranks.is_first:
        if many:
            print(_summary(args, len(jobs), written, failures, kept))
        elif kept:
            print(f"{args.input}: skipped, {jobs[0].target} exists already")
    return 1 if failures else 0


def _summary(args: argparse.Namespace, images: int, written: int, failures: int, kept: int) -> str:
    """What became of the files of a folder."""
    text = f"{written} of {images} pictures written to {args.output}"
    if failures:
        text += f", {failures} failed"
    if kept:
        text += f", {kept} skipped that exist already"
    others = _other_files(args.input, args.output)
    return f"{text}\nnot read: {others}" if others else text


def _other_files(folder: Path, output: Path) -> str:
    """Counts what ``folder`` holds beside images: ``2 .gif, 1 without a suffix, 1 subfolder``.

    Hidden entries do not count, nor does ``output``.
    """
    from rescale_data.image_file import IMAGE_SUFFIXES

    suffixes: Counter[str] = Counter()
    subfolders = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                subfolders += not (output.exists() and output.samefile(entry.path))
            elif not entry.name.lower().endswith(IMAGE_SUFFIXES):
                suffixes[Path(entry.name).suffix.lower() or "without a suffix"] += 1
    counts = [f"{count} {suffix}" for suffix, count in sorted(suffixes.items())]
    if subfolders:
        counts.append(f"{subfolders} subfolder{'s' if subfolders > 1 else ''}")
    return ", ".join(counts)


# --- words to the user --------------------------------------------------------------------------


def _describe(error: BaseException, source: Path | None = None) -> str:
    """``error`` in one line that names the file at fault."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}"
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    if source is not None and not text.startswith(f"{source}:"):
        text = f"{source}: {text}"
    return text


def _warn(message: str) -> None:
    _complain(f"warning: {message}")


def _complain(message: str) -> None:
    from tqdm import tqdm

    # names of files may have line breaks, too
    tqdm.write(f"rescale: {' '.join(message.splitlines())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

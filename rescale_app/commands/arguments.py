"""Arguments shared by several commands, and parsers of their values."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import NoReturn

from rescale_app.commands.messages import UsageError


class Parser(argparse.ArgumentParser):
    """A parser that raises `UsageError`."""

    def error(self, message: str) -> NoReturn:
        """Raises a `UsageError` instead of printing the usage and exiting."""
        raise UsageError(f"{message} (see `{self.prog} --help`)")


def add_files(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds the arguments for input, output and file format; ``what`` describes the input."""
    parser.add_argument("input", metavar="IN", type=Path, help=what)
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        type=Path,
        required=True,
        help=".png, .jpg or .webp file, or an existing folder; a folder if IN is one. Existing "
        "files are replaced, but never IN itself",
    )
    parser.add_argument(
        "--format", choices=("png", "jpg", "webp"), help="format if OUT is a folder (default: png)"
    )
    parser.add_argument(
        "--quality",
        type=quality,
        metavar="Q",
        help="quality of JPEG (default: 95) and WebP (default: lossless), 1 to 100; implies jpg "
        "unless --format says webp",
    )
    parser.add_argument(
        "--background",
        type=color,
        metavar="COLOR",
        help="put transparent images over this color, as white or #ff8000; required to write them "
        "as JPEG",
    )
    parser.add_argument(
        "--strip",
        action="store_true",
        help="drop EXIF, which may say where and by whom a photograph was taken",
    )
    parser.add_argument(
        "--skip-existing",
        action="store_true",
        help="skip images whose output file already exists, whatever created it: continues an "
        "earlier run",
    )
    parser.add_argument(
        "--launcher",
        choices=("none", "pytorch"),
        default="none",
        help="pytorch: distribute the images of a folder over the processes that torchrun starts "
        "(default: none, regardless of environment variables)",
    )


def add_scale(parser: argparse._ActionsContainer, text: str) -> None:
    """Adds ``-s``; ``text`` is its help."""
    parser.add_argument("-s", "--scale", type=scale, metavar="S", help=text)


def add_network(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that select a network and how it is run."""
    parser.add_argument(
        "-m",
        "--method",
        metavar="NAME",
        help="network architecture: aidn (any factor up to 4), vqir16 (factor 16) or vqir32 "
        "(factor 32) (default: that of the weights)",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="weights file, or name of included weights (default: aidn-small, or aidn-plus, which "
        "is robust to compression, if a JPEG or lossy WebP is written; `up`: the weights that the "
        "file names, or else aidn-plus for JPEG and lossy WebP)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="bf16 is slightly less accurate, and faster on devices with bfloat16 instructions "
        "(default: auto, bf16 on those and fp32 elsewhere)",
    )
    parser.add_argument(
        "--tile",
        type=tile,
        default="auto",
        metavar="auto|none|N",
        help="compute in tiles of N x N pixels of the large image, which bounds the memory "
        "(default: auto, tiles for images that do not fit into GPU memory, and on a CPU for "
        "images above 1 or 2 megapixels)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the network first, which takes a minute or more; useful for many images; "
        "requires a GPU and --tile none",
    )


def add_effort(parser: argparse.ArgumentParser) -> None:
    """Adds ``--effort``, for commands that downscale."""
    parser.add_argument(
        "--effort",
        type=steps,
        default=0,
        metavar="N",
        help="optimize each LR image in N steps, so that it is restored better; 10 gain most, and "
        "each takes three to four times as long as restoring (default: 0)",
    )


def scale(text: str) -> float | tuple[float, float]:
    """Parses a factor, or a pair ``SVxSH`` (vertical, horizontal)."""
    try:
        factors = [float(part) for part in text.lower().split("x")]
    except ValueError:
        factors = []
    if len(factors) not in (1, 2):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a scale: expected 1 < scale <= 4, such as 2.5, or a pair (2x1.5)"
        )
    from rescale_arch import scale_pair

    try:
        pair = scale_pair((factors[0], factors[-1]))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return pair[0] if pair[0] == pair[1] else pair


def size(text: str) -> tuple[int, int]:
    """Parses ``WxH`` and returns (height, width)."""
    width, _, height = text.lower().partition("x")
    try:
        return positive(height), positive(width)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: expected width and height in pixels, such as 640x480"
        ) from None


def tile(text: str) -> str | int | None:
    """Parses ``auto``, ``none`` (returned as None) or a number of pixels."""
    if text in ("auto", "none"):
        return None if text == "none" else text
    try:
        return positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a tile size: expected auto, none or a number of pixels >= 1"
        ) from None


def positive(text: str) -> int:
    """Parses a positive integer."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def byte_count(text: str) -> int:
    """Parses a number of bytes such as ``150000``, ``150k``, ``1.5M`` or ``200KiB``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKmM]?)(i?)[bB]?", text.strip())
    factors = {"": 1, "k": 1000, "m": 1000**2}
    if match is None or (match[3] and not match[2]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of bytes: expected 150000, 150k, 1.5M or 200KiB"
        )
    factor = factors[match[2].lower()]
    if match[3]:
        factor = {1000: 1024, 1000**2: 1024**2}[factor]
    count = int(float(match[1]) * factor)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is less than a byte")
    return count


def steps(text: str) -> int:
    """Parses an integer >= 0."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of steps >= 0")
    return int(text)


def quality(text: str) -> int:
    """Parses an integer from 1 to 100."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 100):
        raise argparse.ArgumentTypeError(f"{text!r} is not a quality: expected 1 to 100")
    return int(text)


def color(text: str) -> tuple[int, int, int]:
    """Parses the name or number of a color and returns RGB, 0 to 255 each."""
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a color: expected a name such as white, or a number such as #ff8000"
        ) from None
    return red, green, blue

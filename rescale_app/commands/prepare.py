"""``rescale prepare``: prepares datasets for training and testing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rescale_data.prepare import (
    BadPicturesError,
    build_lmdb,
    crop_to_multiple,
    extract_sub_images,
    write_meta_info,
)

DESCRIPTION = "Prepare datasets for training and testing."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands to a parser; `run` runs the parsed command."""
    commands = parser.add_subparsers(dest="prepare_command", metavar="COMMAND", required=True)

    def command(name: str, source: str, out: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        sub.add_argument("source", metavar=source, type=Path, help="folder of images")
        sub.add_argument("out", metavar=out, type=Path, help="output; must not exist yet")
        sub.add_argument("--workers", type=int, metavar="N", help="threads (default: usable cores)")
        return sub

    sub = command("sub-images", "IN", "OUT", "cut images into overlapping squares for training")
    sub.add_argument(
        "--size", type=int, default=480, help="side of a square (default: %(default)s)"
    )
    sub.add_argument(
        "--step", type=int, default=240, help="distance between squares (default: %(default)s)"
    )
    sub.add_argument(
        "--threshold",
        type=int,
        default=0,
        help="largest remainder at the edges to skip (default: %(default)s)",
    )
    sub.set_defaults(
        prepare=lambda a: extract_sub_images(
            a.source, a.out, a.size, a.step, a.threshold, a.workers
        )
    )
    sub = command("mod-crop", "IN", "OUT", "crop images to multiples of a number, for tests")
    sub.add_argument("--mod", type=int, default=12, help="the number (default: %(default)s)")
    sub.set_defaults(prepare=lambda a: crop_to_multiple(a.source, a.out, a.mod, a.workers))
    sub = command("lmdb", "IN", "OUT.lmdb", "store images in an LMDB in BasicSR's format")
    sub.set_defaults(prepare=lambda a: build_lmdb(a.source, a.out, a.workers))
    sub = command("meta-info", "FOLDER", "OUT.txt", "list images and their shapes")
    sub.set_defaults(prepare=lambda a: write_meta_info(a.source, a.out, a.workers))


def run(args: argparse.Namespace) -> int:
    """Runs the command parsed by `add_arguments`, and reports broken images, one per line.

    Returns:
        0; failures raise.
    """
    try:
        count = args.prepare(args)
    except BadPicturesError as error:
        for reason in error.reasons:
            print(*reason.splitlines(), file=sys.stderr)  # names may contain line breaks
        raise
    print(f"{args.out}: created from {count} images of {args.source}")
    return 0

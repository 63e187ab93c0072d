"""``rescale report``: writes the results of a test as an HTML file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rescale_compat.errors import RescaleError

from rescale_app.report.document import write_report
from rescale_app.report.results import load

DESCRIPTION = """\
Write the results of `rescale test` as a single HTML file: tables, PSNR over the scale, the images
under a divider and, if the originals are available, the crops with the largest errors."""
_CROPS = 24
_MEGABYTES = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "results", metavar="RESULTS", type=Path, help="folder of a test: results/<name>"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE.html",
        type=Path,
        help="file to write; an existing file is replaced (default: RESULTS/report.html)",
    )
    parser.add_argument(
        "--hr",
        metavar="FOLDER",
        type=Path,
        nargs="+",
        default=[],
        help="folders of the originals, or with subfolders <set>/HR or <set> (default: those of "
        "the test)",
    )
    parser.add_argument(
        "--crops",
        metavar="N",
        type=int,
        default=_CROPS,
        help="number of crops with the largest errors to show (default: %(default)s)",
    )
    parser.add_argument(
        "--limit",
        metavar="MB",
        type=float,
        default=_MEGABYTES,
        help="approximate limit for the size of all images; those with the lowest PSNR come first "
        "(default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the report, with the arguments parsed by :func:`add_arguments`.

    Returns:
        0; failures raise.

    Raises:
        ValueError: an option is out of range, or a file was not written by a test.
        OSError: a folder or file is missing, broken, or cannot be written.
    """
    if args.crops < 0 or not args.limit >= 0:
        raise RescaleError("--crops and --limit must be at least 0")
    output = args.output or args.results / "report.html"
    if output.suffix.lower() not in (".html", ".htm"):
        raise RescaleError(f"{output}: expected a file name that ends in .html")
    for folder in args.hr:
        if not folder.is_dir():
            raise FileNotFoundError(f"--hr {folder}: no such folder")
    remarks = write_report(
        load(args.results), output, args.hr, crops=args.crops, limit=int(args.limit * 1e6)
    )
    for remark in remarks:
        print(f"rescale: warning: {remark}", file=sys.stderr)
    print(f"report: {output} ({output.stat().st_size / 1e6:.1f} MB)")
    return 0

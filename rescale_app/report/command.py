"""The command line of ``rescale report``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rescale_app.report.document import write_report
from rescale_app.report.results import load

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
        help="file to write; an existing one is replaced (default: RESULTS/report.html)",
    )
    parser.add_argument(
        "--hr",
        metavar="FOLDER",
        type=Path,
        nargs="+",
        default=[],
        help="folders of the originals, or of folders <set>/HR or <set> with them (default: those "
        "of the test)",
    )
    parser.add_argument(
        "--crops",
        metavar="N",
        type=int,
        default=_CROPS,
        help="number of places to show that came out worst (default: %(default)s)",
    )
    parser.add_argument(
        "--limit",
        metavar="MB",
        type=float,
        default=_MEGABYTES,
        help="pictures take no more than about this; those with the lowest PSNR come first "
        "(default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the report that arguments parsed by :func:`add_arguments` ask for.

    Returns:
        0; failures raise.

    Raises:
        ValueError: an option is out of range, or a file is not what a test writes.
        OSError: a folder or file is missing, broken, or cannot be written.
    """
    if args.crops < 0 or not args.limit >= 0:
        raise ValueError("--crops and --limit are at least 0")
    output = args.output or args.results / "report.html"
    if output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{output}: name a file that ends in .html")
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

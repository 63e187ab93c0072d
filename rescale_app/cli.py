"""The ``rescale`` command: selects the subcommand and reports errors.

Subcommands are modules of :mod:`rescale_app.commands`, imported when they run: ``rescale --help``
is instant, and PyTorch loads only for commands that compute.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from rescale_compat.errors import RescaleError

from rescale_app.commands.arguments import Parser
from rescale_app.commands.messages import UsageError, describe, print_error, print_interrupted

_EPILOG = """\
Exit code: 0 success, 1 failure, 2 usage error, 130 interrupted, 143 terminated (training saves
first). Errors are reported in one line each; RESCALE_DEBUG=1 shows the traceback."""
_COMMANDS = {
    "down": "downscale images",
    "up": "restore downscaled images",
    "compare": "compare with bicubic interpolation",
    "prepare": "prepare datasets (sub-images, mod-crop, lmdb, meta-info)",
    "weights": "list, inspect and import weights (list, info, import)",
    "export": "export a network to ONNX, or a web page that needs no Python (onnx, page)",
    "train": "train a network: rescale train -opt FILE.yml",
    "test": "test a network: rescale test -opt FILE.yml",
    "report": "turn the results of a test into an HTML file",
    "demo": "serve a web page to downscale, restore and compare images",
}
_RUNNER = ("train", "test")  # BasicSR's runners, which parse their own arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: arguments after the command's name; default: those of the process.

    Returns:
        The exit code: 0 success, 1 failure, 2 usage error, 130 interrupted.
    """
    # OpenCV and Pillow print their own messages about a broken file, in addition to our error
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        print_interrupted()
        return 130
    except (RescaleError, OSError, MemoryError) as error:
        if os.environ.get("RESCALE_DEBUG") == "1":
            raise
        print_error(describe(error))
        return 2 if isinstance(error, UsageError) else 1


def _run(argv: list[str]) -> int:
    name, rest = (argv[0], argv[1:]) if argv else ("", [])
    if name not in _COMMANDS:
        _parser().parse_args(argv)  # --help, --version, or an error
        raise UsageError("a command is required (see `rescale --help`)")
    if name in _RUNNER:
        from rescale_model import runner

        return int((runner.train if name == "train" else runner.test)(rest))
    command = importlib.import_module(f"rescale_app.commands.{name}")
    parser = Parser(prog=f"rescale {name}", description=command.DESCRIPTION)
    command.add_arguments(parser)
    return int(command.run(parser.parse_args(rest)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="rescale",
        description="Downscale images so that they can be restored, and restore them.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in _COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(f"rescale {version('rescale-basicsr')}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())

"""``rescale export``: exports networks for use without Python."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from rescale_compat.errors import RescaleError

DESCRIPTION = "Export networks to ONNX, or a web page, for use without Python."
_MODULES = ("onnx", "onnxruntime", "onnxscript")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands to a parser; :func:`run` runs the parsed command."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    sub = commands.add_parser(
        "onnx",
        help="write down.onnx and up.onnx",
        description="Write a network as down.onnx and up.onnx, for images of any size and scale, "
        "with functions that compute their inputs in Python and JavaScript. Both models are run "
        "with ONNX Runtime and compared with PyTorch before they are written.",
    )
    sub.add_argument(
        "--weights",
        metavar="FILE",
        help="weights file, or name of included weights (default: aidn-small)",
    )
    _add_folder(sub)
    sub.add_argument(
        "--fp16",
        action="store_true",
        help="compute most of the network in float16: half the size, and faster on a GPU",
    )
    sub.set_defaults(act=_onnx)

    sub = commands.add_parser(
        "page",
        help="write a static web page that restores images in the browser",
        description="Write a folder with a web page that restores images in the browser, for any "
        "web server. It needs no Python and uploads nothing. Its runtime, ONNX Runtime Web, is "
        "fetched with npm.",
    )
    sub.add_argument(
        "--weights",
        metavar="FILE",
        action="append",
        help="weights file of a network for any scale, or name of included weights; may be "
        "repeated; the first restores files that do not name theirs (default: aidn-small and "
        "aidn-plus)",
    )
    _add_folder(sub)
    sub.set_defaults(act=_page)


def run(args: argparse.Namespace) -> int:
    """Runs the command parsed by :func:`add_arguments`.

    Returns:
        0; failures raise.

    Raises:
        ValueError: a package is missing, or the network cannot be exported.
        OSError: a file is missing or cannot be written.
    """
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise RescaleError(
            f"exporting needs {', '.join(missing)}: pip install 'rescale-basicsr[export]'"
        )
    args.act(args)
    return 0


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        required=True,
        help="folder to write; created if necessary, existing files are replaced",
    )


def _onnx(args: argparse.Namespace) -> None:
    from rescale_app.export.onnx_files import export_models, write_helpers
    from rescale_app.included_weights import find_weights
    from rescale_app.weight_import import load_weights
    from rescale_data.image_file import write_file

    loaded = load_weights(find_weights(args.weights))
    models = list(export_models(loaded, half=args.fp16))
    args.output.mkdir(parents=True, exist_ok=True)
    for model in models:
        path = args.output / f"{model.direction}.onnx"
        write_file(path, model.data)
        print(
            f"{path}: {loaded.title}, {len(model.data) / 1e6:.1f} MB, "
            f"within {model.error:.1g} of PyTorch"
        )
    for path in write_helpers(args.output):
        print(path)


def _page(args: argparse.Namespace) -> None:
    from rescale_app.export.web_page import DEFAULT_WEIGHTS, export_page

    export_page(args.output, args.weights or DEFAULT_WEIGHTS)
    files = [path for path in args.output.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    print(f"{args.output}: {len(files)} files, {size / 1e6:.0f} MB; try it with")
    print(f"  python -m http.server -d {args.output}")

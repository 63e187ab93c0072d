"""``rescale weights``: lists the included weights, inspects and imports weights files."""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors import safe_open

from rescale_app.included_weights import find_weights, included_weights
from rescale_app.weight_import import COLOR_ORDERS, import_weights, load_weights
from rescale_arch.architecture import LoadedNetwork
from rescale_data.weight_file import fingerprint

DESCRIPTION = "List, inspect and import the weights of networks."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands to a parser; :func:`run` runs the parsed command."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    sub = commands.add_parser("list", help="list the included weights")
    sub.set_defaults(act=lambda _: _list())

    sub = commands.add_parser("info", help="show the contents of a weights file")
    sub.add_argument("file", metavar="FILE", help="weights file, or name of included weights")
    _add_key(sub)
    sub.set_defaults(act=lambda args: _info(args.file, args.key))

    sub = commands.add_parser(
        "import",
        help="convert a weights file to safetensors",
        description="Reads a checkpoint of a known network, by its authors, BasicSR or PyTorch "
        "Lightning, and writes its weights as safetensors. Every entry must match the "
        "network. Code contained in a file is never run.",
    )
    sub.add_argument("file", metavar="FILE", type=Path, help="file to read")
    sub.add_argument("out", metavar="OUT.safetensors", type=Path, help="file to write")
    _add_key(sub)
    sub.add_argument("--fp16", action="store_true", help="store float16: half the size")
    sub.add_argument(
        "--color-order",
        choices=COLOR_ORDERS,
        default="rgb",
        help="channel order that the network was trained on: bgr for the authors' VQIR of stage 1 "
        "(default: %(default)s)",
    )
    sub.set_defaults(act=_import)


def run(args: argparse.Namespace) -> int:
    """Runs the command parsed by :func:`add_arguments`.

    Returns:
        0; failures raise.
    """
    args.act(args)
    return 0


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key",
        metavar="KEY",
        help="entry that holds the weights, such as params or params_ema (default: the first "
        "present of params_ema, params and state_dict)",
    )


def _list() -> None:
    names = included_weights()
    if not names:
        print("this installation includes no weights")
        return
    rows = [("name", "network", "parameters", "size", "fingerprint", "")]
    for name in names:
        path = find_weights(name)
        weights = load_weights(path)
        notes = _notes(path)
        about = "; ".join(notes[key] for key in ("title", "data") if key in notes)
        rows.append(
            (
                name + (" (default)" if name == names[0] else ""),
                weights.title,
                f"{weights.parameters:,}",
                _megabytes(path),
                fingerprint(weights.weights),
                about,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def _info(name: str, key: str | None) -> None:
    path = find_weights(name)
    weights = load_weights(path, key)
    config = ", ".join(f"{keyword}={value!r}" for keyword, value in weights.config.items())
    rows = {
        "file": f"{path} ({_megabytes(path)})",
        "network": weights.title,
        "parameters": f"{weights.parameters:,}",
        "precision": _precision(weights),
        "fingerprint": fingerprint(weights.weights),
        "constructor": config,
        **_notes(path),
    }
    for title, value in rows.items():
        print(f"{title + ':':<16}{value}")


def _import(args: argparse.Namespace) -> None:
    written = import_weights(
        args.file, args.out, key=args.key, half=args.fp16, color_order=args.color_order
    )
    print(
        f"{args.out}: {written.title}, {written.parameters:,} parameters, {_precision(written)}, "
        f"{_megabytes(args.out)}, {fingerprint(written.weights)}"
    )


def _precision(weights: LoadedNetwork) -> str:
    """Floating-point types in the file, such as ``float16``; integer entries are ignored."""
    kinds = {str(t.dtype) for t in weights.weights.values() if t.is_floating_point()}
    return ", ".join(sorted(kind.removeprefix("torch.") for kind in kinds))


def _notes(path: Path) -> dict[str, str]:
    """The header of a safetensors file, without the constructor's keywords."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        return {key: text for key, text in (file.metadata() or {}).items() if key != "config"}


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"

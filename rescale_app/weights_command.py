"""``rescale weights``: what weights there are, what is in a file, and importing those of others."""

from __future__ import annotations

import argparse
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from rescale_app.rescaler import shipped_weights
from rescale_arch import AIDN, VQGAN, VQIR
from rescale_arch.official_weights import (
    aidn_config,
    canonical_weights,
    load_strictly,
    swap_color_order,
    vqgan_config,
    vqir_config,
)
from rescale_data.atomic import replacing
from rescale_data.weight_file import fingerprint, read_weights, save_weights

_SHIPPED = Path(__file__).with_name("weights")
COLOR_ORDERS = ("rgb", "bgr")

# The authors' AIDN+ was trained with it; their files hold constants of the JPEG, but not this.
_JPEG_QUALITY = 90


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of a network, known to fit it.

    Attributes:
        network: the network that they are of, with them loaded, in evaluation mode.
        config: all of its constructor's keywords.
        entries: its state dict as the file holds it.
    """

    network: nn.Module
    config: dict[str, Any]
    entries: dict[str, Tensor]

    @property
    def title(self) -> str:
        """The network's name: ``AIDN``, ``AIDN+``, ``VQGAN`` or ``VQIR x16, stage 1``."""
        if isinstance(self.network, VQIR):
            return f"VQIR x{self.network.factor}, stage {self.config['stage']}"
        return type(self.network).__name__ + ("+" if self.config.get("jpeg_quality") else "")

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def precision(self) -> str:
        """Types of the numbers in the file, as ``float16``; counters do not count."""
        kinds = {str(t.dtype) for t in self.entries.values() if t.is_floating_point()}
        return ", ".join(sorted(kind.removeprefix("torch.") for kind in kinds))


def load_weights(path: str | os.PathLike[str], key: str | None = None) -> Weights:
    """Reads the weights of an AIDN, VQGAN or VQIR and loads them into one.

    Args:
        path: a file of this project, of BasicSR, or of the networks' authors.
        key: entry of the file that holds the weights; default: ``params_ema``, ``params`` or
            ``state_dict``, the first of these that is there, or the file itself.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no checkpoint, has no such entry, or fits none of the networks.
    """
    name = os.fspath(path)
    checkpoint = read_weights(name)
    given = checkpoint.get("config", {})
    if not isinstance(given, Mapping):
        raise ValueError(f"{name}: its config is a {type(given).__name__}: a mapping is needed")
    try:
        entries = canonical_weights(checkpoint, key)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if _has_jpeg(checkpoint):
        given = {"jpeg_quality": _JPEG_QUALITY, **given}
    return Weights(*_network(entries, given, name), entries)


def import_weights(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    key: str | None = None,
    half: bool = False,
    color_order: str = "rgb",
) -> Weights:
    """Writes weights as a safetensors file that states the network's constructor keywords.

    The file appears once it has been read back and found to hold the same.

    Args:
        source: file to read; see :func:`load_weights`.
        target: file to write, ending in ``.safetensors``; an existing one is replaced.
        key: see :func:`load_weights`.
        half: store 16-bit numbers.
        color_order: ``'bgr'`` if the network was trained on BGR images (VQGAN, VQIR); what is
            written is for RGB images.

    Returns:
        What was written.

    Raises:
        OSError: a file is missing or cannot be written.
        ValueError: as :func:`load_weights`; or the target has another suffix or is the source, the
            numbers do not fit into 16 bits, or ``color_order`` is not for this network.
    """
    target = os.fspath(target)
    if not target.endswith(".safetensors"):
        raise ValueError(f"{target}: weights are written as .safetensors")
    if os.path.exists(target) and os.path.samefile(source, target):
        raise ValueError(f"{target}: is the file to import, which would be replaced")
    if color_order not in COLOR_ORDERS:
        raise ValueError(f"color order {color_order!r} is unknown: valid are rgb, bgr")
    weights = load_weights(source, key)
    entries = weights.entries
    if color_order == "bgr":
        if isinstance(weights.network, AIDN):
            raise ValueError(f"{source}: AIDN is trained on RGB images: leave out --color-order")
        entries = swap_color_order(entries)
    if half:
        entries = {name: _halved(name, value, source) for name, value in entries.items()}
    with replacing(target) as temporary:
        # clones: entries that share memory cannot be stored
        save_weights(
            temporary,
            {name: value.clone() for name, value in entries.items()},
            weights.config,
            {"title": weights.title, "imported_from": os.path.basename(source)},
        )
        written = load_weights(temporary)
        if written.entries.keys() != entries.keys() or not all(
            torch.equal(written.entries[name], value) for name, value in entries.items()
        ):
            raise OSError(f"{target}: reads back as something else: is the disk sound?")
    return written


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommands to a parser; :func:`run` does what the parsed arguments say."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    sub = commands.add_parser("list", help="list the weights that come along")
    sub.set_defaults(act=lambda _: _list())

    sub = commands.add_parser("info", help="tell what is in a weights file")
    sub.add_argument("file", metavar="FILE", help="weights file, or name of shipped weights")
    _add_key(sub)
    sub.set_defaults(act=lambda args: _info(args.file, args.key))

    sub = commands.add_parser(
        "import",
        help="turn a weights file into safetensors",
        description="Reads a checkpoint of AIDN, AIDN+, VQIR or VQGAN, be it of their authors, of "
        "BasicSR or of PyTorch Lightning, and writes its weights as safetensors. They must fit the "
        "network entry by entry; nothing that a file asks for is run.",
    )
    sub.add_argument("file", metavar="FILE", type=Path, help="file to read")
    sub.add_argument("out", metavar="OUT.safetensors", type=Path, help="file to write")
    _add_key(sub)
    sub.add_argument("--fp16", action="store_true", help="store 16-bit numbers: half the size")
    sub.add_argument(
        "--color-order",
        choices=COLOR_ORDERS,
        default="rgb",
        help="what the network was trained on: bgr for the authors' VQIR of stage 1 "
        "(default: %(default)s)",
    )
    sub.set_defaults(act=_import)


def run(args: argparse.Namespace) -> int:
    """Does what arguments parsed by :func:`add_arguments` say.

    Returns:
        0; what goes wrong is raised.
    """
    args.act(args)
    return 0


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key",
        metavar="KEY",
        help="entry that holds the weights, as params or params_ema (default: params_ema, params "
        "or state_dict, the first that is there)",
    )


def _list() -> None:
    names = shipped_weights()
    if not names:
        print("no weights come with this installation")
        return
    rows = [("name", "network", "parameters", "size", "fingerprint", "")]
    for name in names:
        path = _find(name)
        weights = load_weights(path)
        notes = _notes(path)
        about = "; ".join(notes[key] for key in ("title", "data") if key in notes)
        rows.append(
            (
                name + (" (default)" if name == names[0] else ""),
                weights.title,
                f"{weights.parameters:,}",
                _megabytes(path),
                fingerprint(weights.entries),
                about,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def _info(name: str, key: str | None) -> None:
    path = _find(name)
    weights = load_weights(path, key)
    config = ", ".join(f"{keyword}={value!r}" for keyword, value in weights.config.items())
    rows = {
        "file": f"{path} ({_megabytes(path)})",
        "network": weights.title,
        "parameters": f"{weights.parameters:,}",
        "precision": weights.precision,
        "fingerprint": fingerprint(weights.entries),
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
        f"{args.out}: {written.title}, {written.parameters:,} parameters, {written.precision}, "
        f"{_megabytes(args.out)}, {fingerprint(written.entries)}"
    )


def _network(
    entries: Mapping[str, Tensor], known: Mapping[str, Any], source: str
) -> tuple[nn.Module, dict[str, Any]]:
    """The network with ``entries`` loaded, and its constructor's keywords."""
    kind: type[nn.Module]
    if any(name.startswith("icrm.") for name in entries):
        kind, read = VQIR, vqir_config
    elif "quantize.embedding.weight" in entries:
        kind, read = VQGAN, vqgan_config
    else:
        kind, read = AIDN, aidn_config
    config = {name: p.default for name, p in inspect.signature(kind).parameters.items()}
    try:
        config |= read(entries) | dict(known)
        network = kind(**config)
    except (TypeError, ValueError) as error:  # TypeError: a keyword that there is not
        raise ValueError(f"{source}: {error}") from error
    load_strictly(network, entries, source)
    return network.eval(), config


def _has_jpeg(checkpoint: Mapping[str, Any]) -> bool:
    places = [checkpoint, *(part for part in checkpoint.values() if isinstance(part, Mapping))]
    return any(
        str(name).removeprefix("module.").startswith("jpeg.") for place in places for name in place
    )


def _halved(name: str, value: Tensor, source: str | os.PathLike[str]) -> Tensor:
    if not value.is_floating_point():
        return value
    half = value.half()
    if not torch.equal(half.isfinite(), value.isfinite()):
        raise ValueError(
            f"{source}: {name} does not fit into 16 bits, it goes up to "
            f"{value.abs().max().item():g}: leave out --fp16"
        )
    return half


def _find(name: str) -> Path:
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_weights()
    if name not in shipped:
        raise FileNotFoundError(
            f"{name}: no such weights file, nor the name of shipped weights (there are: "
            f"{', '.join(shipped) or 'none'})"
        )
    return _SHIPPED / f"{name}.safetensors"


def _notes(path: Path) -> dict[str, str]:
    """What the header of a safetensors file tells beside the constructor's keywords."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        return {key: text for key, text in (file.metadata() or {}).items() if key != "config"}


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"

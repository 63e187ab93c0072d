"""Conversion of third-party weights files to files of this project."""

from __future__ import annotations

import os

from rescale_compat.errors import RescaleError

import torch
from torch import Tensor

from rescale_arch.architecture import LoadedNetwork, load_network
from rescale_data.atomic import replacing
from rescale_data.weight_file import read_weights, save_weights

COLOR_ORDERS = ("rgb", "bgr")


def load_weights(path: str | os.PathLike[str], key: str | None = None) -> LoadedNetwork:
    """Reads weights and loads them into the matching network.

    Args:
        path: a file by this project, BasicSR, or the networks' authors.
        key: entry of the file that holds the weights; default: the first present of
            ``params_ema``, ``params`` and ``state_dict``, or the file itself.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a checkpoint, has no such entry, or matches no network.
    """
    name = os.fspath(path)
    return load_network(read_weights(name), name, key=key)


def import_weights(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    key: str | None = None,
    half: bool = False,
    color_order: str = "rgb",
) -> LoadedNetwork:
    """Writes weights as a safetensors file with the network's constructor keywords.

    The file is created atomically, after it has been read back and compared.

    Args:
        source: file to read; see :func:`load_weights`.
        target: file to write, ending in ``.safetensors``; an existing file is replaced.
        key: see :func:`load_weights`.
        half: store float16.
        color_order: ``'bgr'`` if the network was trained on BGR images (VQGAN, VQIR); the
            written weights are for RGB images.

    Returns:
        The network with the written weights.

    Raises:
        OSError: a file is missing or cannot be written.
        ValueError: as for :func:`load_weights`; or the target has another suffix or is the source,
            values exceed the range of float16, or ``color_order`` is not for this network.
    """
    target = os.fspath(target)
    if not target.endswith(".safetensors"):
        raise RescaleError(f"{target}: the name must end in .safetensors")
    if os.path.exists(target) and os.path.samefile(source, target):
        raise RescaleError(f"{target}: is the file to import, which would be replaced")
    if color_order not in COLOR_ORDERS:
        raise RescaleError(f"color order {color_order!r} is unknown: expected one of rgb, bgr")
    weights = load_weights(source, key)
    entries = weights.weights
    if color_order == "bgr":
        if weights.architecture.swap_color_order is None:
            title = weights.architecture.title
            raise RescaleError(f"{source}: {title} is trained on RGB images: omit --color-order")
        entries = weights.architecture.swap_color_order(entries)
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
        if written.weights.keys() != entries.keys() or not all(
            torch.equal(written.weights[name], value) for name, value in entries.items()
        ):
            raise OSError(f"{target}: the written file differs when read back; check the disk")
    return written


def _halved(name: str, value: Tensor, source: str | os.PathLike[str]) -> Tensor:
    if not value.is_floating_point():
        return value
    half = value.half()
    if not torch.equal(half.isfinite(), value.isfinite()):
        raise RescaleError(
            f"{source}: {name} exceeds the range of float16, with values up to "
            f"{value.abs().max().item():g}: omit --fp16"
        )
    return half

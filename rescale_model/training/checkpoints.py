"""Weights and training states as files."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr
from rescale_compat.errors import RescaleError

import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn

from rescale_arch.checkpoints import canonical_weights, load_strictly
from rescale_data.image_file import write_file
from rescale_data.weight_file import read_weights


def read_network(path: str, key: str | None = "params") -> dict[str, Tensor]:
    """Reads the canonical weights of a file by BasicSR, the authors, or in safetensors format.

    Args:
        path: the file.
        key: entry of the file; a missing ``params`` or ``params_ema`` falls back to the default
            entry.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a checkpoint.
    """
    checkpoint = read_weights(path)
    if key in ("params", "params_ema") and key not in checkpoint:
        key = None
    try:
        weights = canonical_weights(checkpoint, key)
    except ValueError as error:
        raise RescaleError(f"{path}: {error}") from None
    get_root_logger().info(f"Loading {path}, key {key or 'found'}.")
    return weights


def load_network(net: nn.Module, weights: Mapping[str, Tensor], path: str, *, strict: bool) -> None:
    """Loads the weights of a file into a network.

    Args:
        net: the network itself, not its wrapper for distributed training.
        weights: see :func:`read_network`.
        path: the file, for messages.
        strict: False loads the entries that ``net`` shares with the file and logs the others.

    Raises:
        ValueError: the weights do not match; the message lists the differences.
    """
    if not strict:
        own = net.state_dict()
        shared = {
            name: value
            for name, value in weights.items()
            if name in own and own[name].shape == value.shape
        }
        if not shared:
            raise RescaleError(f"{path} shares no entry with {type(net).__name__}")
        logger = get_root_logger()
        logger.warning(f"Missing in the file: {sorted(own.keys() - shared.keys())}")
        logger.warning(f"Not loaded from the file: {sorted(weights.keys() - shared.keys())}")
        weights = {**own, **shared}
    load_strictly(net, weights, path)


def save_networks(
    nets: Mapping[str, nn.Module], opt: Mapping[str, Any], label: str, iteration: int
) -> None:
    """Writes the weights of networks with the same options into ``<label>_<iteration>.pth``.

    Their options are saved as ``config``.

    Args:
        nets: entry of the file, ``params`` or ``params_ema`` -> network.
        opt: all options of the run.
        label: ``net_g`` or ``net_d``.
        iteration: the current iteration; -1: ``latest``.

    Raises:
        OSError: the file cannot be written.
    """
    options = opt[label.replace("net_", "network_")]
    config = {key: value for key, value in options.items() if key != "type"}
    checkpoint: dict[str, Any] = {"config": config}
    saved: dict[tuple[str, int], Tensor] = {}
    for key, net in nets.items():
        state = net.state_dict()
        for name, value in state.items():  # shared tensors are stored once
            if (name, value.data_ptr()) not in saved:
                saved[name, value.data_ptr()] = value.cpu()
        checkpoint[key] = {name: saved[name, value.data_ptr()] for name, value in state.items()}
    name = f"{label}_{'latest' if iteration == -1 else iteration}.pth"
    save_checkpoint(checkpoint, os.path.join(opt["path"]["models"], name))


def save_checkpoint(content: Mapping[str, Any], path: str) -> None:
    """Writes a file in the format of ``torch.save``, atomically.

    Raises:
        OSError: the file cannot be written.
    """
    buffer = io.BytesIO()  # torch.save itself would not report the reason for a full disk
    torch.save(content, buffer)
    write_file(path, buffer.getvalue())

"""Weight files: safe reading, atomic writing, fingerprints. Independent of the networks."""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from rescale_compat.errors import RescaleError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from rescale_data.atomic import replacing
from rescale_data.foreign_checkpoint import read_foreign_checkpoint


def read_weights(path: str | PathLike[str]) -> dict[str, Any]:
    """Reads a checkpoint without running any code that it contains.

    Args:
        path: ``.safetensors``, or a file written by ``torch.save`` (``.pth``, ``.pth.tar``,
            ``.ckpt``, ..).

    Returns:
        The contents of the file, on the CPU. For a safetensors file, ``{"params": {name: tensor}}``
        and, if the file states it, ``"config"``: the constructor keywords of the network. Objects
        of other classes, which trainers such as PyTorch Lightning store with the weights, are
        replaced by empty placeholders; their classes need not be installed.

    Raises:
        FileNotFoundError: no such file.
        OSError: the file cannot be read.
        MemoryError: there is not enough memory.
        ValueError: the file is damaged, not a checkpoint, or would run code.
    """
    name = fspath(path)
    with open(name, "rb"):
        pass  # missing or unreadable: raises the system's error, which names the file
    try:
        if name.endswith(".safetensors"):
            return _read_safetensors(name)
        checkpoint = _read_pickle(name)
    except OSError as error:
        if error.errno is None:  # safetensors sets no errno
            raise OSError(f"{name}: {error}") from error
        raise OSError(error.errno, error.strerror, name) from error
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise MemoryError(
            f"{name}: not enough memory to load it, or it is damaged and requests too much"
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise RescaleError(f"{name}: contains a {type(checkpoint).__name__}, not a state dict")
    return dict(checkpoint)


def save_weights(
    path: str | PathLike[str],
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file atomically.

    Args:
        path: ends in ``.safetensors``.
        weights: the state dict.
        config: constructor keywords of the network; values that JSON can represent.
        notes: further text entries for the header of the file.

    Raises:
        ValueError: another suffix.
        OSError: the file cannot be written; no partial file remains.
    """
    name = fspath(path)
    if not name.endswith(".safetensors"):
        raise RescaleError(f"{name}: weights are written as .safetensors")
    metadata = dict(notes or {})
    if config is not None:
        metadata["config"] = json.dumps(dict(config))
    tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    with replacing(name) as temporary, open(temporary, "wb") as file:
        file.write(safetensors_bytes(tensors, metadata))


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Identifies weights by sixteen hexadecimal digits: ``sha256:0123456789abcdef``.

    Computed from names and float32 values; the file format and the step counters of batch norm do
    not matter.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        if name.endswith("num_batches_tracked"):
            continue
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().float().contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def _is_out_of_memory(error: Exception) -> bool:
    # PyTorch has no exception class for running out of memory on a CPU.
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


def _read_pickle(name: str) -> Any:
    try:
        try:
            return torch.load(name, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            if not zipfile.is_zipfile(name):
                raise
        return read_foreign_checkpoint(name)
    except Exception as error:  # PyTorch's reader can raise anything for a damaged pickle
        if _is_out_of_memory(error):
            raise
        # EINVAL: a damaged zip file refers to a position before its start.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        reason = str(error).partition("\n")[0]
        raise RescaleError(
            f"{name}: not a checkpoint that can be loaded safely ({reason})"
        ) from error


def _read_safetensors(name: str) -> dict[str, Any]:
    try:
        with safe_open(name, framework="pt") as file:
            names = file.keys()
            checkpoint: dict[str, Any] = {"params": {name: file.get_tensor(name) for name in names}}
            metadata = file.metadata() or {}
        if "config" in metadata:
            checkpoint["config"] = json.loads(metadata["config"])
    except (SafetensorError, json.JSONDecodeError) as error:
        raise RescaleError(f"{name}: not a safetensors file ({error})") from error
    return checkpoint

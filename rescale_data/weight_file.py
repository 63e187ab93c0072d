"""Weight files: safe reading, atomic writing, fingerprints. Knows no network."""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from rescale_data.atomic import replacing
from rescale_data.foreign_checkpoint import read_foreign_checkpoint


def read_weights(path: str | PathLike[str]) -> dict[str, Any]:
    """Reads a checkpoint without executing anything that it asks for.

    Args:
        path: ``.safetensors``, or a file of ``torch.save`` (``.pth``, ``.pth.tar``, ``.ckpt``, ..).

    Returns:
        What the file holds, on the CPU. A safetensors file comes as ``{"params": {name: tensor}}``
        plus ``"config"``, the constructor keywords of the network, where it states them. Objects of
        foreign classes, which trainers such as PyTorch Lightning put beside the weights, come as
        stand-ins that know nothing; those classes need not be installed.

    Raises:
        FileNotFoundError: no such file.
        OSError: the file cannot be read.
        MemoryError: it needs more memory than there is.
        ValueError: the file is damaged, no checkpoint, or asks for code to be run.
    """
    name = fspath(path)
    with open(name, "rb"):
        pass  # a missing or unreadable file: the system's own error, which names it
    try:
        if name.endswith(".safetensors"):
            return _read_safetensors(name)
        checkpoint = _read_pickle(name)
    except OSError as error:
        if error.errno is None:  # safetensors gives a message only
            raise OSError(f"{name}: {error}") from error
        raise OSError(error.errno, error.strerror, name) from error
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise MemoryError(
            f"{name}: not enough memory to load it, unless it is damaged and asks for too much"
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{name}: holds a {type(checkpoint).__name__}, not a state dict")
    return dict(checkpoint)


def save_weights(
    path: str | PathLike[str],
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any] | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file, beside its final name first and then renamed.

    Args:
        path: ends in ``.safetensors``.
        weights: the state dict.
        config: constructor keywords of the network, as numbers, strings, None.
        notes: further text entries of the file's header.

    Raises:
        ValueError: another suffix.
        OSError: the file cannot be written; nothing is left behind.
    """
    name = fspath(path)
    if not name.endswith(".safetensors"):
        raise ValueError(f"{name}: weights are written as .safetensors")
    metadata = dict(notes or {})
    if config is not None:
        metadata["config"] = json.dumps(dict(config))
    tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    with replacing(name) as temporary, open(temporary, "wb") as file:
        file.write(safetensors_bytes(tensors, metadata))


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Sixteen hexadecimal digits that tell weights apart: ``sha256:0123456789abcdef``.

    Names and float32 values count; the file format and the step counters of batch norm do not.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        if name.endswith("num_batches_tracked"):
            continue
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().float().contiguous().numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def _is_out_of_memory(error: Exception) -> bool:
    # On a CPU, PyTorch has no class of its own for this.
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
    except Exception as error:  # a damaged pickle makes PyTorch's reader fail in any way there is
        if _is_out_of_memory(error):
            raise
        # EINVAL: a damaged zip file asks for a place before its start.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{name}: no checkpoint that can be loaded safely ({reason})") from error


def _read_safetensors(name: str) -> dict[str, Any]:
    try:
        with safe_open(name, framework="pt") as file:
            names = file.keys()
            checkpoint: dict[str, Any] = {"params": {name: file.get_tensor(name) for name in names}}
            metadata = file.metadata() or {}
        if "config" in metadata:
            checkpoint["config"] = json.loads(metadata["config"])
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{name}: no safetensors file ({error})") from error
    return checkpoint

"""The device that a command or a `Rescaler` computes on."""

from __future__ import annotations

from typing import Literal, get_args

from rescale_compat.errors import RescaleError

import torch

Device = Literal["auto", "cpu", "cuda"]


def torch_device(device: str) -> torch.device:
    """The device of a name; ``'auto'`` is the GPU if there is one.

    Raises:
        RescaleError: the name is unknown, or there is no GPU for ``'cuda'``.
    """
    if device not in get_args(Device):
        raise RescaleError(f"device {device!r} is unknown: expected one of auto, cpu, cuda")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise RescaleError("device cuda is not available: PyTorch finds no GPU; use auto or cpu")
    return torch.device("cuda" if available and device != "cpu" else "cpu")

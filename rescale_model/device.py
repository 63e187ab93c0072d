"""The device and precision that options select."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr
from rescale_compat.errors import RescaleError

import torch
from basicsr.utils import get_root_logger

from rescale_arch.bfloat16 import SLOW_BFLOAT16, bfloat16_is_native, uses_bfloat16


def check_gpus(opt: Mapping[str, Any]) -> None:
    """Checks that the GPUs of the option ``num_gpu`` are available, one for each process.

    Raises:
        ValueError: there is no GPU, or the option requests several for a single process.
    """
    if opt["num_gpu"] and not torch.cuda.is_available():
        raise RescaleError(
            f"option num_gpu is {opt['num_gpu']}, but PyTorch finds no GPU: use auto or 0"
        )
    if opt["num_gpu"] > 1 and not opt["dist"]:
        # BasicSR's DataParallel would multiply the batch and compute batch statistics per GPU
        raise RescaleError(
            f"option num_gpu is {opt['num_gpu']}, but this is a single process, which uses one "
            "GPU: use num_gpu: 1, or start a process for each GPU: torchrun --nproc_per_node "
            f"{opt['num_gpu']} $(which rescale) .. --launcher pytorch"
        )


def autocast(device: torch.device, section: str, options: Mapping[str, Any]) -> torch.autocast:
    """Returns a context manager for the option ``precision`` of a section.

    Args:
        device: device of the computation.
        section: name of the section, for error messages.
        options: options of the section.

    Raises:
        ValueError: the precision is unknown.
    """
    try:
        bf16 = uses_bfloat16(options["precision"], device)
    except RescaleError as error:
        raise RescaleError(f"option {section}: {error}") from None
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def warn_of_slow_bfloat16(opt: Mapping[str, Any], device: torch.device) -> None:
    """Logs a warning if options select bf16 on a device without bfloat16 instructions."""
    asked = [s for s in ("train", "val") if (opt.get(s) or {}).get("precision") == "bf16"]
    if asked and not bfloat16_is_native(device):
        get_root_logger().warning(f"Option {' and '.join(asked)}: precision: {SLOW_BFLOAT16}")

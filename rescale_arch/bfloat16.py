"""Precisions, and detection of native bfloat16 support."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from rescale_compat.errors import RescaleError

import torch

Precision = Literal["auto", "fp32", "bf16"]
"""``"auto"``: bfloat16 on devices that have instructions for it, float32 on others."""
PRECISIONS = get_args(Precision)

SLOW_BFLOAT16 = (
    "bf16 on a device without bfloat16 instructions takes several times as long as fp32 and is "
    "less exact: use fp32"
)
"""Warning for users who select bfloat16 on a device without native support."""

# Names in /proc/cpuinfo, of x86 and Arm processors.
_NATIVE = frozenset({"amx_bf16", "avx512_bf16", "bf16"})


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether a `Precision` means bfloat16 on ``device``.

    Raises:
        ValueError: the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise RescaleError(f"precision is {precision!r}: expected one of {', '.join(PRECISIONS)}")
    return bfloat16_is_native(device) if precision == "auto" else precision == "bf16"


def bfloat16_is_native(device: torch.device) -> bool:
    """Whether ``device`` has instructions for bfloat16; otherwise, fp32 is faster.

    On CPUs, these are AMX, AVX-512 BF16 and Arm's BF16; PyTorch uses them on Linux only.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(_NATIVE & _cpu_features())


@cache
def _cpu_features() -> frozenset[str]:
    """CPU features reported by Linux for the first CPU; empty on other systems."""
    if sys.platform != "linux":
        return frozenset()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, features = line.partition(":")
        if name.strip() in ("flags", "Features"):  # x86, Arm
            return frozenset(features.split())
    return frozenset()

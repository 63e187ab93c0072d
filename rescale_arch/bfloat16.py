"""Whether a device computes in bfloat16 itself, or emulates it."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import torch

SLOW_BFLOAT16 = (
    "bf16 on a device without bfloat16 instructions takes several times as long as fp32 and is "
    "less exact: use fp32"
)
"""What to tell a user who asked for bfloat16 where `bfloat16_is_native` says no."""

# As Linux names them: of x86 processors, and of Arm's.
_NATIVE = frozenset({"amx_bf16", "avx512_bf16", "bf16"})


def bfloat16_is_native(device: torch.device) -> bool:
    """Whether ``device`` has instructions for bfloat16; where it has none, fp32 is faster.

    On a CPU these are AMX, AVX-512 BF16 and Arm's BF16. Outside Linux PyTorch uses none of them.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(_NATIVE & _cpu_features())


@cache
def _cpu_features() -> frozenset[str]:
    """The features that Linux reports of the first CPU; none on other systems."""
    if sys.platform != "linux":
        return frozenset()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, features = line.partition(":")
        if name.strip() in ("flags", "Features"):  # x86, Arm
            return frozenset(features.split())
    return frozenset()

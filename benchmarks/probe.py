"""Time and peak memory of a function, on a CPU or a GPU."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rescale_arch.rounding import quantize

MIB = 2**20
_SMALL = 64


def seconds(work: Callable[[], object], device: str, repeats: int = 1) -> float:
    """Median run time of ``work``, including its kernels on a GPU."""
    times = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@contextmanager
def peak_memory(device: str, into: dict[str, float]) -> Iterator[None]:
    """Adds ``mib``: the peak memory in the block, minus the memory in use before it.

    On a CPU, it is the peak resident memory of the process minus its earlier peak, so code before
    the block should need little memory.
    """
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield
        into["mib"] = (torch.cuda.max_memory_allocated() - before) / MIB
    else:
        before = _resident_peak()
        yield
        into["mib"] = (_resident_peak() - before) / MIB


def round_trip(
    trip: Callable[[Tensor], tuple[Tensor, Tensor]],
    hr: Tensor,
    precision: str,
    repeats: int,
    keep: str | None,
) -> dict[str, float]:
    """Time and peak memory of ``trip``.

    Args:
        trip: takes an image and returns the LR and restored images.
        hr: (1, 3, H, W).
        precision: ``fp32`` or ``bf16`` (autocast).
        repeats: number of timed runs on a GPU, after one for the memory.
        keep: file for the results of ``trip``.
    """
    device = hr.device.type
    result: dict[str, float] = {}
    bf16 = precision == "bf16"
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
        # one-time initialization
        trip(hr[..., :_SMALL, :_SMALL])
        outputs: list[Tensor] = []
        with peak_memory(device, result):
            result["seconds"] = seconds(lambda: outputs.extend(trip(hr)), device)
        if keep:
            np.savez(keep, *(output.float().cpu().numpy() for output in outputs))
        outputs.clear()
        if device == "cuda":
            result["seconds"] = seconds(lambda: trip(hr), device, repeats)
    return result


def noise(size: tuple[int, int], device: str) -> Tensor:
    """A noise image with 8-bit levels: (1, 3, H, W) in [0, 1]."""
    return quantize(torch.rand(1, 3, *size, device=device))


def plain_copy(plain: Callable[..., nn.Module], net: nn.Module, network: dict[str, Any]) -> Any:
    """The plain reference of ``net``; shares its weights, as a copy would raise peak memory."""
    with torch.device("meta"):
        copy = plain(**network)
    copy.load_state_dict(net.state_dict(), assign=True)
    return copy.eval().requires_grad_(False)


def synchronize(device: str) -> None:
    """Waits for a GPU to finish."""
    if device == "cuda":
        torch.cuda.synchronize()


def _resident_peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

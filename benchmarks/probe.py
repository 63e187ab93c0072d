"""Time and peak memory of a piece of work, on a CPU or a GPU."""

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
    """Median time of ``work``; on a GPU until it has finished there."""
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
    """Adds ``mib``: the peak within the block above what was in use when it was entered.

    On a CPU that is resident memory above the process's peak until then, so whatever comes before
    the block ought to need little.
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
        trip: takes a picture and gives the LR and the restored one.
        hr: (1, 3, H, W).
        precision: ``fp32`` or ``bf16`` (autocast).
        repeats: how often a GPU's time is taken, after the run whose memory is.
        keep: file to write what ``trip`` gives to.
    """
    device = hr.device.type
    result: dict[str, float] = {}
    bf16 = precision == "bf16"
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=bf16):
        # what is set up once
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
    """An 8-bit picture of noise: (1, 3, H, W) in [0, 1]."""
    return quantize(torch.rand(1, 3, *size, device=device))


def plain_copy(plain: Callable[..., nn.Module], net: nn.Module, network: dict[str, Any]) -> Any:
    """The plain reference of ``net``, with its very weights: a copy would raise the peak."""
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

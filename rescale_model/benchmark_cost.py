"""Time and memory of a round trip, measured in a process of its own.

Peak memory needs that: a process that has computed before has memory at hand which hides what the
next computation takes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import rescale_compat  # noqa: F401  first: it lets basicsr import

import torch
from torch import Tensor

from rescale_arch.inference_kernels import inference_kernels
from rescale_model.benchmark_method import Method, Scale, load_method

_RUNS = 2
_WARM_UP = 32  # side of a first picture, in pixels


@dataclass(frozen=True)
class Cost:
    """What a method takes for downscaling and restoring a megapixel.

    Attributes:
        parameters: of its network.
        seconds: label of a scale -> seconds, the least of two runs.
        memory: most bytes beyond those before the first run, at any of the scales: of the GPU, or
            of the process (Linux; elsewhere None, there is no way to tell).
    """

    parameters: int
    seconds: dict[str, float]
    memory: float | None


def measure_cost(weights: str | None, scales: Mapping[str, Scale], side: int, device: str) -> Cost:
    """Measures a method in a new process.

    Args:
        weights: see :func:`~rescale_model.benchmark_method.load_method`.
        scales: label -> factors.
        side: of the square picture to measure with, in pixels.
        device: ``'cpu'`` or ``'cuda'``.

    Raises:
        MemoryError: the process was killed, as for want of memory.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, weights, dict(scales), side, device).result()
        except BrokenProcessPool as error:
            raise MemoryError(
                f"{weights or 'bicubic'}: measuring it with {side} x {side} pixels was cut short, "
                "as for want of memory: lower val: cost_size"
            ) from error


@torch.inference_mode()
@inference_kernels()
def _measure(weights: str | None, scales: dict[str, Scale], side: int, device: str) -> Cost:
    on_gpu = device == "cuda"
    method = load_method(weights, device)
    for scale in scales.values():  # what libraries keep from their first use is not the picture's
        _round_trip(method, torch.rand(1, 3, _WARM_UP, _WARM_UP, device=device), scale)
    hr = torch.rand(1, 3, side, side, device=device)
    megapixels = side * side / 1e6
    before = torch.cuda.memory_allocated() if on_gpu else _resident("VmRSS")
    seconds = {}
    for label, scale in scales.items():
        times = []
        for _ in range(_RUNS):
            start = time.perf_counter()
            _round_trip(method, hr, scale)
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        seconds[label] = min(times) / megapixels
    peak = torch.cuda.max_memory_allocated() if on_gpu else _resident("VmHWM")
    memory = None if peak is None or before is None else (peak - before) / megapixels
    return Cost(sum(p.numel() for p in method.parameters()), seconds, memory)


def _round_trip(method: Method, hr: Tensor, scale: Scale) -> None:
    method.upscale(method.downscale(hr, scale), scale, size=(hr.shape[-2], hr.shape[-1]))


def _resident(field: str) -> int | None:
    """Bytes of memory of this process, now (``VmRSS``) or at most so far (``VmHWM``).

    ``getrusage`` would give the latter, but a new process inherits it from the one that made it.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    found = re.search(rf"^{field}:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None

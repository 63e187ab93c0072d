"""Time and memory of a round trip, measured in a separate process.

This is necessary for peak memory: a process that has computed before reuses allocated memory, which
hides the demand of the next computation.
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

import rescale_compat  # noqa: F401  must precede basicsr

import torch
from torch import Tensor

from rescale_arch.inference_kernels import inference_kernels
from rescale_model.evaluation.effort import Effort
from rescale_model.evaluation.methods import Method, load_method, optimized_lr

Pair = tuple[float, float]
_RUNS = 2
_WARM_UP = 32  # side of the warm-up image, in pixels


@dataclass(frozen=True)
class Cost:
    """Time and memory of a method for downscaling and restoring a megapixel.

    Attributes:
        parameters: number of parameters of its network.
        seconds: label of a scale -> seconds, the minimum of two runs (with effort, of one).
        memory: peak memory in bytes over all scales, minus that before the first run: GPU memory,
            or memory of the process (on Linux; otherwise None).
    """

    parameters: int
    seconds: dict[str, float]
    memory: float | None


def measure_cost(
    weights: str | None, scales: Mapping[str, Pair], side: int, device: str, effort: int = 0
) -> Cost:
    """Measures a method in a new process.

    Args:
        weights: see :func:`~rescale_model.evaluation.methods.load_method`.
        scales: label -> factors.
        side: side of the square test image in pixels.
        device: ``'cpu'`` or ``'cuda'``.
        effort: number of steps in which the LR image is optimized, for a lossless file.

    Raises:
        MemoryError: the process was killed, probably for lack of memory.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, weights, dict(scales), side, device, effort).result()
        except BrokenProcessPool as error:
            raise MemoryError(
                f"{weights or 'bicubic'}: the process that measured its cost with {side} x {side} "
                "pixels was killed, probably for lack of memory: lower val: cost_size"
            ) from error


@torch.inference_mode()
@inference_kernels()
def _measure(
    weights: str | None, scales: dict[str, Pair], side: int, device: str, effort: int
) -> Cost:
    on_gpu = device == "cuda"
    with torch.inference_mode(False):  # effort computes gradients with these weights
        method, steps = load_method(weights, device), Effort(effort)
    for scale in scales.values():  # excludes memory that libraries allocate on first use
        _round_trip(method, torch.rand(1, 3, _WARM_UP, _WARM_UP, device=device), scale, steps)
    hr = torch.rand(1, 3, side, side, device=device)
    megapixels = side * side / 1e6
    before = torch.cuda.memory_allocated() if on_gpu else _resident("VmRSS")
    seconds = {}
    for label, scale in scales.items():
        times = []
        for _ in range(1 if effort else _RUNS):
            start = time.perf_counter()
            _round_trip(method, hr, scale, steps)
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        seconds[label] = min(times) / megapixels
    peak = torch.cuda.max_memory_allocated() if on_gpu else _resident("VmHWM")
    memory = None if peak is None or before is None else (peak - before) / megapixels
    return Cost(sum(p.numel() for p in method.network.parameters()), seconds, memory)


def _round_trip(method: Method, hr: Tensor, scale: Pair, effort: Effort) -> None:
    lr = method.network.downscale(hr, scale)
    if effort.steps:
        lr = optimized_lr(method, lr, hr, scale, effort)
    method.network.upscale(lr, scale, size=(hr.shape[-2], hr.shape[-1]))


def _resident(field: str) -> int | None:
    """Bytes of memory of this process, now (``VmRSS``) or at most so far (``VmHWM``).

    ``getrusage`` returns the latter too, but a new process inherits the value of its parent.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    found = re.search(rf"^{field}:\s*(\d+) kB$", status.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None

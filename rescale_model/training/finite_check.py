"""Checks that the losses of a step are finite, without making the GPU wait."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class FiniteCheck:
    """Checks that ``value`` is finite on every rank.

    The result is copied to the host asynchronously. If :meth:`passed` is called after the backward
    pass was launched, the result arrives long before the GPU runs out of work.

    Args:
        value: any shape; all ranks must create a check.
    """

    def __init__(self, value: Tensor) -> None:
        wrong = (~value.detach().isfinite().all()).float()
        if dist.is_initialized():
            dist.all_reduce(wrong, dist.ReduceOp.MAX)
        self._wrong, self._copied = wrong, None
        if wrong.is_cuda:
            self._wrong = torch.empty((), pin_memory=True)
            self._wrong.copy_(wrong, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def passed(self) -> bool:
        """Waits for the result and returns whether the value is finite on every rank."""
        if self._copied is not None:
            self._copied.synchronize()
        return not self._wrong.item()

"""Whether a step's losses are finite, without making the GPU wait for the answer."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class FiniteCheck:
    """Whether ``value`` is finite on every rank.

    The answer starts its way to the host at once. Asked for after the backward pass was launched,
    it is there long before the GPU has run out of work.

    Args:
        value: any shape; every rank has to check one.
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
        """Waits for the answer."""
        if self._copied is not None:
            self._copied.synchronize()
        return not self._wrong.item()

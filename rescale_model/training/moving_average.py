"""Exponential moving averages of weights (EMA)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def move_average(means: Iterable[Tensor], values: Iterable[Tensor], decay: float) -> None:
    """Exponential moving averages, in place: ``decay * mean + (1 - decay) * value``.

    Uses a few kernels for all tensors, which is faster on a GPU than launching two for each.
    """
    torch._foreach_lerp_(list(means), list(values), 1 - decay)


@torch.no_grad()
def move_average_network(average: nn.Module, net: nn.Module, decay: float) -> None:
    """Moves the parameters of ``average`` towards those of ``net``; buffers are copied."""
    move_average(average.parameters(), net.parameters(), decay)
    buffers = list(zip(average.buffers(), net.buffers(), strict=True))
    for dtype in {buffer.dtype for _, buffer in buffers}:  # mixed types would be copied one by one
        own, trained = zip(*(pair for pair in buffers if pair[1].dtype == dtype), strict=True)
        torch._foreach_copy_(own, trained)

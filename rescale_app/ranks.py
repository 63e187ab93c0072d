"""Sharing files out over the processes that ``torchrun`` starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

Item = TypeVar("Item")
_PATIENCE = timedelta(days=30)  # the others may have larger pictures


def own_share(items: Sequence[Item]) -> Sequence[Item]:
    """Every n-th item, of n processes; all of them where there is one."""
    return items[_number("RANK", 0) :: _number("WORLD_SIZE", 1)]


def is_first() -> bool:
    """Whether the process is to speak for all."""
    return _number("RANK", 0) == 0


def choose_gpu() -> None:
    """Gives each process of a machine a GPU of its own, as far as there are enough."""
    if "LOCAL_RANK" in os.environ:
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_device(_number("LOCAL_RANK", 0) % torch.cuda.device_count())


def total(*counts: int) -> list[int]:
    """Adds counts up over the processes, each of which must ask.

    So none of them leaves before the others: ``torchrun`` ends them all when one fails.
    """
    if _number("WORLD_SIZE", 1) == 1 or "MASTER_ADDR" not in os.environ:
        return list(counts)
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        sums = torch.tensor(counts)
        dist.all_reduce(sums)
        return [int(value) for value in sums]
    finally:
        dist.destroy_process_group()


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default

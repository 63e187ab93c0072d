"""Sharing files out over the processes that ``torchrun`` starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

Item = TypeVar("Item")
_PATIENCE = timedelta(days=30)  # the others may have larger images


@dataclass(frozen=True)
class Ranks:
    """The processes that share the files of a folder out; by default this one alone.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of all processes.
        local_rank: number of this process among those of its machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def of_torchrun(cls) -> Ranks:
        """What ``torchrun`` says in the environment of the processes that it starts.

        Raises:
            ValueError: a variable is missing or no number.
        """
        for name in ("MASTER_ADDR", "MASTER_PORT"):  # where `total` meets the others
            if not os.environ.get(name):
                raise ValueError(f"{name} is not set: start the processes by torchrun")
        rank, size, local = (_number(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        if rank >= size:
            raise ValueError(f"RANK is {rank}, which must be below WORLD_SIZE, {size}")
        return cls(rank, size, local)

    @property
    def is_first(self) -> bool:
        """Whether the process is to speak for all."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those of ``items`` that are this process's: every n-th, of n processes."""
        return items[self.rank :: self.world_size]

    def choose_gpu(self) -> None:
        """Gives each process of a machine a GPU of its own, as far as there are enough."""
        if self.world_size > 1:
            import torch

            if torch.cuda.is_available():
                torch.cuda.set_device(self.local_rank % torch.cuda.device_count())

    def total(self, *counts: int) -> list[int]:
        """Adds counts up over the processes, each of which must ask.

        So none of them leaves before the others: ``torchrun`` ends them all when one fails.
        """
        if self.world_size == 1:
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


def _number(name: str) -> int:
    text = os.environ.get(name)
    if text is None:
        raise ValueError(f"{name} is not set: start the processes by torchrun")
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{name} is {text!r}, which is no number: start the processes by torchrun")
    return int(text)

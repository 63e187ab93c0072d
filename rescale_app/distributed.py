"""Distributing files over the processes that ``torchrun`` starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from rescale_compat.errors import RescaleError

Item = TypeVar("Item")
_PATIENCE = timedelta(days=30)  # other processes may have larger images


@dataclass(frozen=True)
class Ranks:
    """The processes over which the files of a folder are distributed; by default only this one.

    Attributes:
        rank: index of this process, from 0.
        world_size: number of processes.
        local_rank: index of this process among those of its machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def of_torchrun(cls) -> Ranks:
        """Reads the environment variables that ``torchrun`` sets.

        Raises:
            ValueError: a variable is missing or not a number.
        """
        for name in ("MASTER_ADDR", "MASTER_PORT"):  # `total` uses them
            if not os.environ.get(name):
                raise RescaleError(f"{name} is not set: start the processes with torchrun")
        rank, size, local = (_number(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        if rank >= size:
            raise RescaleError(f"RANK is {rank}, which must be below WORLD_SIZE, {size}")
        return cls(rank, size, local)

    @property
    def is_first(self) -> bool:
        """Whether this process prints messages for all."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """The ``items`` that this process handles: every n-th, for n processes."""
        return items[self.rank :: self.world_size]

    def choose_gpu(self) -> None:
        """Selects a separate GPU for each process of a machine, as far as there are enough."""
        if self.world_size > 1:
            import torch

            if torch.cuda.is_available():
                torch.cuda.set_device(self.local_rank % torch.cuda.device_count())

    def total(self, *counts: int) -> list[int]:
        """Sums counts over the processes, each of which must call it.

        It also makes them exit together: ``torchrun`` terminates all of them when one fails.
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
        raise RescaleError(f"{name} is not set: start the processes with torchrun")
    if not (text.isascii() and text.isdigit()):
        raise RescaleError(
            f"{name} is {text!r}, which is not a number: start the processes with torchrun"
        )
    return int(text)

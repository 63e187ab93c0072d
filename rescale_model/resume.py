"""Going on with a training run exactly where it stopped: its state, its data, its randomness."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler

from rescale_data.atomic import TEMPORARY_PREFIX
from rescale_data.hr_dataset import HRImageDataset
from rescale_data.weight_file import read_weights

_NEEDED = ("epoch", "iter", "optimizers", "schedulers")


@dataclass
class Progress:
    """How far a run has come in its data.

    Attributes:
        epoch: the present one, from 0.
        samples: how many of its samples are trained, over all ranks.
    """

    epoch: int = 0
    samples: int = 0


class ResumableSampler(Sampler[Any]):
    """Shuffles a data set anew for every epoch, and can begin in the middle of one.

    Takes the arguments and the place of BasicSR's ``EnlargedSampler``. The order, and for an
    :class:`~rescale_data.hr_dataset.HRImageDataset` each crop as well, is a function of (seed,
    epoch, place): the same after a resume, and the same samples whatever the number of ranks. What
    was trained before is passed over without being read.

    Args:
        dataset: the data set.
        num_replicas: number of ranks, which share the samples out.
        rank: the present one.
        ratio: an epoch takes every picture so many times.
        seed: see above.
        start: where the first epoch begins.

    Attributes:
        progress: starts at ``start``; whoever trains counts its samples on.
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int,
        rank: int,
        ratio: float = 1,
        *,
        seed: int,
        start: Progress,
    ) -> None:
        self._images = len(dataset)
        self._takes_seeds = isinstance(dataset, HRImageDataset)
        self._replicas, self._rank = num_replicas, rank
        self._length = math.ceil(self._images * ratio / num_replicas)
        self._seed = seed
        self._start = start
        self._epoch = start.epoch
        self.progress = Progress(start.epoch, start.samples)

    def __len__(self) -> int:
        """The samples of a whole epoch on one rank."""
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Begins an epoch."""
        self._epoch = epoch
        self.progress.epoch, self.progress.samples = epoch, self._begin(epoch)

    def __iter__(self) -> Iterator[int | tuple[int, int]]:
        """Yields the samples of the rank: indices, or pairs (index, seed of the crop)."""
        epoch = self._epoch
        generator = torch.Generator().manual_seed(_mixed(self._seed, epoch))
        order = torch.randperm(self._length * self._replicas, generator=generator)
        order = order[self._begin(epoch) :]
        # as many on every rank, also where there were more of them or fewer before
        order = order[: len(order) // self._replicas * self._replicas]
        return self._samples(epoch, order[self._rank :: self._replicas])

    def _begin(self, epoch: int) -> int:
        return self._start.samples if epoch == self._start.epoch else 0

    def _samples(self, epoch: int, places: Tensor) -> Iterator[int | tuple[int, int]]:
        for some in places.split(4096):  # a list of all would be large
            for place in some.tolist():
                index = place % self._images
                if self._takes_seeds:
                    yield index, _mixed(self._seed, epoch, place)
                else:
                    yield index


def agree_on_seed(opt: dict[str, Any]) -> None:
    """Gives all ranks the seed of the first: without a ``manual_seed`` each has drawn its own."""
    if opt["dist"]:
        seed = [opt["manual_seed"]]
        dist.broadcast_object_list(seed, src=0)
        opt["manual_seed"] = seed[0]


def read_state(path: str) -> dict[str, Any]:
    """Reads a training state.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or no training state.
    """
    state = read_weights(path)
    lacking = [key for key in _NEEDED if key not in state]
    if lacking:
        raise ValueError(f"{path}: no training state, there is no {', '.join(lacking)}")
    return state


def newest_state(opt: dict[str, Any]) -> tuple[str | None, list[str]]:
    """Finds the newest training state that is whole, with the weights of its iteration.

    Args:
        opt: options of the run, the same on all ranks.

    Returns:
        Its path, None where there is no state at all; and what is wrong with newer ones. The same
        on all ranks.

    Raises:
        ValueError: there are states, but none is usable; of the newest.
        OSError: likewise.
        MemoryError: there is not enough memory to load one.
    """
    found: list[Any] = [None]
    if opt["rank"] == 0:
        try:
            found = [_newest_state(opt)]
        except (OSError, ValueError, MemoryError) as error:  # the other ranks wait for it
            found = [error]
    if opt["dist"]:
        dist.broadcast_object_list(found, src=0)
    if isinstance(found[0], Exception):
        raise found[0]
    result: tuple[str | None, list[str]] = found[0]
    return result


def _newest_state(opt: dict[str, Any]) -> tuple[str | None, list[str]]:
    states, models = Path(opt["path"]["training_states"]), Path(opt["path"]["models"])
    for unfinished in (*states.glob(".*.state"), *models.glob(f"{TEMPORARY_PREFIX}*.pth")):
        unfinished.unlink()  # of a run that was killed while it saved
    ignored = opt["path"].get("ignore_resume_networks") or ()
    labels = [
        key.removeprefix("network_")
        for key in opt
        if key.startswith("network_") and key not in ignored
    ]
    iterations = [int(path.stem) for path in states.glob("*.state") if path.stem.isdecimal()]
    problems: list[Exception] = []
    for iteration in sorted(iterations, reverse=True):
        path = os.path.join(states, f"{iteration}.state")
        try:
            read_state(path)
            for label in labels:
                read_weights(models / f"net_{label}_{iteration}.pth")
        except (OSError, ValueError) as error:
            problems.append(error)
        else:
            return path, [str(problem) for problem in problems]
    if problems:
        raise problems[0]
    return None, []


def random_states() -> dict[str, Any]:
    """The states of the process's random number generators, of plain types and tensors."""
    name, keys, *rest = np.random.get_state()
    states = {
        "python": random.getstate(),
        "numpy": (str(name), np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Puts back what :func:`random_states` returned."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextmanager
def same_randomness() -> Iterator[None]:
    """Undoes what the block does to the random number generators."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


def _mixed(*numbers: int) -> int:
    """32 bits that depend on all of the numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])

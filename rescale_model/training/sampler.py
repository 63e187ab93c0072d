"""A sampler for the training data that can resume in the middle of an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from rescale_data.hr_dataset import HRImageDataset


@dataclass
class DataPosition:
    """Position of a run in its data.

    Attributes:
        epoch: the current epoch, from 0.
        samples: number of its samples already used for training, over all ranks.
    """

    epoch: int = 0
    samples: int = 0


class ResumableSampler(Sampler[Any]):
    """Shuffles a dataset for every epoch, and can start in the middle of an epoch.

    Replaces BasicSR's ``EnlargedSampler`` and has the same arguments. The order, and for an
    :class:`~rescale_data.hr_dataset.HRImageDataset` also each crop, is a function of (seed, epoch,
    index in the epoch): the same after resuming, with the same samples for any number of ranks.
    Samples that were used before are skipped without being read.

    Args:
        dataset: the dataset.
        num_replicas: number of ranks over which the samples are distributed.
        rank: the current rank.
        ratio: number of times that an epoch contains every image.
        seed: see above.
        start: where the first epoch starts.

    Attributes:
        position: initially ``start``; advanced by the training loop.
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int,
        rank: int,
        ratio: float = 1,
        *,
        seed: int,
        start: DataPosition,
    ) -> None:
        self._images = len(dataset)
        self._takes_seeds = isinstance(dataset, HRImageDataset)
        self._replicas, self._rank = num_replicas, rank
        self._length = math.ceil(self._images * ratio / num_replicas)
        self._seed = seed
        self._start = start
        self._epoch = start.epoch
        self.position = DataPosition(start.epoch, start.samples)

    def __len__(self) -> int:
        """Number of samples of a complete epoch per rank."""
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Starts an epoch."""
        self._epoch = epoch
        self.position.epoch, self.position.samples = epoch, self._begin(epoch)

    def __iter__(self) -> Iterator[int | tuple[int, int]]:
        """Yields the samples of the rank: indices, or pairs (index, seed of the crop)."""
        epoch = self._epoch
        generator = torch.Generator().manual_seed(_mixed(self._seed, epoch))
        order = torch.randperm(self._length * self._replicas, generator=generator)
        order = order[self._begin(epoch) :]
        # the same number on every rank, even if the number of ranks has changed
        order = order[: len(order) // self._replicas * self._replicas]
        return self._samples(epoch, order[self._rank :: self._replicas])

    def _begin(self, epoch: int) -> int:
        return self._start.samples if epoch == self._start.epoch else 0

    def _samples(self, epoch: int, places: Tensor) -> Iterator[int | tuple[int, int]]:
        for some in places.split(4096):  # a list of all indices would be large
            for place in some.tolist():
                index = place % self._images
                if self._takes_seeds:
                    yield index, _mixed(self._seed, epoch, place)
                else:
                    yield index


def _mixed(*numbers: int) -> int:
    """32 bits that depend on all of the numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])

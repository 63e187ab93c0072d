"""The order of the data: by seed, over ranks, and from the middle of an epoch."""

from collections import Counter
from typing import Any

import pytest

from rescale_data.hr_dataset import HRImageDataset
from rescale_model.training.sampler import DataPosition, ResumableSampler


class Numbers(HRImageDataset):
    """Accepts seeds like its parent, but has no images."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count


def epoch_of(
    number: int, ranks: int, rank: int = 0, start: DataPosition | None = None, ratio: int = 3
) -> list[Any]:
    start = start or DataPosition()
    sampler = ResumableSampler(Numbers(5), ranks, rank, ratio, seed=7, start=start)
    sampler.set_epoch(number)
    return list(sampler)


def test_an_epoch_has_every_image_and_crops_of_its_own() -> None:
    epochs = [epoch_of(number, 1) for number in range(3)]
    for samples in epochs:
        assert Counter(index for index, _ in samples) == dict.fromkeys(range(5), 3)
    seeds = [seed for samples in epochs for _, seed in samples]
    assert len(set(seeds)) == len(seeds) == 45
    assert len({tuple(samples) for samples in epochs}) == 3


def test_samples_are_distributed_over_the_ranks() -> None:
    alone = epoch_of(1, 1)
    three = [epoch_of(1, 3, rank) for rank in range(3)]
    assert [sample for together in zip(*three, strict=True) for sample in together] == alone
    # fifteen samples are no multiple of two: one is taken twice, so that no rank ends before others
    two = [epoch_of(1, 2, rank) for rank in range(2)]
    assert [len(samples) for samples in two] == [8, 8]
    assert {index for samples in two for index, _ in samples} == set(range(5))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_samples_that_were_used_are_skipped(ranks: int) -> None:
    alone = epoch_of(2, 1)
    start = DataPosition(epoch=2, samples=6)
    rest = [epoch_of(2, ranks, rank, start) for rank in range(ranks)]
    assert len({len(samples) for samples in rest}) == 1
    if ranks == 1:
        assert rest[0] == alone[6:]
        assert epoch_of(3, 1, 0, start) == epoch_of(3, 1)
    assert epoch_of(2, ranks, 0, DataPosition(2, 99)) == []


def test_other_data_sets_get_plain_indices() -> None:
    sampler = ResumableSampler(range(4), 1, 0, seed=0, start=DataPosition())
    assert sorted(sampler) == [0, 1, 2, 3]

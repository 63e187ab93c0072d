"""Random crops of HR images: from seeds alone, and different in every worker and epoch."""

import pickle

import rescale_compat  # noqa: F401

import numpy as np
import pytest
import torch
from hr_datasets import dataset, options
from torch.utils.data import DataLoader

from rescale_data.hr_dataset import HRImageDataset
from rescale_data.image_file import (
    write_image,
)


@pytest.mark.parametrize("lmdb_or_folder", ["folder", "lmdb"])
def test_a_pair_depends_on_its_seed_alone(hr_folder, lmdb, lmdb_or_folder):
    items = dataset(lmdb if lmdb_or_folder == "lmdb" else hr_folder)
    before = torch.get_rng_state()
    first = items[2, 123]["gt"]
    assert (torch.get_rng_state() == before).all()
    torch.manual_seed(99)
    assert (items[2, 123]["gt"] == first).all()
    assert (pickle.loads(pickle.dumps(items))[2, 123]["gt"] == first).all()
    assert any((items[2, seed]["gt"] != first).any() for seed in range(3))


def test_a_sample_draws_the_same_number_whatever_the_options(tmp_path):
    for number, side in enumerate((5, 32, 100)):
        write_image(tmp_path / f"{number}.png", np.zeros((side, side, 3), np.uint8))
    states = set()
    for flip in (True, False):
        halves = 0.5 if flip else "absent"
        items = dataset(tmp_path, use_hflip=flip, use_rot=flip, half_size_probability=halves)
        for index in range(3):
            torch.manual_seed(0)
            _ = items[index]
            states.add(torch.get_rng_state().numpy().tobytes())
    assert len(states) == 1


def test_validation_leaves_the_random_numbers_of_training_alone(hr_folder):
    before = torch.get_rng_state()
    _ = list(dataset(hr_folder, phase="val"))
    assert (torch.get_rng_state() == before).all()


def run_epochs(root, workers: int, epochs: int = 3, **changes) -> list[torch.Tensor]:
    """Epochs as BasicSR's runner has them, with its loader, sampler and seeding of workers."""
    from basicsr.data import build_dataloader
    from basicsr.data.data_sampler import EnlargedSampler

    opt = options(root, num_worker_per_gpu=workers, **changes)
    torch.manual_seed(7)
    items = HRImageDataset(opt)
    sampler = EnlargedSampler(items, 1, 0, 2)
    loader = build_dataloader(items, opt, num_gpu=1, dist=False, sampler=sampler, seed=7)
    result = []
    for _ in range(epochs):
        sampler.set_epoch(0)  # the same order of images in every epoch, to compare crops
        result.append(torch.cat([batch["gt"] for batch in loader]))
    return result


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_crops_differ_between_epochs_and_are_the_same_after_the_same_seed(lmdb, workers):
    first = run_epochs(lmdb, workers)
    for epoch, again in zip(first, run_epochs(lmdb, workers), strict=True):
        assert (epoch == again).all()
    for one, other in ((0, 1), (1, 2), (0, 2)):
        same = (first[one] == first[other]).flatten(1).all(1)
        assert same.sum() <= 1, "BasicSR's workers draw the same crops in every epoch"


def test_crops_differ_between_workers(tmp_path):
    # One image again and again, so that the samples of a batch come from one worker each.
    write_image(
        tmp_path / "a.png",
        np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8),
    )
    (epoch,) = run_epochs(tmp_path, 2, epochs=1, batch_size_per_gpu=1)
    assert len(epoch) == 2
    assert (epoch[0] != epoch[1]).any()


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_lmdb_in_workers_after_use_in_the_main_process(lmdb, context):
    train, val = dataset(lmdb), dataset(lmdb, phase="val")
    expected = [train[0, 5]["gt"], train[1, 6]["gt"]]
    assert len(list(val)) == 4
    loader = DataLoader(
        train,
        batch_size=None,
        sampler=[(0, 5), (1, 6)],
        num_workers=2,
        multiprocessing_context=context,
    )
    for got, item in zip(expected, loader, strict=True):
        assert (got == item["gt"]).all()
    assert (train[0, 5]["gt"] == expected[0]).all()

"""Losses and weights that are not finite."""

import re
from pathlib import Path

import pytest
import torch
from poisoned_dataset import PoisonedDataset
from runs import assert_same
from training import Options, changed, train

from rescale_data.hr_dataset import HRImageDataset
from rescale_model.training.finite_check import FiniteCheck
from rescale_model.training.random_state import random_states, set_random_states
from rescale_model.training.sampler import DataPosition, ResumableSampler

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def poisoned(twelve_iterations: Options) -> Options:
    return changed(
        twelve_iterations,
        {
            "datasets: train: type": "PoisonedDataset",
            "datasets: train: batch_size_per_gpu": 1,
            "datasets: train: dataset_enlarge_ratio": 2,
            "logger: save_checkpoint_freq": 100,
            "val": None,
        },
    )


@pytest.fixture
def bad(lmdb: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The first iteration with the poisoned image, which comes last."""
    dataset = HRImageDataset({"phase": "val", "dataroot_gt": str(lmdb)})
    sampler = ResumableSampler(dataset, 1, 0, 2, seed=3, start=DataPosition())
    names = [Path(dataset[index]["gt_path"]).name for index, _ in sampler]  # type: ignore[misc]
    first = {name: names.index(name) + 1 for name in names}
    monkeypatch.setattr(
        PoisonedDataset, "culprit", max(first, key=first.__getitem__), raising=False
    )
    return max(first.values())


def test_a_loss_that_is_not_finite_stops_with_the_state_of_before(
    poisoned: Options, bad: int, tmp_path: Path
) -> None:
    culprit = PoisonedDataset.culprit
    message = rf"iteration {bad}, scale [\d.]+: not finite: .*l_pix is nan; images: .*/{culprit}; "
    with pytest.raises(ValueError, match=message):
        train(tmp_path, poisoned)
    experiment = tmp_path / "experiments" / "small"
    states = [path.name for path in (experiment / "training_states").iterdir()]
    assert states == [f"{bad - 1}.state"]

    # the state is that of a run that ended there: with valid images it continues
    sound = changed(poisoned, {"datasets: train: type": "HRImageDataset"})
    train(tmp_path, sound, "--auto_resume")
    alone = tmp_path / "alone"
    alone.mkdir()
    train(alone, sound)
    files = [path / "experiments/small/models/net_g_latest.pth" for path in (tmp_path, alone)]
    assert_same(*(torch.load(file) for file in files))


def test_steps_that_are_not_finite_can_be_skipped(
    poisoned: Options, bad: int, tmp_path: Path
) -> None:
    train(tmp_path, changed(poisoned, {"train: skip_non_finite": True}))
    experiment = tmp_path / "experiments" / "small"
    text = next(experiment.glob("*.log")).read_text()
    # twelve iterations: two in the first epoch of eight, and what comes of the second
    told = re.findall(rf"WARNING: Skipped iteration (\d+), .*/{PoisonedDataset.culprit}", text)
    assert int(told[0]) == bad
    skipped = len(told)
    assert skipped >= 2
    assert re.search(r"iter: +12, .* skipped: " + re.escape(f"{skipped:.4e}"), text)
    weights = torch.load(experiment / "models" / "net_g_latest.pth")
    for key in ("params", "params_ema"):
        assert all(bool(value.isfinite().all()) for value in weights[key].values())


def test_non_finite_weights_are_not_saved(twelve_iterations: Options, tmp_path: Path) -> None:
    """A step that overflows while its loss is finite is found one step later."""
    changes = {
        "train: optim_g": {"type": "SGD", "lr": 3e38},
        "train: guide_opt: loss_weight": 1e5,
        "train: warmup_iter": -1,
        "val": None,
    }
    options = changed(twelve_iterations, changes)
    with pytest.raises(ValueError, match=r"iteration 2, .*the weights are no longer finite"):
        train(tmp_path, options)
    assert not list((tmp_path / "experiments" / "small").rglob("*.state"))


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    for value, passes in ((1.0, True), (float("nan"), False), (float("inf"), False)):
        assert FiniteCheck(torch.tensor([0.0, value], device="cuda")).passed() == passes
    states = random_states()
    drawn = torch.rand(3, device="cuda")
    set_random_states(states)
    assert torch.equal(torch.rand(3, device="cuda"), drawn)

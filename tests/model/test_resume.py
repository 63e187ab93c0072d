"""Stopping and resuming: exact, after signals, kill -9, damaged files, non-finite losses."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree
from typing import Any, ClassVar

import rescale_compat  # noqa: F401  must precede basicsr

import pytest
import torch
from basicsr.utils.registry import DATASET_REGISTRY
from test_vqgan_model import vqgan_options
from test_vqir_model import VQ
from test_vqir_model import train_options as vqir_options
from torch import Tensor
from training import NETWORK, changed, logged, train, train_options, write_options

from rescale_arch import AIDN, VQGAN, VQIR
from rescale_data.atomic import TEMPORARY_PREFIX
from rescale_data.hr_dataset import HRImageDataset, Sample
from rescale_model.training.finite_check import FiniteCheck
from rescale_model.training.random_state import random_states, set_random_states
from rescale_model.training.sampler import DataPosition, ResumableSampler

Options = dict[str, Any]
RESCALE = (sys.executable, "-m", "rescale_app.cli")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes that tests start, since sums depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def options(lmdb: Path, hr_folder: Path) -> Options:
    """Twelve iterations in epochs of eight, which save and validate in the midst of one."""
    return changed(
        train_options(lmdb, hr_folder),
        {
            "train: total_iter": 12,
            "train: warmup_iter": 3,
            "train: scheduler": {
                "type": "CosineAnnealingRestartLR",
                "periods": [7, 7],
                "restart_weights": [1, 0.5],
            },
            "logger: save_checkpoint_freq": 5,
            "val: val_freq": 5,
        },
    )


@pytest.fixture(scope="module")
def whole(options: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment of a run that nothing stopped. Copy it before writing into it."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, options)
    return folder / "experiments" / "small"


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """To the bit, and in the memory format of tensors as well."""
    assert type(found) is type(expected), where
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected), where
        assert found.stride() == expected.stride(), where
    elif isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            assert_same(found[key], value, f"{where}[{key!r}]")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            assert_same(found[number], value, f"{where}[{number}]")
    else:
        assert found == expected, where


def assert_same_run(experiment: Path, expected: Path) -> None:
    """The same weights in the end, and the same state at the last save."""
    last = max(int(path.stem) for path in (expected / "training_states").iterdir())
    names = [f"training_states/{last}.state"]
    names += [f"models/{path.name}" for path in (expected / "models").glob("*_latest.pth")]
    for name in names:
        assert_same(torch.load(experiment / name), torch.load(expected / name), name)


def forget_after(experiment: Path, iteration: int) -> None:
    """Restores the folder to its state just after ``iteration`` was saved."""
    for path in [*experiment.rglob("*.pth"), *experiment.rglob("*.state")]:
        number = path.stem.split("_")[-1]
        if not number.isdecimal() or int(number) > iteration:
            path.unlink()
    for log in experiment.glob("*.log"):
        log.unlink()


# exact ------------------------------------------------------------------------------------------


WORKERS = {"num_worker_per_gpu": 2}
PREFETCH = {"num_worker_per_gpu": 1, "prefetch_mode": "cpu", "num_prefetch_queue": 3}
PERSISTENT = {"num_worker_per_gpu": 1, "persistent_workers": True}


@pytest.mark.parametrize(
    ("saved", "loading"),
    [
        (5, {}),
        (10, WORKERS),
        pytest.param(5, WORKERS, marks=pytest.mark.slow),
        pytest.param(10, PREFETCH, marks=pytest.mark.slow),
        pytest.param(5, PERSISTENT, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_ends_as_one_that_was_not_stopped(
    options: Options, whole: Path, tmp_path: Path, saved: int, loading: Options
) -> None:
    experiment = tmp_path / "experiments" / "small"
    copytree(whole, experiment)
    forget_after(experiment, saved)
    changes = {f"datasets: train: {key}": value for key, value in loading.items()}
    train(tmp_path, changed(options, changes), "--auto_resume")
    assert_same_run(experiment, whole)
    assert list(logged(experiment)) == list(range(saved + 1, 13))


def test_without_a_seed_the_one_that_was_drawn_is_kept(options: Options, tmp_path: Path) -> None:
    options = changed(options, {"manual_seed": ..., "val": None})
    random.seed()  # as in a new process
    train(tmp_path, options)
    experiment = tmp_path / "experiments" / "small"
    copytree(experiment, tmp_path / "whole")
    forget_after(experiment, 5)
    train(tmp_path, options, "--auto_resume")
    assert_same_run(experiment, tmp_path / "whole")
    assert "Using the seed of the training state" in next(experiment.glob("*.log")).read_text()


def test_the_best_results_are_kept(options: Options, whole: Path, tmp_path: Path) -> None:
    experiment = tmp_path / "experiments" / "small"
    copytree(whole, experiment)
    forget_after(experiment, 10)
    record = experiment / "visualization" / "whole" / "metrics_5.json"
    summary = json.loads(record.read_text())
    summary["mean"]["x2.5"] |= {"psnr_y": "inf", "lr_psnr": 99.0}
    record.write_text(json.dumps(summary))
    train(tmp_path, options, "--auto_resume")
    text = next(experiment.glob("*.log")).read_text()
    assert re.search(r"x2\.5 .*\(best inf @ 5\) .*\(best 99\.0000 @ 5\)", text)


def other_model(model: str, folder: Path, lmdb: Path, hr_folder: Path) -> Options:
    if model == "aidn of a teacher":
        network = {key: value for key, value in NETWORK.items() if key != "type"}
        torch.save(AIDN(**network).state_dict(), folder / "teacher.pth")
        return changed(
            train_options(lmdb, hr_folder),
            {
                "network_g: down_unshuffle": 2,
                "path: pretrain_network_teacher": str(folder / "teacher.pth"),
                "train: teacher_iter": 6,  # up_net has no state of the optimizer yet
            },
        )
    if model == "vqgan":
        return changed(
            vqgan_options(lmdb, hr_folder),
            {"train: revive_codes": 4, "train: gan_start": 4, "train: ema_decay": 0.9},
        )
    start = folder / "start.pth"
    if model == "stage 1":
        torch.save(VQGAN(**VQ).state_dict(), start)
        return changed(vqir_options(1, start, lmdb, hr_folder), {"train: ema_decay": 0.9})
    torch.save(VQIR(factor=16, stage=1, **VQ).state_dict(), start)
    return vqir_options(2, start, lmdb, hr_folder)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vqgan", "stage 1", "stage 2", "aidn of a teacher"])
def test_the_other_models_resume_as_exactly(
    model: str, lmdb: Path, hr_folder: Path, tmp_path: Path
) -> None:
    options = changed(
        other_model(model, tmp_path, lmdb, hr_folder),
        {"train: total_iter": 7, "logger: save_checkpoint_freq": 5, "val": None},
    )
    train(tmp_path, options)
    experiment = tmp_path / "experiments" / options["name"]
    expected = copytree(experiment, tmp_path / "whole")
    forget_after(experiment, 5)
    train(tmp_path, options, "--auto_resume")
    assert_same_run(experiment, expected)


# the order of the data --------------------------------------------------------------------------


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


# damaged files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["state", "weights", "no weights"])
def test_if_the_newest_state_is_damaged_the_previous_one_is_used(
    options: Options, whole: Path, tmp_path: Path, damage: str
) -> None:
    experiment = tmp_path / "experiments" / "small"
    copytree(whole, experiment)
    forget_after(experiment, 10)
    if damage == "state":
        culprit = experiment / "training_states" / "10.state"
    else:
        culprit = experiment / "models" / "net_g_10.pth"
    if damage == "no weights":
        culprit.unlink()
    else:
        culprit.write_bytes(culprit.read_bytes()[:-1000])
    unfinished = experiment / "models" / f"{TEMPORARY_PREFIX}0123.pth"
    unfinished.touch()
    train(tmp_path, options, "--auto_resume")
    assert list(logged(experiment)) == list(range(6, 13))
    text = next(experiment.glob("*.log")).read_text()
    assert re.search(rf"WARNING: .*{culprit.name}", text)
    assert not unfinished.exists()
    assert_same_run(experiment, whole)


def test_a_state_of_other_optimizers(options: Options, whole: Path, tmp_path: Path) -> None:
    experiment = tmp_path / "experiments" / "small"
    copytree(whole, experiment)
    path = experiment / "training_states" / "10.state"
    state = torch.load(path)
    torch.save({**state, "optimizers": []}, path)
    with pytest.raises(ValueError, match=r"10\.state: holds 0 optimizers"):
        train(tmp_path, options, "--auto_resume")


# signals ----------------------------------------------------------------------------------------


@contextmanager
def running(folder: Path, options: Options, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """``rescale train`` in a separate process, which is terminated at the end of the block."""
    path = write_options(folder / "train.yml", options)
    with open(folder / "output.txt", "ab") as output:
        process = subprocess.Popen(
            [*RESCALE, "train", "-opt", str(path), *arguments],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for_iteration(process: subprocess.Popen[bytes], experiment: Path, least: int) -> None:
    for _ in range(6000):
        if max(logged(experiment), default=0) >= least:
            return
        assert process.poll() is None, (experiment.parents[1] / "output.txt").read_text()
        time.sleep(0.05)
    raise TimeoutError(f"no iteration {least} in five minutes")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "workers"), [(signal.SIGTERM, 143, 1), (signal.SIGINT, 130, 0)]
)
def test_a_signal_saves_and_leaves(
    options: Options, whole: Path, tmp_path: Path, number: int, code: int, workers: int
) -> None:
    # many iterations, so that it does not end before the signal
    long = changed(
        options, {"train: total_iter": 900, "datasets: train: num_worker_per_gpu": workers}
    )
    long["train"]["scheduler"]["periods"] = [7, 993]
    experiment = tmp_path / "experiments" / "small"
    with running(tmp_path, long) as process:
        wait_for_iteration(process, experiment, 6)
        process.send_signal(number)
        assert process.wait(120) == code
    output = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in output
    last = max(logged(experiment))
    assert f"--auto_resume continues from iteration {last}." in output
    assert (experiment / "training_states" / f"{last}.state").is_file()
    assert (experiment / "models" / f"net_g_{last}.pth").is_file()

    long["train"]["total_iter"] = last + 5
    train(tmp_path, long, "--auto_resume")
    alone = tmp_path / "alone"
    alone.mkdir()
    train(alone, long)
    files = [
        path / "models" / "net_g_latest.pth" for path in (experiment, alone / "experiments/small")
    ]
    assert_same(*(torch.load(file) for file in files))


@pytest.mark.slow
def test_a_signal_ends_a_validation(options: Options, tmp_path: Path) -> None:
    scales = [1.1 + 0.01 * number for number in range(280)]
    endless = changed(options, {"val: scales": scales, "val: val_freq": 3})
    experiment = tmp_path / "experiments" / "small"
    with running(tmp_path, endless) as process:
        wait_for_iteration(process, experiment, 3)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 143
    assert (experiment / "training_states" / "3.state").is_file()
    assert not list(experiment.rglob("metrics_*"))


@pytest.mark.slow
def test_kill_9_at_any_moment(options: Options, tmp_path: Path) -> None:
    options = changed(
        options,
        {
            "train: total_iter": 24,
            "train: scheduler": {"type": "MultiStepLR", "milestones": [8, 16]},
            "logger: save_checkpoint_freq": 1,
            "datasets: train: num_worker_per_gpu": 1,
        },
    )
    alone = tmp_path / "alone"
    alone.mkdir()
    train(alone, options)
    experiment = tmp_path / "experiments" / "small"
    moments = random.Random(1)
    for reached in (3, 12):
        with running(tmp_path, options, "--auto_resume") as process:
            wait_for_iteration(process, experiment, reached)
            time.sleep(moments.uniform(0, 0.3))
            process.kill()
            assert process.wait() == -signal.SIGKILL
    train(tmp_path, options, "--auto_resume")
    assert_same_run(experiment, alone / "experiments" / "small")


# losses that are not finite ---------------------------------------------------------------------


@DATASET_REGISTRY.register()
class PoisonedDataset(HRImageDataset):
    """One of the images is not a number."""

    culprit: ClassVar[str]

    def __getitem__(self, index: int | tuple[int, int]) -> Sample:
        sample = super().__getitem__(index)
        if sample["gt_path"].endswith(self.culprit):
            sample["gt"] = sample["gt"] * torch.nan
        return sample


@pytest.fixture
def poisoned(options: Options) -> Options:
    return changed(
        options,
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


def test_non_finite_weights_are_not_saved(options: Options, tmp_path: Path) -> None:
    """A step that overflows while its loss is finite is found one step later."""
    changes = {
        "train: optim_g": {"type": "SGD", "lr": 3e38},
        "train: guide_opt: loss_weight": 1e5,
        "train: warmup_iter": -1,
        "val": None,
    }
    options = changed(options, changes)
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

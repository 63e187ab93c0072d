"""Runs that are resumed end as those that were not stopped, also after damage to a file."""

import json
import random
import re
from pathlib import Path
from shutil import copytree

import pytest
import torch
from runs import assert_same_run, forget_after
from tiny_networks import AIDN_TINY
from training import Options, changed, logged, train, train_options
from vq_training import VQ, vqgan_options, vqir_train_options

from rescale_arch import AIDN, VQGAN, VQIR
from rescale_data.atomic import TEMPORARY_PREFIX

WORKERS = {"num_worker_per_gpu": 2}
PREFETCH = {"num_worker_per_gpu": 1, "prefetch_mode": "cpu", "num_prefetch_queue": 3}
PERSISTENT = {"num_worker_per_gpu": 1, "persistent_workers": True}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def whole(
    twelve_iterations: Options, one_thread: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The experiment of a run that nothing stopped. Copy it before writing into it."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder, twelve_iterations)
    return folder / "experiments" / "small"


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
    twelve_iterations: Options, whole: Path, tmp_path: Path, saved: int, loading: Options
) -> None:
    experiment = tmp_path / "experiments" / "small"
    copytree(whole, experiment)
    forget_after(experiment, saved)
    changes = {f"datasets: train: {key}": value for key, value in loading.items()}
    train(tmp_path, changed(twelve_iterations, changes), "--auto_resume")
    assert_same_run(experiment, whole)
    assert list(logged(experiment)) == list(range(saved + 1, 13))


def test_without_a_seed_the_one_that_was_drawn_is_kept(
    twelve_iterations: Options, tmp_path: Path
) -> None:
    options = changed(twelve_iterations, {"manual_seed": ..., "val": None})
    random.seed()  # as in a new process
    train(tmp_path, options)
    experiment = tmp_path / "experiments" / "small"
    copytree(experiment, tmp_path / "whole")
    forget_after(experiment, 5)
    train(tmp_path, options, "--auto_resume")
    assert_same_run(experiment, tmp_path / "whole")
    assert "Using the seed of the training state" in next(experiment.glob("*.log")).read_text()


def test_the_best_results_are_kept(twelve_iterations: Options, whole: Path, tmp_path: Path) -> None:
    experiment = tmp_path / "experiments" / "small"
    copytree(whole, experiment)
    forget_after(experiment, 10)
    record = experiment / "visualization" / "whole" / "metrics_5.json"
    summary = json.loads(record.read_text())
    summary["mean"]["x2.5"] |= {"psnr_y": "inf", "lr_psnr": 99.0}
    record.write_text(json.dumps(summary))
    train(tmp_path, twelve_iterations, "--auto_resume")
    text = next(experiment.glob("*.log")).read_text()
    assert re.search(r"x2\.5 .*\(best inf @ 5\) .*\(best 99\.0000 @ 5\)", text)


def other_model(model: str, folder: Path, lmdb: Path, hr_folder: Path) -> Options:
    if model == "aidn of a teacher":
        torch.save(AIDN(**AIDN_TINY).state_dict(), folder / "teacher.pth")
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
        return changed(vqir_train_options(1, start, lmdb, hr_folder), {"train: ema_decay": 0.9})
    torch.save(VQIR(factor=16, stage=1, **VQ).state_dict(), start)
    return vqir_train_options(2, start, lmdb, hr_folder)


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


@pytest.mark.parametrize("damage", ["state", "weights", "no weights"])
def test_if_the_newest_state_is_damaged_the_previous_one_is_used(
    twelve_iterations: Options, whole: Path, tmp_path: Path, damage: str
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
    train(tmp_path, twelve_iterations, "--auto_resume")
    assert list(logged(experiment)) == list(range(6, 13))
    text = next(experiment.glob("*.log")).read_text()
    assert re.search(rf"WARNING: .*{culprit.name}", text)
    assert not unfinished.exists()
    assert_same_run(experiment, whole)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, None),
        ({"train: total_iter": 13}, None),
        ({"train: scheduler: periods": [9, 9]}, "periods"),
        ({"train: optim_g: lr": 1.0, "train: optim_g: betas": [0.5, 0.9]}, "betas, lr"),
    ],
)
def test_changes_without_effect_are_reported(
    twelve_iterations: Options, whole: Path, tmp_path: Path, changes: Options, names: str | None
) -> None:
    experiment = tmp_path / "experiments" / "small"
    copytree(whole, experiment)
    forget_after(experiment, 10)
    train(tmp_path, changed(twelve_iterations, {**changes, "val": None}), "--auto_resume")
    text = next(experiment.glob("*.log")).read_text()
    found = re.search(r"WARNING: .*10\.state: .* changes have no effect: (.*)", text)
    assert (found and found[1]) == names
    assert logged(experiment)[12]["lr"] == pytest.approx(logged(whole)[12]["lr"])


def test_a_state_of_other_optimizers(
    twelve_iterations: Options, whole: Path, tmp_path: Path
) -> None:
    experiment = tmp_path / "experiments" / "small"
    copytree(whole, experiment)
    path = experiment / "training_states" / "10.state"
    state = torch.load(path)
    torch.save({**state, "optimizers": []}, path)
    with pytest.raises(ValueError, match=r"10\.state: holds 0 optimizers"):
        train(tmp_path, twelve_iterations, "--auto_resume")

"""Several processes on the CPU, with ``torchrun``."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from shutil import copy, copytree
from socket import socket

import pytest
import torch
from runs import TWO_PROCESSES, assert_same, forget_after, torchrun, wait_for_iteration
from training import (
    Options,
    changed,
    command,
    logged,
    test,
    test_options,
    train,
    train_options,
    write_options,
)

from rescale_app.cli import main
from rescale_arch import AIDN
from rescale_data.image_file import read_image
from rescale_data.prepare import build_lmdb

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("ema_decay", [0, 0.5])
def test_two_processes_agree_with_one(tmp_path: Path, hr_folder: Path, ema_decay: float) -> None:
    build_lmdb(hr_folder, tmp_path / "train.lmdb")
    options = changed(
        train_options(tmp_path / "train.lmdb", hr_folder),
        {
            "train: total_iter": 6,
            "train: ema_decay": ema_decay,
            "train: optim_g: lr": 1e-2,
            "val: val_freq": 100,
            "logger: save_checkpoint_freq": 6,
            "manual_seed": ...,  # the ranks have to agree on a seed
        },
    )
    torchrun(tmp_path, "train", options)
    experiment = tmp_path / "experiments" / "small"
    assert list(logged(experiment)) == list(range(1, 7))
    assert len(list(experiment.glob("train_*.log"))) == 1
    models = {path.name for path in (experiment / "models").iterdir()}
    assert models == {"net_g_6.pth", "net_g_latest.pth"}
    assert [path.name for path in (experiment / "training_states").iterdir()] == ["6.state"]

    # what the two have validated is what was saved, batch statistics included
    weights = experiment / "models" / "net_g_latest.pth"
    assert torch.load(weights)["params"]["down_net.sa_adapt.0.mask.1.num_batches_tracked"] == 6
    key = "params_ema" if ema_decay else "params"
    tests = changed(test_options(hr_folder, weights), {"path: param_key_g": key})
    alone = test(tmp_path, tests)
    in_training = experiment / "visualization" / "whole" / "metrics_6.json"
    summaries = [json.loads(path.read_text()) for path in (in_training, alone / "metrics.json")]
    assert [row["image"] for row in summaries[0]["images"]] == [
        "astronaut", "chelsea", "coffee", "rocket"
    ]  # fmt: skip
    for name, value in summaries[1]["mean"]["x2.5"].items():
        assert summaries[0]["mean"]["x2.5"][name] == pytest.approx(value, rel=1e-5), name


def test_two_processes_test_as_one_does(tmp_path: Path, hr_folder: Path) -> None:
    weights = tmp_path / "net.pth"
    torch.save(AIDN(num_feat=8, num_block=2, adapt_interval=1).state_dict(), weights)
    # bf16 depends on the number of threads
    options = changed(test_options(hr_folder, weights), {"val: precision": "fp32"})
    torchrun(tmp_path, "test", options | {"name": "two"})
    two = tmp_path / "results" / "two" / "visualization" / "whole"
    one = test(tmp_path, options | {"name": "one"})
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    for path in one.iterdir():
        if path.suffix in (".csv", ".json") and path.name != "options.json":
            assert (two / path.name).read_text() == path.read_text(), path.name


def trained_by_one_and_two(folder: Path, options: Options) -> list[Path]:
    """The experiments of one process with the joint batch, and of two with half of it each."""
    torchrun(folder, "train", options | {"name": "two"})
    joint = changed(options, {"datasets: train: batch_size_per_gpu": 4})
    train(folder, joint | {"name": "one"})
    return [folder / "experiments" / name for name in ("one", "two")]


def test_two_processes_train_as_one_on_the_joint_batch(tmp_path: Path, hr_folder: Path) -> None:
    """The network of one scale has no batch norm; gradients of both halves are averaged."""
    build_lmdb(hr_folder, tmp_path / "train.lmdb")
    options = changed(
        train_options(tmp_path / "train.lmdb", hr_folder),
        {
            "network_g: fixed_scale": 2,
            "train: scales": ...,
            "train: optim_g": {"type": "SGD", "lr": 0.05, "momentum": 0.9},
            "train: total_iter": 10,
            "val": None,
        },
    )
    experiments = trained_by_one_and_two(tmp_path, options)
    one, two = (torch.load(path / "models" / "net_g_latest.pth") for path in experiments)
    for key in ("params", "params_ema"):
        for name, value in one[key].items():
            torch.testing.assert_close(two[key][name], value, rtol=0, atol=1e-5)
    # the log has the losses of both halves
    alone, both = map(logged, experiments)
    for iteration, entry in alone.items():
        assert both[iteration]["l_pix"] == pytest.approx(entry["l_pix"], rel=1e-3)


def test_two_processes_learn_from_a_teacher(tmp_path: Path, hr_folder: Path) -> None:
    """In its iterations, the gradients of up_net are missing on every rank."""
    build_lmdb(hr_folder, tmp_path / "train.lmdb")
    teacher = AIDN(num_feat=8, num_block=2, fixed_scale=2)
    torch.save(teacher.state_dict(), tmp_path / "teacher.pth")
    options = changed(
        train_options(tmp_path / "train.lmdb", hr_folder),
        {
            "network_g: fixed_scale": 2,
            "network_g: down_num_feat": 16,
            "path: pretrain_network_teacher": str(tmp_path / "teacher.pth"),
            "find_unused_parameters": True,
            "train: scales": ...,
            "train: optim_g": {"type": "SGD", "lr": 0.05, "momentum": 0.9},
            "train: teacher_iter": 4,
            "train: total_iter": 6,
            "val": None,
        },
    )
    experiments = trained_by_one_and_two(tmp_path, options)
    one, two = (torch.load(path / "models" / "net_g_latest.pth") for path in experiments)
    for name, value in one["params"].items():
        torch.testing.assert_close(two["params"][name], value, rtol=0, atol=1e-5)

    path = write_options(tmp_path / "train.yml", changed(options, {"find_unused_parameters": ...}))
    refused = command(
        tmp_path,
        *TWO_PROCESSES,
        *("-m", "rescale_app.cli", "train", "-opt", path, "--launcher", "pytorch"),
    )
    assert refused.returncode != 0
    assert "error: option find_unused_parameters: true is required" in refused.stderr


@pytest.mark.parametrize("batch", [1, 2])
def test_data_that_does_not_divide_by_the_processes(
    tmp_path: Path, hr_folder: Path, batch: int
) -> None:
    (tmp_path / "three").mkdir()
    for path in sorted(hr_folder.glob("*.png"))[:3]:
        copy(path, tmp_path / "three")
    options = changed(
        train_options(tmp_path / "three", hr_folder),
        {
            "datasets: train: io_backend": ...,
            "datasets: train: dataset_enlarge_ratio": 1,
            "datasets: train: batch_size_per_gpu": batch,
            "train: total_iter": 7,
            "val": None,
        },
    )
    torchrun(tmp_path, "train", options)
    assert list(logged(tmp_path / "experiments" / "small")) == list(range(1, 8))


def test_two_machines_with_data_of_different_length(tmp_path: Path, hr_folder: Path) -> None:
    """One passes over its data twice while the other does once; neither waits forever."""
    names = sorted(hr_folder.glob("*.png"))
    processes = []
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for rank, own in enumerate((names[:1], names)):
        folder = tmp_path / str(rank)
        (folder / "data").mkdir(parents=True)
        for path in own:
            copy(path, folder / "data")
        options = changed(
            train_options(Path("data"), Path("data")),
            {"datasets: train: io_backend": ..., "train: total_iter": 20, "val": None},
        )
        path = write_options(folder / "train.yml", options)
        processes.append(
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"),
                    *("--nproc_per_node", "1", "--node_rank", str(rank)),
                    *("--master_addr", "127.0.0.1", "--master_port", str(port)),
                    *("-m", "rescale_app.cli", "train", "-opt", path, "--launcher", "pytorch"),
                ],
                cwd=folder,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        for process in processes:
            _, error = process.communicate(timeout=300)
            assert process.returncode == 0, error
    finally:
        for process in processes:
            process.kill()
    assert list(logged(tmp_path / "0" / "experiments" / "small")) == list(range(1, 21))


def test_a_signal_stops_both_after_the_same_step(tmp_path: Path, hr_folder: Path) -> None:
    build_lmdb(hr_folder, tmp_path / "train.lmdb")
    options = changed(
        train_options(tmp_path / "train.lmdb", hr_folder),
        {"train: total_iter": 2000, "val": None, "logger: save_checkpoint_freq": 5000},
    )
    path = write_options(tmp_path / "train.yml", options)
    experiment = tmp_path / "experiments" / "small"
    with open(tmp_path / "output.txt", "w") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, *TWO_PROCESSES, "-m", "rescale_app.cli", "train"),
                *("-opt", path, "--launcher", "pytorch"),
            ],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        wait_for_iteration(process, experiment, 4)
        process.terminate()
        process.wait(60)
    finally:
        process.kill()
    last = max(logged(experiment))
    assert [path.name for path in (experiment / "training_states").iterdir()] == [f"{last}.state"]
    text = next(experiment.glob("train_*.log")).read_text()
    assert f"--auto_resume continues from iteration {last}." in text
    state = torch.load(experiment / "training_states" / f"{last}.state")
    assert len(state["random_states"]) == 2

    torchrun(tmp_path, "train", changed(options, {"train: total_iter": last + 3}), "--auto_resume")
    assert max(logged(experiment)) == last + 3


def test_a_resumed_pair_ends_as_one_that_was_not_stopped(tmp_path: Path, hr_folder: Path) -> None:
    build_lmdb(hr_folder, tmp_path / "train.lmdb")
    options = changed(
        train_options(tmp_path / "train.lmdb", hr_folder),
        {
            "train: total_iter": 6,
            "network_g: jpeg_quality": 90,
            "train: jpeg": {},
            "val": None,
            "logger: save_checkpoint_freq": 3,
        },
    )
    torchrun(tmp_path, "train", options)
    experiment = tmp_path / "experiments" / "small"
    whole = torch.load(experiment / "models" / "net_g_latest.pth")
    forget_after(experiment, 3)
    torchrun(tmp_path, "train", options, "--auto_resume")
    assert list(logged(experiment)) == [4, 5, 6]
    assert_same(torch.load(experiment / "models" / "net_g_latest.pth"), whole)


@pytest.mark.parametrize("skip", [False, True])
def test_a_loss_of_one_process_concerns_both(tmp_path: Path, hr_folder: Path, skip: bool) -> None:
    (tmp_path / "poisoned.py").write_text(
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from poisoned_dataset import PoisonedDataset\n"
        "from rescale_app.cli import main\n"
        "PoisonedDataset.culprit = 'coffee.png'\n"
        "code = main(sys.argv[1:])\n"
        # torchrun kills the other process when the first fails: each waits for the other's message
        "Path('left' + os.environ['RANK']).touch()\n"
        "end = time.monotonic() + 60\n"
        "while len(list(Path().glob('left?'))) < 2 and time.monotonic() < end:\n"
        "    time.sleep(0.1)\n"
        "sys.exit(code)\n"
    )
    options = changed(
        train_options(hr_folder, hr_folder),
        {
            "datasets: train: type": "PoisonedDataset",
            "datasets: train: io_backend": ...,
            "datasets: train: batch_size_per_gpu": 1,
            "datasets: train: dataset_enlarge_ratio": 1,
            "train: total_iter": 6,
            "train: skip_non_finite": skip,
            "val": None,
        },
    )
    path = write_options(tmp_path / "train.yml", options)
    result = command(
        tmp_path,
        *TWO_PROCESSES,
        *("-m", "poisoned", "train", "-opt", path, "--launcher", "pytorch"),
        modules=Path(f"{tmp_path}{os.pathsep}{Path(__file__).parents[1]}"),
    )
    experiment = tmp_path / "experiments" / "small"
    if skip:
        assert result.returncode == 0, result.stderr
        text = next(experiment.glob("train_*.log")).read_text()
        # two steps an epoch, one of which has the image on one of the ranks
        assert len(re.findall(r"Skipped iteration .*/coffee\.png\n", text)) == 3
        weights = torch.load(experiment / "models" / "net_g_latest.pth")["params"]
        assert all(bool(value.isfinite().all()) for value in weights.values())
    else:
        assert result.returncode != 0
        lines = re.findall(r"rescale: error: iteration [12], .*/coffee\.png; .*", result.stderr)
        assert len(lines) == 2


def test_files_are_distributed(tmp_path: Path, hr_folder: Path) -> None:
    weights = tmp_path / "net.pth"
    torch.save(AIDN(num_feat=8, num_block=2, adapt_interval=1).state_dict(), weights)
    copytree(hr_folder, tmp_path / "hr")

    def run(kind: str, source: str, out: str, *options: str) -> subprocess.CompletedProcess[str]:
        return command(
            tmp_path,
            *TWO_PROCESSES,
            *("-m", "rescale_app.cli", kind, source, "-o", out, "--weights", weights, *options),
            *("--precision", "fp32", "--launcher", "pytorch"),
        )

    result = run("down", "hr", "two", "-s", "2")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("4 of 4 images written to two") == 1
    alone = ["down", f"{tmp_path}/hr", "-o", f"{tmp_path}/one", "--weights", str(weights)]
    assert main([*alone, "--precision", "fp32", "-s", "2"]) == 0
    for path in (tmp_path / "one").iterdir():
        assert (read_image(tmp_path / "two" / path.name) == read_image(path)).all()

    # one process fails immediately; the other is not terminated, and both report errors
    (tmp_path / "two" / "astronaut.png").write_bytes(b"no image")
    result = run("up", "two", "back")
    assert result.returncode == 1
    assert "3 of 4 images written to back" in result.stdout
    assert "error: two/astronaut.png" in result.stderr
    assert len(list((tmp_path / "back").iterdir())) == 3

"""Runs that are stopped: by SIGTERM, by SIGINT, and by SIGKILL at any moment."""

import random
import signal
import time
from pathlib import Path

import pytest
import torch
from runs import assert_same, assert_same_run, running, wait_for_iteration
from training import Options, changed, logged, train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "workers"), [(signal.SIGTERM, 143, 1), (signal.SIGINT, 130, 0)]
)
def test_a_signal_saves_and_leaves(
    twelve_iterations: Options, tmp_path: Path, number: int, code: int, workers: int
) -> None:
    # many iterations, so that it does not end before the signal
    long = changed(
        twelve_iterations,
        {"train: total_iter": 900, "datasets: train: num_worker_per_gpu": workers},
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
def test_a_signal_ends_a_validation(twelve_iterations: Options, tmp_path: Path) -> None:
    scales = [1.1 + 0.01 * number for number in range(280)]
    endless = changed(twelve_iterations, {"val: scales": scales, "val: val_freq": 3})
    experiment = tmp_path / "experiments" / "small"
    with running(tmp_path, endless) as process:
        wait_for_iteration(process, experiment, 3)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 143
    assert (experiment / "training_states" / "3.state").is_file()
    assert not list(experiment.rglob("metrics_*"))


@pytest.mark.slow
def test_kill_9_at_any_moment(twelve_iterations: Options, tmp_path: Path) -> None:
    options = changed(
        twelve_iterations,
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

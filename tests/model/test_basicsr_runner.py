"""BasicSR's own scripts, unmodified, from a copy of the installed package."""

import csv
import json
from pathlib import Path

import pytest
import torch
from runs import copy_basicsr
from training import changed, command, logged, test_options, train_options, write_options

from rescale_data.image_file import read_info
from rescale_data.prepare import build_lmdb

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path, hr_folder: Path) -> Path:
    """A folder with a copy of BasicSR and an LMDB in it, and nothing else."""
    copy_basicsr(tmp_path)
    build_lmdb(hr_folder, tmp_path / "train.lmdb")
    return tmp_path


def test_its_scripts_train_and_test_and_the_command_continues(
    folder: Path, hr_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = changed(
        train_options(folder / "train.lmdb", hr_folder),
        {"train: total_iter": 8, "logger: save_checkpoint_freq": 4, "val: val_freq": 4},
    )
    experiment = folder / "experiments" / "small"

    path = write_options(folder / "train.yml", options)
    result = command(folder, "basicsr/train.py", "-opt", path)
    assert result.returncode == 0, result.stderr
    log = logged(experiment)
    assert list(log) == list(range(1, 9))
    for name in ("l_pix", "l_guide"):
        assert log[8][name] < log[1][name]
    weights = experiment / "models" / "net_g_latest.pth"
    assert torch.load(weights).keys() == {"params", "params_ema", "config"}

    tests = test_options(hr_folder, weights)
    path = write_options(folder / "test.yml", tests)
    with monkeypatch.context() as context:  # without the hook that starts with Python
        context.setenv("RESCALE_COMPAT", "0")
        result = command(folder, "-m", "rescale_compat", "basicsr/test.py", "-opt", path)
    assert result.returncode == 0, result.stderr
    results = folder / "results" / "evaluated"
    evaluated = results / "visualization" / "whole"
    means = json.loads((evaluated / "metrics.json").read_text())["mean"]
    assert means.keys() == {"x2.5", "x1.5x3"}
    recorded = json.loads((evaluated / "options.json").read_text())
    assert recorded["val"].items() >= tests["val"].items()  # and the defaults
    assert len(list(csv.reader((evaluated / "metrics.csv").open(newline="")))) == 1 + 2 * 4
    assert "Validation whole, 8bit protocol" in next(results.glob("test_*.log")).read_text()
    assert read_info(evaluated / "coffee_x2.5_lr.png") is not None
    assert (evaluated / "coffee_x2.5_hr.png").is_file()

    longer = changed(options, {"train: total_iter": 12})
    path = write_options(folder / "train.yml", longer)
    result = command(folder, "-m", "rescale_app.cli", "train", "-opt", path, "--auto_resume")
    assert result.returncode == 0, result.stderr
    logs = sorted(experiment.glob("train_*.log"), key=lambda path: path.stat().st_mtime)
    assert len(logs) == 2
    assert "iter: 8." in logs[1].read_text()
    assert list(logged(experiment)) == list(range(1, 13))
    state = torch.load(experiment / "training_states" / "12.state")
    assert {int(entry["step"]) for entry in state["optimizers"][0]["state"].values()} == {12}
    assert state["schedulers"][0]["last_epoch"] == 11

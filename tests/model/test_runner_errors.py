"""Errors of ``rescale train`` and ``rescale test``, and what is left after them."""

import os
import sys
from pathlib import Path
from shutil import copytree
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr

import basicsr.train
import basicsr.utils.options
import pytest
import torch
import yaml
from training import Options, changed, train
from training import write_options as write

from rescale_app.cli import main
from rescale_model import runner


def test_errors_come_before_anything_is_written(thirty_iterations: Options, tmp_path: Path) -> None:
    wrong: list[tuple[Options, tuple[str, ...], str]] = [
        (changed(thirty_iterations, {"train: totl_iter": 1}), (), "totl_iter is unknown"),
        (thirty_iterations, ("--force_yml", "train:totl_iter=1"), "totl_iter is unknown"),
        (thirty_iterations, ("--force_yml", "no:total_iter=1"), "there is no section no"),
        (changed(thirty_iterations, {"datasets: val: dataroot_gt": "/gone"}), (), "folder: /gone"),
    ]
    for changes, arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            train(tmp_path, changes, *arguments)
        assert os.listdir(tmp_path) == ["train.yml"]


@pytest.mark.parametrize("forced", [False, True])
def test_auto_takes_one_of_several_gpus_and_names_torchrun(
    forced: bool,
    four_iterations: Options,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    options = changed(four_iterations, {"num_gpu": 2 if forced else "auto"})
    # none of the four is really there
    with pytest.raises(ValueError, match="num_gpu is 1, but PyTorch finds no GPU"):
        train(tmp_path, options, *(("--force_yml", "num_gpu=auto") if forced else ()))
    assert "one of 4 GPUs; to use all: torchrun --nproc_per_node 4" in capsys.readouterr().err


def test_an_lmdb_without_its_list(thirty_iterations: Options, lmdb: Path, tmp_path: Path) -> None:
    copytree(lmdb, tmp_path / "bare.lmdb")
    (tmp_path / "bare.lmdb" / "meta_info.txt").unlink()
    wrong = changed(
        thirty_iterations, {"datasets: train: dataroot_gt": str(tmp_path / "bare.lmdb")}
    )
    with pytest.raises(ValueError, match=r"bare\.lmdb.*meta_info\.txt"):
        train(tmp_path, wrong)
    assert not (tmp_path / "experiments").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no state", r"4\.state: not a checkpoint"),
        (b"", r"4\.state: not a checkpoint"),
        (None, r"4\.state: not a training state, it lacks epoch, iter, optimizers, schedulers"),
    ],
)
def test_a_file_that_is_not_a_state_is_named(
    four_iterations: Options, tmp_path: Path, content: bytes | None, message: str
) -> None:
    folder = tmp_path / "experiments" / "small" / "training_states"
    folder.mkdir(parents=True)
    if content is None:
        torch.save({"params": {}}, folder / "4.state")
    else:
        (folder / "4.state").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        train(tmp_path, four_iterations, "--auto_resume")


def test_usage_is_basicsrs_own(capsys: pytest.CaptureFixture[str]) -> None:
    for run in (runner.train, runner.test):
        with pytest.raises(SystemExit) as caught:
            run([])
        assert caught.value.code == 2
        assert "-opt" in capsys.readouterr().err


def test_the_command_reports_an_error_in_a_line(
    thirty_iterations: Options, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "wrong.yml", changed(thirty_iterations, {"vall": {}}))
    assert main(["train", "-opt", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "wrong.yml: vall is unknown (nearest known: val)" in error


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ("no_such_package.register", "No module named 'no_such_package'"),
        ("json.nothing", "json has"),
    ],
)
def test_a_plugin_that_is_not_there(
    plugin: str, message: str, thirty_iterations: Options, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.yml"
    path.write_text(f"plugin: !!python/name:{plugin}\n" + yaml.safe_dump(thirty_iterations))
    with pytest.raises(ValueError, match=rf"wrong.yml: plugin {plugin}: .*{message}"):
        runner.train(["-opt", str(path)])


def test_basicsr_is_restored_afterwards(four_iterations: Options, tmp_path: Path) -> None:
    def state() -> tuple[Any, ...]:
        return (
            sys.argv,
            basicsr.train.parse_options,
            basicsr.train.load_resume_state,
            basicsr.train.create_train_val_dataloader,
            basicsr.utils.options.init_dist,
        )

    before = state()
    train(tmp_path, four_iterations)
    assert state() == before
    with pytest.raises(ValueError):
        train(tmp_path, changed(four_iterations, {"network_g: num_feat": 12}))
    assert state() == before

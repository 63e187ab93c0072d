"""``rescale train`` and ``rescale test``: whole runs, from an option file to results."""

import csv
import json
import re
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from training import Options, changed, command, logged, test, test_options, train
from training import write_options as write

from rescale_arch import AIDN
from rescale_data.image_file import read_info
from rescale_data.weight_file import fingerprint
from rescale_model.training.scale_schedule import ScaleSchedule


@pytest.fixture(scope="module")
def trained(thirty_iterations: Options, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run by the command. Copy it before writing into it."""
    folder = tmp_path_factory.mktemp("trained")
    with_worker = changed(thirty_iterations, {"datasets: train: num_worker_per_gpu": 1})
    path = write(folder / "train.yml", with_worker)
    result = command(folder, "-m", "rescale_app.cli", "train", "-opt", path)
    assert result.returncode == 0, result.stderr
    return folder


# training ---------------------------------------------------------------------------------------


def test_results_go_into_the_current_folder(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {"train.yml", "experiments"}
    experiment = trained / "experiments" / "small"
    files = {str(path.relative_to(experiment)) for path in experiment.rglob("*") if path.is_file()}
    assert {name for name in files if not name.endswith(".log")} == {
        "train.yml",
        "models/net_g_20.pth",
        "models/net_g_latest.pth",
        "training_states/20.state",
        "visualization/whole/metrics_20.csv",
        "visualization/whole/metrics_20.json",
        "visualization/whole/metrics_30.csv",
        "visualization/whole/metrics_30.json",
    }


def test_a_checkpoint_holds_what_others_need(trained: Path) -> None:
    for name in ("net_g_20.pth", "net_g_latest.pth"):
        checkpoint = torch.load(trained / "experiments" / "small" / "models" / name)
        assert checkpoint.keys() == {"params", "params_ema", "config"}
        AIDN(**checkpoint["config"]).load_state_dict(checkpoint["params_ema"])


def test_losses_decrease_and_are_logged(trained: Path) -> None:
    log = logged(trained / "experiments" / "small")
    assert list(log) == list(range(1, 31))
    for name in ("l_pix", "l_guide"):
        values = [entry[name] for entry in log.values()]
        assert np.mean(values[-8:]) < 0.7 * np.mean(values[:8]), name
    # the milestone counts steps of the scheduler, of which the first iteration has none
    assert [log[iteration]["lr"] for iteration in (1, 20, 21, 30)] == [2e-3, 2e-3, 1e-3, 1e-3]
    schedule = ScaleSchedule(seed=3, integer_iter=2)
    for iteration, entry in log.items():
        assert entry["scale"] == pytest.approx(schedule(iteration))


def test_the_log_has_the_table_of_every_validation(trained: Path) -> None:
    experiment = trained / "experiments" / "small"
    text = next(experiment.glob("train_*.log")).read_text()
    mean = json.loads((experiment / "visualization" / "whole" / "metrics_20.json").read_text())
    psnr, lr_psnr = (mean["mean"]["x2.5"][name] for name in ("psnr_y", "lr_psnr"))
    assert "Validation whole, 8bit protocol" in text
    row = (
        rf"x2\.5\s+{psnr:.4f} \(best {psnr:.4f} @ 20\)\s+{lr_psnr:.4f} \(best {lr_psnr:.4f} @ 20\)"
    )
    assert re.search(row, text)


def test_debug_has_a_name_and_steps_of_its_own(thirty_iterations: Options, tmp_path: Path) -> None:
    train(tmp_path, changed(thirty_iterations, {"train: total_iter": 8}), "--debug")
    experiment = tmp_path / "experiments" / "debug_small"
    assert list(logged(experiment)) == list(range(1, 9))
    assert (experiment / "models" / "net_g_8.pth").is_file()
    assert (experiment / "visualization" / "whole" / "metrics_8.csv").is_file()


def test_options_can_be_forced(four_iterations: Options, tmp_path: Path) -> None:
    train(
        tmp_path,
        four_iterations,
        "--force_yml",
        "train:total_iter=2",
        "name=forced",
        "train:ema_decay=0",
    )
    experiment = tmp_path / "experiments" / "forced"
    assert list(logged(experiment)) == [1, 2]
    assert torch.load(experiment / "models" / "net_g_2.pth").keys() == {"params", "config"}


def test_without_a_seed(four_iterations: Options, tmp_path: Path) -> None:
    train(tmp_path, changed(four_iterations, {"manual_seed": ...}))
    text = next((tmp_path / "experiments" / "small").glob("train_*.log")).read_text()
    drawn = re.search(r"manual_seed: (\d+)", text)
    assert drawn
    log = logged(tmp_path / "experiments" / "small")
    schedule = ScaleSchedule(seed=int(drawn[1]), integer_iter=2)
    assert [e["scale"] for e in log.values()] == pytest.approx([schedule(i) for i in log])


def test_the_same_seed_gives_the_same_weights(four_iterations: Options, tmp_path: Path) -> None:
    marks = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tmp_path, four_iterations | {"name": name, "manual_seed": seed})
        path = tmp_path / "experiments" / name / "models" / "net_g_latest.pth"
        marks.append(fingerprint(torch.load(path)["params"]))
    assert marks[0] == marks[1] != marks[2]


def test_the_guide_weights_may_be_a_mapping(four_iterations: Options, tmp_path: Path) -> None:
    logs = []
    for name, weights in (("list", [[1, 1], [3, 100]]), ("mapping", {1: 1, 3: 100})):
        train(tmp_path, changed(four_iterations, {"name": name, "train: guide_weights": weights}))
        logs.append(logged(tmp_path / "experiments" / name))
    assert logs[0] == logs[1]
    assert logs[1][3]["l_guide"] > 10 * logs[1][2]["l_guide"]
    text = next((tmp_path / "experiments" / "mapping").glob("train_*.log")).read_text()
    assert re.search(r"guide_weights:\[\n\s+1: 1\n\s+3: 100\n\s+\]", text)


# resuming ---------------------------------------------------------------------------------------


def test_a_run_continues_as_if_it_had_not_stopped(
    trained: Path, thirty_iterations: Options, tmp_path: Path
) -> None:
    whole = logged(trained / "experiments" / "small")
    copytree(trained / "experiments", tmp_path / "experiments")
    for log in (tmp_path / "experiments" / "small").glob("train_*.log"):
        log.unlink()
    train(tmp_path, thirty_iterations, "--auto_resume")
    experiment = tmp_path / "experiments" / "small"
    resumed = logged(experiment)
    assert list(resumed) == list(range(21, 31))
    for iteration, entry in resumed.items():
        # not to the last digit: this process may compute by more threads
        assert entry == pytest.approx(whole[iteration], rel=1e-3)
    text = next(experiment.glob("train_*.log")).read_text()
    assert "Resuming training from epoch" in text
    assert "net_g_20.pth, key params_ema" in text
    state = torch.load(experiment / "training_states" / "20.state")
    assert {int(entry["step"]) for entry in state["optimizers"][0]["state"].values()} == {20}


def test_the_newest_of_several_states_is_found(four_iterations: Options, tmp_path: Path) -> None:
    train(tmp_path, changed(four_iterations, {"train: total_iter": 10}))
    states = tmp_path / "experiments" / "small" / "training_states"
    assert {path.name for path in states.iterdir()} == {f"{n}.state" for n in (2, 4, 6, 8, 10)}
    (states / "notes.txt").touch()
    (states / "latest.state").touch()
    train(tmp_path, changed(four_iterations, {"train: total_iter": 11}), "--auto_resume")
    logs = (tmp_path / "experiments" / "small").glob("train_*.log")
    assert any("Resuming training from epoch: 1, iter: 10." in log.read_text() for log in logs)


def test_auto_resume_starts_where_there_is_nothing(
    four_iterations: Options, tmp_path: Path
) -> None:
    train(tmp_path, four_iterations, "--auto_resume")
    assert list(logged(tmp_path / "experiments" / "small")) == [1, 2, 3, 4]


def test_a_named_state_is_resumed(four_iterations: Options, tmp_path: Path) -> None:
    train(tmp_path, four_iterations)
    experiment = tmp_path / "experiments" / "small"
    for log in experiment.glob("train_*.log"):
        log.unlink()
    state = experiment / "training_states" / "2.state"
    train(tmp_path, changed(four_iterations, {"path: resume_state": str(state)}))
    assert list(logged(experiment)) == [3, 4]


# testing ----------------------------------------------------------------------------------------


def test_a_test_writes_tables_and_images(trained: Path, hr_folder: Path, tmp_path: Path) -> None:
    weights = trained / "experiments" / "small" / "models" / "net_g_latest.pth"
    folder = test(tmp_path, test_options(hr_folder, weights))
    names = [path.stem for path in sorted(hr_folder.glob("*.png"))]
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows[::2]] == names
    means = json.loads((folder / "metrics.json").read_text())["mean"]
    assert means.keys() == {"x2.5", "x1.5x3"}
    text = next((tmp_path / "results" / "evaluated").glob("test_*.log")).read_text()
    for case, values in means.items():
        assert re.search(rf"{case}\s+{values['psnr_y']:.4f}\s+{values['lr_psnr']:.4f}\n", text)
    info = read_info(folder / f"{names[0]}_x1.5x3_lr.png")
    assert info is not None
    assert info.scale == (1.5, 3.0)
    assert info.weights == fingerprint(torch.load(weights)["params"])


def test_the_average_can_be_tested(
    trained: Path, hr_folder: Path, tmp_path: Path, thirty_iterations: Options
) -> None:
    """What the last validation of the training evaluated."""
    experiment = trained / "experiments" / "small"
    weights = experiment / "models" / "net_g_latest.pth"
    changes = {"path: param_key_g": "params_ema", "val: save_img": False}
    folder = test(tmp_path, changed(test_options(hr_folder, weights), changes))
    means = json.loads((folder / "metrics.json").read_text())["mean"]
    final = experiment / "visualization" / "whole" / "metrics_30.json"
    assert means["x2.5"] == pytest.approx(json.loads(final.read_text())["mean"]["x2.5"], rel=1e-6)


def test_the_lr_files_of_a_test_are_restored_by_another(
    trained: Path, hr_folder: Path, tmp_path: Path
) -> None:
    weights = trained / "experiments" / "small" / "models" / "net_g_latest.pth"
    options = test_options(hr_folder, weights)
    first = test(tmp_path, options)
    second = test(tmp_path, changed(options, {"name": "again", "val: lr_folder": str(first)}))
    for name in ("metrics.csv", "metrics.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()

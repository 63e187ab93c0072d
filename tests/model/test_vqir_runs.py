"""Trainings and tests of VQIR from option files, and how these are checked."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import copy_basicsr, torchrun
from training import Check, changed, command, write_options
from vq_training import FEATURES, MODELS, VQ, vqir_test_options, vqir_train_options

from rescale_data.prepare import build_lmdb
from rescale_model.options import check_options


def test_options_are_checked(vqir_starts: dict[int, Path], hr_folder: Path, check: Check) -> None:
    first, second = (vqir_train_options(s, vqir_starts[s], hr_folder, hr_folder) for s in (1, 2))
    check(first)
    check(second)
    missing = {"path: pretrain_network_vqgan": "/no/vqgan.ckpt"}
    misspelled = {"path: pretrain_vqgan": str(vqir_starts[1])}
    for options, changes, message in (
        (first, missing, "path: pretrain_network_vqgan: no such .*/no/vqgan.ckpt"),
        (first, misspelled, r"pretrain_vqgan is unknown \(nearest known: pretrain_network_vqgan"),
        (first, {"train: gram_opt: typ": 1}, r"train: gram_opt: typ is unknown .*type"),
        (first, {"colour_order": "bgr"}, r"colour_order is unknown \(nearest known: color_order"),
        (first, {"network_g: facter": 16}, r"network_g: facter is unknown .*factor"),
        (second, {"train: edge_opt: type": "EdgesLoss"}, r"type 'EdgesLoss' .*EdgeLoss"),
        (second, {"train: optim_d: lr": "1e-4"}, "train: optim_d: lr is a string"),
        (second, {"network_d: num_feats": 4}, r"network_d: num_feats is unknown .*num_feat"),
    ):
        with pytest.raises(ValueError, match=message):
            check(changed(options, changes))


_ITERATION = re.compile(r"iter:\s*([\d,]+), lr:.* (l_\w+: .*)")


def losses_logged(experiment: Path) -> dict[int, dict[str, float]]:
    found = {}
    for path in experiment.glob("train_*.log"):
        for match in _ITERATION.finditer(path.read_text()):
            pairs = re.findall(r"(l_\w+): (\S+)", match[0])
            found[int(match[1])] = {name: float(value) for name, value in pairs}
    return dict(sorted(found.items()))


def pipeline(folder: Path, hr_folder: Path) -> list[dict[str, Any]]:
    """VQGAN, stage 1, stage 2, each from the file that the one before saves, from one LMDB."""
    build_lmdb(hr_folder, folder / "train.lmdb")
    steps = [
        vqir_train_options(
            stage,
            folder / "experiments" / before / "models" / "net_g_latest.pth",
            folder / "train.lmdb",
            hr_folder,
        )
        for stage, before in ((1, "vqgan"), (2, "stage1"))
    ]
    vqgan = changed(
        steps[0],
        {
            "name": "vqgan",
            "model_type": "VQGANModel",
            "network_g": {"type": "VQGAN", **VQ},
            "path": {"pretrain_network_g": None},
            "train: guide_opt": ...,
            "train: code_opt": ...,
            "train: gram_opt": ...,
            "train: pixel_opt": {"type": "L1Loss"},
            "train: codebook_opt": {"type": "CodeBookLoss"},
            "val: metrics": {"psnr": {"type": "calculate_psnr"}},
        },
    )
    short = {
        "train: total_iter": 6,
        "train: ema_decay": 0.5,
        "val: val_freq": 6,
        "logger: save_checkpoint_freq": 3,
    }
    halves = {
        "datasets: train: half_size_probability": 0.5,
        "datasets: train: size_multiple": 16,
    }
    return [changed(vqgan, short), changed(steps[0], short), changed(steps[1], short | halves)]


def check_run(folder: Path, stage: int, iterations: int) -> None:
    experiment = folder / "experiments" / f"stage{stage}"
    assert list(losses_logged(experiment)) == list(range(1, iterations + 1))
    models = {path.name for path in (experiment / "models").iterdir()}
    assert {"net_g_3.pth", f"net_g_{iterations}.pth", "net_g_latest.pth"} <= models
    assert ("net_d_latest.pth" in models) == (stage == 2)
    names = {path.name for path in experiment.iterdir()}
    assert not any(name.endswith((".pth", ".ckpt")) for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["rescale", "basicsr"])
def test_three_steps_from_option_files(tmp_path: Path, hr_folder: Path, runner: str) -> None:
    program: tuple[str, ...] = ("-m", "rescale_app.cli", "train")
    if runner == "basicsr":
        copy_basicsr(tmp_path)
        program = ("basicsr/train.py",)
    for options in pipeline(tmp_path, hr_folder):
        path = write_options(tmp_path / f"{options['name']}.yml", options)
        check_options(str(path), is_train=True)
        result = command(tmp_path, *program, "-opt", path)
        assert result.returncode == 0, result.stderr
    for stage in (1, 2):
        check_run(tmp_path, stage, 6)
    frozen = {}
    for name in ("vqgan", "stage1", "stage2"):
        weights = tmp_path / "experiments" / name / "models" / "net_g_latest.pth"
        assert weights.is_file()
        frozen[name] = torch.load(weights)["params"]
    for name, value in frozen["vqgan"].items():
        assert torch.equal(value, frozen["stage1"][name]), name
    for name, value in frozen["stage1"].items():
        assert torch.equal(value, frozen["stage2"][name]), name

    # the command continues with the files of either runner
    longer = changed(options, {"train: total_iter": 9})
    path = write_options(tmp_path / "stage2.yml", longer)
    result = command(tmp_path, "-m", "rescale_app.cli", "train", "-opt", path, "--auto_resume")
    assert result.returncode == 0, result.stderr
    check_run(tmp_path, 2, 9)

    for stage in (1, 2):
        weights = tmp_path / "experiments" / f"stage{stage}" / "models" / "net_g_latest.pth"
        path = write_options(tmp_path / "test.yml", vqir_test_options(stage, weights, hr_folder))
        script = ("basicsr/test.py",) if runner == "basicsr" else (*program[:-1], "test")
        result = command(tmp_path, *script, "-opt", path)
        assert result.returncode == 0, result.stderr
        results = tmp_path / "results" / f"evaluated{stage}" / "visualization" / "whole"
        means = json.loads((results / "metrics.json").read_text())["mean"]["x16"]
        assert means.keys() == set(MODELS[stage].evaluated)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_two_processes_agree(
    tmp_path: Path, hr_folder: Path, vqir_starts: dict[int, Path], stage: int
) -> None:
    """Frozen parts do not keep gradients of the trained part from being shared."""
    late = {"train: gan_start": 2, "train: feature_opt": dict(FEATURES)} if stage == 2 else {}
    options = changed(
        vqir_train_options(stage, vqir_starts[stage], hr_folder, hr_folder),
        {
            **late,
            "train: total_iter": 4,
            "train: ema_decay": 0.5,
            "val: val_freq": 4,
            "val: metrics": {"psnr": {"type": "calculate_psnr"}},
            "val: precision": "fp32",  # bf16 depends on the number of threads
            "logger: save_checkpoint_freq": 4,
        },
    )
    torchrun(tmp_path, "train", options)
    experiment = tmp_path / "experiments" / f"stage{stage}"
    assert list(losses_logged(experiment)) == [1, 2, 3, 4]
    # the ranks validate an image each, and one process finds the same figures
    weights = experiment / "models" / "net_g_latest.pth"
    tests = changed(
        vqir_test_options(stage, weights, hr_folder),
        {
            "path: param_key_g": "params_ema",
            "val: metrics": options["val"]["metrics"],
            "val: precision": "fp32",
        },
    )
    path = write_options(tmp_path / "test.yml", tests)
    result = command(tmp_path, "-m", "rescale_app.cli", "test", "-opt", path)
    assert result.returncode == 0, result.stderr
    alone = tmp_path / "results" / f"evaluated{stage}" / "visualization" / "whole" / "metrics.json"
    together = experiment / "visualization" / "whole" / "metrics_4.json"
    one, two = (json.loads(file.read_text())["mean"] for file in (alone, together))
    assert two["x16"]["psnr"] == pytest.approx(one["x16"]["psnr"], rel=1e-5)

"""What the benchmark runs on: sets of images, weights, and options."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from training import Check, Options, changed, model_options

from rescale_data.benchmark_dataset import BenchmarkDataset
from rescale_model.models.benchmark import BenchmarkModel


def test_sets_are_taken_in_order(benchmark_options: dict[str, Any], benchmark_sets: Path) -> None:
    dataset = BenchmarkDataset({**benchmark_options["datasets"]["test"], "phase": "test"})
    assert dataset.sets == ["Set5", "Set14"]
    samples = [dataset[index] for index in range(len(dataset))]
    names = [(sample["set"], sample["image"]) for sample in samples]
    assert names == [("Set5", "chelsea"), ("Set5", "coffee"), ("Set14", "rocket")]
    assert samples[1]["gt"].shape == (3, 96, 144)
    assert samples[2]["gt_path"] == str(benchmark_sets / "Set14" / "rocket.png")
    cropped = BenchmarkDataset(
        {**benchmark_options["datasets"]["test"], "phase": "test", "mod_crop": 12}
    )
    assert cropped[0]["gt"].shape == (3, 96, 120)


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        (
            {"sets": ["Set6", "B100"]},
            FileNotFoundError,
            "none of the sets is available: Set6, B100",
        ),
        ({"sets": "Set5"}, ValueError, "sets is 'Set5'"),
        ({"sets": []}, ValueError, r"sets is \[\]"),
        ({"crop": 3}, ValueError, r"crop is unknown \(nearest known: mod_crop\)"),
    ],
)
def test_wrong_sets_are_named(
    changes: dict[str, Any], error: type[Exception], reason: str, benchmark_options: dict[str, Any]
) -> None:
    with pytest.raises(error, match=reason):
        BenchmarkDataset({**benchmark_options["datasets"]["test"], "phase": "test", **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"val: weights": ...}, "val: weights is missing"),
        ({"val: weights": ["none/*.pth"]}, r"val: weights: no such file: none/\*\.pth"),
        ({"val: scales": [5]}, "scale 5 is out of range: expected 1 < scale <= 4"),
        ({"val: scales": [[2, 3]]}, r"val: scales: 0 is \[2, 3\]: expected a number"),
        ({"val: scales": 2}, "val: scales is 2: expected a list"),
        ({"val: lr_files": ...}, "val: lr_files is missing"),
        (
            {"val: lr_files": {"png": {"format": "png"}}},
            "val: lr_files: png: format is unknown .*lr_format",
        ),
        (
            {"val: lr_files": {"p": {"lr_format": "gif"}}},
            "val: lr_files: p: lr_format is 'gif': expected one of png, jpeg, webp",
        ),
        (
            {"val: lr_files": {"w": {"lr_format": "webp", "efforts": [0, 3]}}},
            "effort is 3, but lr_format is webp: effort supports only png and jpeg",
        ),
        ({"val: lr_files: png: efforts": []}, r"png: efforts is \[\]: expected a list"),
        ({"val: lr_files: png: efforts": [-1]}, "png: efforts: 0 is -1: expected an integer >= 0"),
        ({"val: cost_size": 8}, "val: cost_size is 8: expected an integer >= 32"),
        ({"val: metrics": {}}, "val: metrics is empty"),
        ({"val: metrics: psnr_y: image": "half"}, "image is 'half': expected one of hr, lr"),
        ({"val: metrics: psnr_y: kind": "half"}, "val: metrics: psnr_y: kind is unknown"),
        ({"val: lr_file": {}}, r"val: lr_file is unknown \(nearest known: lr_files\)"),
        ({"val: save_img": ...}, "val: save_img is missing"),
        ({"path: weights": []}, "path: weights is unknown"),
        ({"network_g": {}}, "network_g is an option of AIDNModel, .*, not of BenchmarkModel"),
        ({"num_gpu": "all"}, "num_gpu is 'all'"),
        ({"datasets: test: set": []}, "datasets: test: set is unknown"),
        ({"datasets: test: dataroot_gt": "none"}, "datasets: test: dataroot_gt: no such file"),
    ],
)
def test_wrong_options_are_named(
    changes: Options, reason: str, benchmark_options: Options, check: Check
) -> None:
    check(benchmark_options, is_train=False)
    with pytest.raises((ValueError, FileNotFoundError), match=reason) as told:
        check(changed(benchmark_options, changes), is_train=False)
    assert "\n" not in str(told.value)


def test_a_benchmark_is_not_trained(
    benchmark_options: Options, check: Check, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="BenchmarkModel is for testing only"):
        check(benchmark_options)
    with pytest.raises(ValueError, match="BenchmarkModel is for testing only"):
        BenchmarkModel(model_options(benchmark_options, tmp_path, is_train=True))


def test_a_benchmark_is_not_distributed(benchmark_options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="omit --launcher"):
        BenchmarkModel({**model_options(benchmark_options, tmp_path, is_train=False), "dist": True})


def test_weights_need_distinct_names(
    benchmark_options: Options, check: Check, two_networks: Path, tmp_path: Path
) -> None:
    other = tmp_path / "first.v2.safetensors"
    shutil.copy(two_networks / "first.safetensors", other)
    files = [str(two_networks / "first.safetensors"), str(other)]
    with pytest.raises(ValueError, match=r"first\.v2\.safetensors have the same name"):
        check(changed(benchmark_options, {"val: weights": files}), is_train=False)
    shutil.copy(two_networks / "first.safetensors", tmp_path / "bicubic.safetensors")
    with pytest.raises(ValueError, match=r"bicubic and .*bicubic\.safetensors have the same name"):
        check(
            changed(benchmark_options, {"val: weights": [str(tmp_path / "b*.safetensors")]}),
            is_train=False,
        )


def test_other_weights_are_refused(benchmark_options: dict[str, Any], tmp_path: Path) -> None:
    torch.save(torch.nn.Conv2d(1, 1, 1).state_dict(), tmp_path / "conv.pth")
    opt = changed(benchmark_options, {"val: weights": [str(tmp_path / "conv.pth")]})
    with pytest.raises(ValueError, match=r"conv\.pth: not the weights of any known network"):
        BenchmarkModel(model_options(opt, tmp_path, is_train=False))

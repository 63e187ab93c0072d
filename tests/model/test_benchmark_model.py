"""The benchmark: images, results against those of single tests, tables, and costs."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import training
from training import changed, model_options, write_options

from rescale_arch import AIDN
from rescale_data.benchmark_dataset import BenchmarkDataset
from rescale_data.hr_dataset import HRImageDataset
from rescale_data.image_file import read_image, read_info
from rescale_data.weight_file import fingerprint, save_weights
from rescale_model.evaluation import comparison, cost
from rescale_model.evaluation.comparison_report import ComparisonReport
from rescale_model.evaluation.cost import Cost, measure_cost
from rescale_model.models.aidn import AIDNModel
from rescale_model.models.benchmark import BenchmarkModel
from rescale_model.options import check_options

TINY: dict[str, Any] = {"num_feat": 8, "num_block": 2, "adapt_interval": 1}
FILES: dict[str, dict[str, Any]] = {
    "png": {"lr_format": "png"},
    "jpeg75": {"lr_format": "jpeg", "lr_quality": 75},
}
METRICS: dict[str, Any] = {
    "psnr_y": {"type": "calculate_psnr", "test_y_channel": True},
    "ssim_y": {"type": "calculate_ssim", "test_y_channel": True},
    "psnr_float": {"type": "calculate_psnr", "protocol": "float"},
    "lr_psnr_y": {"type": "calculate_psnr", "test_y_channel": True, "image": "lr"},
}


@pytest.fixture(scope="module")
def sets(hr_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images in Set5/HR, one in Set14."""
    root = tmp_path_factory.mktemp("sets")
    for folder, names in (("Set5/HR", ("chelsea", "coffee")), ("Set14", ("rocket",))):
        (root / folder).mkdir(parents=True)
        for name in names:
            shutil.copy(hr_folder / f"{name}.png", root / folder)
    (root / "Set5" / "LRx2").mkdir()
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two networks."""
    folder = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        save_weights(folder / f"{name}.safetensors", AIDN(**TINY).state_dict(), TINY)
    return folder


@pytest.fixture(scope="module")
def options(sets: Path, weights: Path) -> dict[str, Any]:
    return {
        "name": "compared",
        "model_type": "BenchmarkModel",
        "num_gpu": 0,
        "manual_seed": 0,
        "datasets": {
            "test": {
                "name": "benchmark",
                "type": "BenchmarkDataset",
                "dataroot_gt": str(sets),
                "sets": ["Set5", "BSD100", "Set14"],
            }
        },
        "path": {},
        "val": {
            "save_img": False,
            "weights": [str(weights / "*.safetensors")],
            "scales": [1.5, 3],
            "lr_files": FILES,
            "cost_size": 32,
            "metrics": METRICS,
        },
    }


@pytest.fixture(scope="module")
def results(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of ``rescale test``; costs are measured in this process, which is faster."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "measure_cost", cost._measure)
        training.test(folder, changed(options, {"val: save_img": True}))
        yield folder / "results" / "compared"


@pytest.fixture(scope="module")
def rows(results: Path) -> list[dict[str, str]]:
    with open(results / "benchmark.csv", newline="") as file:
        return list(csv.DictReader(file))


# figures ----------------------------------------------------------------------------------------


def test_every_combination_is_there_once(rows: list[dict[str, str]]) -> None:
    found = [tuple(list(row.values())[:5]) for row in rows]
    images = [("Set5", "chelsea"), ("Set5", "coffee"), ("Set14", "rocket")]
    expected = product(images, FILES, ("bicubic", "first", "second"), ("x1.5", "x3"))
    assert sorted(found) == sorted((*image, *rest) for image, *rest in expected)
    assert list(rows[0])[5:] == list(METRICS)


@pytest.mark.parametrize("file", FILES)
def test_figures_are_those_of_single_tests(
    file: str, rows: list[dict[str, str]], weights: Path, sets: Path, tmp_path: Path
) -> None:
    single = training.test_options(
        sets / "Set5" / "HR",
        weights / "second.safetensors",
        network_g={"type": "AIDN", **TINY},
        val={"save_img": False, "scales": [1.5, 3], **FILES[file]},
    )
    bicubic = {"bicubic": {**METRICS["psnr_y"], "image": "bicubic"}}
    single["val"]["metrics"] = METRICS | (bicubic if file == "png" else {})
    model = AIDNModel(model_options(single, tmp_path, is_train=False))
    dataset = HRImageDataset(model.opt["datasets"]["test_1"])
    model.validation(SimpleNamespace(dataset=dataset), "single", None)
    for scale, metric in product(("x1.5", "x3"), METRICS):
        of_set = [r for r in rows if (r["set"], r["lr_file"], r["scale"]) == ("Set5", file, scale)]
        ours = [float(row[metric]) for row in of_set if row["method"] == "second"]
        assert np.mean(ours) == pytest.approx(model.metric_results[f"{metric}_{scale}"], rel=1e-6)
        if file == "png":
            ours = [float(row["psnr_y"]) for row in of_set if row["method"] == "bicubic"]
            assert np.mean(ours) == pytest.approx(model.metric_results[f"bicubic_{scale}"])


def test_jpeg_costs_bicubic_as_well(rows: list[dict[str, str]]) -> None:
    bicubic = {
        (row["image"], row["scale"], row["lr_file"]): row
        for row in rows
        if row["method"] == "bicubic"
    }
    for (image, scale, file), row in bicubic.items():
        if file == "jpeg75":
            clean = bicubic[image, scale, "png"]
            assert float(row["psnr_y"]) < float(clean["psnr_y"]) - 0.3
            assert float(clean["lr_psnr_y"]) == math.inf > float(row["lr_psnr_y"])


def test_images_are_kept_if_asked_for(results: Path, sets: Path, weights: Path) -> None:
    folder = results / "visualization" / "Set5"
    hr = read_image(folder / "coffee_x1.5_jpeg75_second_hr.png")
    assert hr.shape == read_image(sets / "Set5" / "HR" / "coffee.png").shape
    info = read_info(folder / "coffee_x1.5_jpeg75_second_lr.png")
    torch.manual_seed(1)
    network = AIDN(**TINY)
    assert info is not None and info.weights == fingerprint(network.state_dict())
    assert read_info(folder / "coffee_x1.5_png_bicubic_lr.png") is None
    assert len(list(folder.iterdir())) == 2 * 2 * 2 * 3 * 2


# tables -----------------------------------------------------------------------------------------


def test_the_json_holds_means_costs_and_images(results: Path, rows: list[dict[str, str]]) -> None:
    text = (results / "benchmark.json").read_text()
    assert "Infinity" not in text and "NaN" not in text
    content = json.loads(text)
    assert len(content["images"]) == len(rows) and len(content["mean"]) == 2 * 2 * 3 * 2
    for mean in content["mean"]:
        keys = {name: mean[name] for name in ("set", "lr_file", "method", "scale")}
        values = [float(row["psnr_y"]) for row in rows if keys.items() <= row.items()]
        assert mean["psnr_y"] == pytest.approx(np.mean(values), rel=1e-9)
    assert content["cost"].keys() == {"bicubic", "first", "second"}
    assert content["cost"]["bicubic"]["parameters"] == 0
    parameters = sum(p.numel() for p in AIDN(**TINY).parameters())
    assert content["cost"]["first"]["parameters"] == parameters
    assert all(seconds > 0 for seconds in content["cost"]["first"]["seconds"].values())
    assert content["cost_conditions"].startswith("measured with 32 x 32 pixels on the CPU")


def test_the_markdown_has_the_means(results: Path) -> None:
    text = (results / "benchmark.md").read_text()
    means = json.loads((results / "benchmark.json").read_text())["mean"]
    for metric, digits in {"psnr_y": 2, "ssim_y": 4, "psnr_float": 2}.items():
        table = text.partition(f"## {metric}\n\n")[2].partition("\n\n")[0].splitlines()
        assert table[0] == "| set | LR file | method | x1.5 | x3 |"
        places = [line.split(" | ")[:3] for line in table[2:]]
        assert places[:4] == [
            ["| Set5", "png", "bicubic"],
            ["| Set5", "png", "first"],
            ["| Set5", "png", "second"],
            ["| Set5", "jpeg75", "bicubic"],
        ]
        assert len(places) == 2 * 2 * 3
        value = next(
            mean[metric]
            for mean in means
            if mean["set"] == "Set14" and mean["lr_file"] == "jpeg75"
            and mean["method"] == "second" and mean["scale"] == "x3"
        )  # fmt: skip
        assert table[-1].endswith(f"| {value:.{digits}f} |")
    assert "| bicubic | 0 |" in text.partition("## Time and memory per megapixel")[2]


def test_the_plot_has_a_panel_for_each_set_and_file(results: Path) -> None:
    height, width, _ = read_image(results / "benchmark.png").shape
    assert (width, height) == (2 * 600, 2 * 480)


def test_missing_measurements_are_left_empty() -> None:
    row = {"set": "a", "image": "b", "lr_file": "png", "method": "m", "scale": "x2", "p": 1.0}
    report = ComparisonReport(
        {"p": {"type": "calculate_psnr"}}, [row], {"m": Cost(1, {"x2": 2}, None)}, ""
    )
    assert "| m | 1 | 2.00 | not measured |" in report.markdown()
    assert json.loads(report.json())["cost"]["m"]["memory"] is None


def test_the_log_has_the_first_metric_and_what_was_left_out(results: Path) -> None:
    (log,) = results.glob("test_compared_*.log")
    text = log.read_text()
    assert "BSD100 is skipped: there is no folder" in text
    assert "| Set14 | jpeg75 | second |" in text


def test_effort_is_a_separate_method(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "measure_cost", cost._measure)
    files = {"png": {"lr_format": "png", "efforts": [0, 2]}, "jpeg75": FILES["jpeg75"]}
    changes = {"val: lr_files": files, "val: scales": [2], "val: save_img": True}
    changes["datasets: test: sets"] = ["Set14"]
    training.test(tmp_path, changed(options, changes))
    content = json.loads((tmp_path / "results" / "compared" / "benchmark.json").read_text())
    found = {(row["lr_file"], row["method"]): row["psnr_float"] for row in content["images"]}
    networks = ("first", "second")
    methods = ["bicubic", *networks]
    with_effort = [f"{network}, effort 2" for network in networks]
    expected = {("png", name) for name in (*methods, *with_effort)}
    assert found.keys() == expected | {("jpeg75", name) for name in methods}
    for network in networks:
        assert found["png", f"{network}, effort 2"] > found["png", network]
    assert content["cost"].keys() == {*methods, *with_effort}
    folder = tmp_path / "results" / "compared" / "visualization" / "Set14"
    assert read_info(folder / "rocket_x2_png_first_effort2_lr.png") is not None


# images ---------------------------------------------------------------------------------------


def test_sets_are_taken_in_order(options: dict[str, Any], sets: Path) -> None:
    dataset = BenchmarkDataset({**options["datasets"]["test"], "phase": "test"})
    assert dataset.sets == ["Set5", "Set14"]
    samples = [dataset[index] for index in range(len(dataset))]
    names = [(sample["set"], sample["image"]) for sample in samples]
    assert names == [("Set5", "chelsea"), ("Set5", "coffee"), ("Set14", "rocket")]
    assert samples[1]["gt"].shape == (3, 96, 144)
    assert samples[2]["gt_path"] == str(sets / "Set14" / "rocket.png")
    cropped = BenchmarkDataset({**options["datasets"]["test"], "phase": "test", "mod_crop": 12})
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
    changes: dict[str, Any], error: type[Exception], reason: str, options: dict[str, Any]
) -> None:
    with pytest.raises(error, match=reason):
        BenchmarkDataset({**options["datasets"]["test"], "phase": "test", **changes})


# options ----------------------------------------------------------------------------------------


def check(options: dict[str, Any], folder: Path, is_train: bool = False) -> None:
    check_options(str(write_options(folder / "test.yml", options)), is_train=is_train)


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
    changes: dict[str, Any], reason: str, options: dict[str, Any], tmp_path: Path
) -> None:
    check(options, tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=reason) as told:
        check(changed(options, changes), tmp_path)
    assert "\n" not in str(told.value)


def test_a_benchmark_is_not_trained(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="BenchmarkModel is for testing only"):
        check(options, tmp_path, is_train=True)
    with pytest.raises(ValueError, match="BenchmarkModel is for testing only"):
        BenchmarkModel(model_options(options, tmp_path, is_train=True))


def test_a_benchmark_is_not_distributed(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="omit --launcher"):
        BenchmarkModel({**model_options(options, tmp_path, is_train=False), "dist": True})


def test_weights_need_distinct_names(
    options: dict[str, Any], weights: Path, tmp_path: Path
) -> None:
    other = tmp_path / "first.v2.safetensors"
    shutil.copy(weights / "first.safetensors", other)
    files = [str(weights / "first.safetensors"), str(other)]
    with pytest.raises(ValueError, match=r"first\.v2\.safetensors have the same name"):
        check(changed(options, {"val: weights": files}), tmp_path)
    shutil.copy(weights / "first.safetensors", tmp_path / "bicubic.safetensors")
    with pytest.raises(ValueError, match=r"bicubic and .*bicubic\.safetensors have the same name"):
        check(changed(options, {"val: weights": [str(tmp_path / "b*.safetensors")]}), tmp_path)


def test_other_weights_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    torch.save(torch.nn.Conv2d(1, 1, 1).state_dict(), tmp_path / "conv.pth")
    opt = changed(options, {"val: weights": [str(tmp_path / "conv.pth")]})
    with pytest.raises(ValueError, match=r"conv\.pth: not the weights of any known network"):
        BenchmarkModel(model_options(opt, tmp_path, is_train=False))


# costs ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_is_measured_in_a_separate_process(weights: Path) -> None:
    hoard = np.ones(200_000_000, np.uint8)  # would hide in a peak that is inherited
    del hoard
    scales = {"x2": (2.0, 2.0), "x4": (4.0, 4.0)}
    costs = [
        measure_cost(file, scales, 256, "cpu")
        for file in (None, str(weights / "first.safetensors"))
    ]
    for one in costs:
        assert one.seconds.keys() == scales.keys() and min(one.seconds.values()) > 0
    bicubic, aidn = (one.memory for one in costs)
    if os.path.exists("/proc/self/status"):
        # eight features at full size are 32 bytes a pixel, and several are alive at once
        assert bicubic is not None and aidn is not None
        assert 0 < bicubic < aidn and 64e6 < aidn < 3e9
    else:
        assert bicubic is aidn is None


def killed(*_: Any) -> None:
    """A process that the system has killed for lack of memory."""
    os._exit(9)


@pytest.mark.slow
def test_a_killed_measurement_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_measure", killed)
    with pytest.raises(MemoryError, match=r"64 x 64 pixels was killed.*lower val: cost_size"):
        measure_cost("some.pth", {"x2": (2.0, 2.0)}, 64, "cpu")


@pytest.mark.gpu
@pytest.mark.slow
def test_memory_of_a_gpu_is_measured(weights: Path) -> None:
    measured = measure_cost(str(weights / "first.safetensors"), {"x2": (2.0, 2.0)}, 256, "cuda")
    assert measured.memory is not None and 64e6 < measured.memory < 3e9


@pytest.mark.slow
def test_the_option_file_runs_with_the_included_weights(sets: Path, tmp_path: Path) -> None:
    project = Path(__file__).parents[2]
    (tmp_path / "rescale_app").symlink_to(project / "rescale_app")
    result = training.command(
        tmp_path, "-m", "rescale_app.cli", "test",
        "-opt", project / "options" / "test" / "benchmark.yml",
        "--force_yml", f"datasets:test:dataroot_gt={sets}", "datasets:test:sets=['Set14']",
        "val:scales=[2]", "val:cost_size=32", "num_gpu=0",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    text = (tmp_path / "results" / "benchmark" / "benchmark.md").read_text()
    assert "| Set14 | jpeg75 | aidn-small |" in text
    assert "## ssim_float" in text

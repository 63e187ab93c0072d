"""The benchmark: results against those of single tests, and tables."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import training
from comparing import LR_FILES, METRICS
from tiny_networks import AIDN_TINY
from training import changed, model_options

from rescale_arch import AIDN
from rescale_data.hr_dataset import HRImageDataset
from rescale_data.image_file import read_image, read_info
from rescale_data.weight_file import fingerprint
from rescale_model.evaluation import comparison, cost
from rescale_model.evaluation.comparison_report import ComparisonReport
from rescale_model.evaluation.cost import Cost
from rescale_model.models.aidn import AIDNModel


@pytest.fixture(scope="module")
def results(
    benchmark_options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Of ``rescale test``; costs are measured in this process, which is faster."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "measure_cost", cost._measure)
        training.test(folder, changed(benchmark_options, {"val: save_img": True}))
        yield folder / "results" / "compared"


@pytest.fixture(scope="module")
def rows(results: Path) -> list[dict[str, str]]:
    with open(results / "benchmark.csv", newline="") as file:
        return list(csv.DictReader(file))


# figures ----------------------------------------------------------------------------------------


def test_every_combination_is_there_once(rows: list[dict[str, str]]) -> None:
    found = [tuple(list(row.values())[:5]) for row in rows]
    images = [("Set5", "chelsea"), ("Set5", "coffee"), ("Set14", "rocket")]
    expected = product(images, LR_FILES, ("bicubic", "first", "second"), ("x1.5", "x3"))
    assert sorted(found) == sorted((*image, *rest) for image, *rest in expected)
    assert list(rows[0])[5:] == list(METRICS)


@pytest.mark.parametrize("file", LR_FILES)
def test_figures_are_those_of_single_tests(
    file: str, rows: list[dict[str, str]], two_networks: Path, benchmark_sets: Path, tmp_path: Path
) -> None:
    single = training.test_options(
        benchmark_sets / "Set5" / "HR",
        two_networks / "second.safetensors",
        network_g={"type": "AIDN", **AIDN_TINY},
        val={"save_img": False, "scales": [1.5, 3], **LR_FILES[file]},
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


def test_images_are_kept_if_asked_for(
    results: Path, benchmark_sets: Path, two_networks: Path
) -> None:
    folder = results / "visualization" / "Set5"
    hr = read_image(folder / "coffee_x1.5_jpeg75_second_hr.png")
    assert hr.shape == read_image(benchmark_sets / "Set5" / "HR" / "coffee.png").shape
    info = read_info(folder / "coffee_x1.5_jpeg75_second_lr.png")
    torch.manual_seed(1)
    network = AIDN(**AIDN_TINY)
    assert info is not None and info.weights == fingerprint(network.state_dict())
    assert read_info(folder / "coffee_x1.5_png_bicubic_lr.png") is None
    assert len(list(folder.iterdir())) == 2 * 2 * 2 * 3 * 2


def test_effort_is_a_separate_method(
    benchmark_options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "measure_cost", cost._measure)
    files = {"png": {"lr_format": "png", "efforts": [0, 2]}, "jpeg75": LR_FILES["jpeg75"]}
    changes = {"val: lr_files": files, "val: scales": [2], "val: save_img": True}
    changes["datasets: test: sets"] = ["Set14"]
    training.test(tmp_path, changed(benchmark_options, changes))
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
    parameters = sum(p.numel() for p in AIDN(**AIDN_TINY).parameters())
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


# the option file --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_option_file_runs_with_the_included_weights(
    benchmark_sets: Path, tmp_path: Path
) -> None:
    project = Path(__file__).parents[2]
    (tmp_path / "rescale_app").symlink_to(project / "rescale_app")
    result = training.command(
        tmp_path, "-m", "rescale_app.cli", "test",
        "-opt", project / "options" / "test" / "benchmark.yml",
        "--force_yml", f"datasets:test:dataroot_gt={benchmark_sets}",
        "datasets:test:sets=['Set14']", "val:scales=[2]", "val:cost_size=32", "num_gpu=0",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    text = (tmp_path / "results" / "benchmark" / "benchmark.md").read_text()
    assert "| Set14 | jpeg75 | aidn-small |" in text
    assert "## ssim_float" in text

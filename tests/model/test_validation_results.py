"""What a validation writes and logs: tables, the best, images; and wrong options."""

import csv
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from training import changed, model_options, train_options
from validating import METRICS, Judge, validate

from rescale_data.hr_dataset import HRImageDataset
from rescale_model.evaluation.validation import Evaluation
from rescale_model.models.aidn import AIDNModel


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """Messages to BasicSR's logger."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("basicsr")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield messages
    logger.setLevel(level)
    logger.removeHandler(handler)


def test_table_csv_and_json_say_the_same(judge: Judge, tmp_path: Path, lines: list[str]) -> None:
    results = judge()
    folder = tmp_path / "visualization" / "whole"
    names = {path.name for path in folder.iterdir()}
    assert names == {"metrics.csv", "metrics.json", "options.json"}

    summary = json.loads((folder / "metrics.json").read_text())
    assert summary["protocol"] == "8bit"
    means = summary["mean"]
    flat = {f"{metric}_{case}": v for case, values in means.items() for metric, v in values.items()}
    assert flat == results

    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows[::2]] == ["astronaut", "chelsea", "coffee", "rocket"]
    assert [row["case"] for row in rows] == ["x2.5", "x1.5x3"] * 4
    numbers = [{k: float(v) for k, v in row.items() if k in METRICS} for row in rows]
    assert numbers == [{k: row[k] for k in METRICS} for row in summary["images"]]
    for case, values in means.items():
        of_case = [n for n, row in zip(numbers, rows, strict=True) if row["case"] == case]
        assert values == {
            k: pytest.approx(sum(n[k] for n in of_case) / len(of_case)) for k in METRICS
        }

    table = next(line for line in lines if line.startswith("Validation whole")).splitlines()
    assert table[0] == "Validation whole, 8bit protocol"
    assert table[1].split() == list(METRICS)
    for line, (case, values) in zip(table[2:], means.items(), strict=True):
        assert line.split() == [case, *(f"{value:.4f}" for value in values.values())]


def test_the_best_is_kept_in_either_direction(
    hr_folder: Path, trained_weights: Path, tmp_path: Path, lines: list[str]
) -> None:
    options = changed(
        train_options(hr_folder, hr_folder),
        {
            "train: ema_decay": 0,
            "path: pretrain_network_g": str(trained_weights),
            "val: metrics": {
                "high": {"type": "calculate_psnr"},
                "low": {"type": "calculate_psnr", "better": "lower"},
            },
        },
    )
    model = AIDNModel(model_options(options, tmp_path, is_train=True))
    validate(model, 10)
    good = dict(model.metric_results)
    with torch.no_grad():
        model.net_g.up_net.tail[-1].bias += 0.3
    validate(model, 20)
    bad = dict(model.metric_results)
    validate(model, 30)
    assert bad["high_x2.5"] < good["high_x2.5"]
    best = model.best_metric_results["whole"]
    assert best["high_x2.5"] == {"better": "higher", "val": good["high_x2.5"], "iter": 10}
    assert best["low_x2.5"] == {"better": "lower", "val": bad["low_x2.5"], "iter": 30}
    table = [line for line in lines if line.startswith("Validation")][-1]
    assert f"(best {good['high_x2.5']:.4f} @ 10)" in table
    assert f"(best {bad['low_x2.5']:.4f} @ 30)" in table
    names = {path.name for path in (tmp_path / "visualization" / "whole").iterdir()}
    assert names == {f"metrics_{n}.{kind}" for n in (10, 20, 30) for kind in ("csv", "json")}
    assert model.net_g.training


def test_tensorboard_gets_every_mean(evaluation_options: dict[str, Any], tmp_path: Path) -> None:
    class Board:
        def __init__(self) -> None:
            self.values: dict[tuple[str, int], float] = {}

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.values[name, step] = value

    model = AIDNModel(model_options(evaluation_options, tmp_path, is_train=False))
    dataset = HRImageDataset(model.opt["datasets"]["test_1"])
    board = Board()
    model.validation(SimpleNamespace(dataset=dataset), 7, board)
    assert board.values == {
        (f"metrics/whole/{name}", 7): value for name, value in model.metric_results.items()
    }


def test_images_below_folders_keep_their_folder(
    evaluation_options: dict[str, Any], hr_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "tree" / "a").mkdir(parents=True)
    (tmp_path / "tree" / "a" / "one.v2.png").write_bytes((hr_folder / "coffee.png").read_bytes())
    changes = {
        "datasets: test_1: dataroot_gt": f"{tmp_path}/tree/",
        "datasets: test_1: recursive": True,
        "val: suffix": "mine",
        "val: scales": [2],
    }
    model = AIDNModel(model_options(changed(evaluation_options, changes), tmp_path, is_train=False))
    validate(model, "evaluated", save_img=True)
    folder = tmp_path / "visualization" / "whole"
    assert (folder / "a" / "one.v2_x2_lr_mine.png").is_file()
    assert json.loads((folder / "metrics.json").read_text())["images"][0]["image"] == "a/one.v2"


def test_without_metrics_only_images_are_written(judge: Judge, tmp_path: Path) -> None:
    assert judge(save_img=True, metrics=None) == {}
    folder = tmp_path / "visualization" / "whole"
    assert {path.suffix for path in folder.iterdir()} == {".png"}


def test_an_image_that_is_too_small_is_named(
    evaluation_options: dict[str, Any], hr_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "tiny").mkdir()
    with Image.open(hr_folder / "coffee.png") as hr_image:
        hr_image.crop((0, 0, 14, 14)).save(tmp_path / "tiny" / "spot.png")
    changes = {"datasets: test_1: dataroot_gt": str(tmp_path / "tiny")}
    model = AIDNModel(model_options(changed(evaluation_options, changes), tmp_path, is_train=False))
    with pytest.raises(ValueError, match=r"spot: too small: .* inside a border of 3"):
        validate(model)
    assert not list((tmp_path / "visualization").rglob("metrics*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "16bit"}, "protocol is '16bit': expected one of 8bit, float"),
        ({"lr_format": "gif"}, "lr_format is 'gif': expected one of png, jpeg, webp"),
        ({"lr_chroma": 411}, "lr_chroma is 411: expected one of 420, 444"),
        ({"lr_quality": 101}, "lr_quality is 101"),
        ({"lr_quality": "90"}, "lr_quality is '90'"),
        ({"metrics": {"a": {"type": "calculate_psnr", "image": "sr"}}}, "a: image is 'sr'"),
        ({"metrics": {"a": {"type": "calculate_psnr", "better": "up"}}}, "a: better is 'up'"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"option val: .*{message}"):
        Evaluation(options)


def test_scales_are_required_before_anything_is_evaluated(
    evaluation_options: dict[str, Any], tmp_path: Path
) -> None:
    for scales, message in ((None, "val: scales is missing"), ([5], "scale 5 is out of range")):
        opt = model_options(
            changed(evaluation_options, {"val: scales": scales}), tmp_path, is_train=False
        )
        with pytest.raises(ValueError, match=message):
            AIDNModel(opt)

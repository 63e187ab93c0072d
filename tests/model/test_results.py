"""Files of results: their names, and values that JSON does not support."""

import csv
import json
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
import torch

from rescale_data.hr_dataset import HRImageDataset
from rescale_data.image_file import write_image
from rescale_model.evaluation.validation import Evaluation

LR = torch.full((1, 3, 2, 2), 0.2)


def test_infinite_figures_are_valid_json(tmp_path: Path) -> None:
    evaluation = Evaluation({"metrics": {"psnr": {"type": "calculate_psnr"}}})
    rows = [{"image": "a", "case": "x2", "psnr": float("inf")}]
    evaluation.write(str(tmp_path), "metrics", rows, evaluation.means(rows))

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    text = (tmp_path / "metrics.json").read_text()
    summary = json.loads(text, parse_constant=refuse)
    assert summary["mean"] == {"x2": {"psnr": "inf"}}
    assert summary["images"] == [{"image": "a", "case": "x2", "psnr": "inf"}]
    with open(tmp_path / "metrics.csv", newline="") as file:
        assert [row["psnr"] for row in csv.DictReader(file)] == ["inf"]


def lr_file(folder: Path, name: str, value: int) -> None:
    write_image(folder / name, np.full((2, 2, 3), value, np.uint8))


@pytest.mark.parametrize(
    ("names", "suffix", "expected"),
    [
        (["a_x2_lr.png"], None, 0),
        (["a_x2_lr.png"], "mine", 0),
        (["a_x2_lr_old.png"], None, 0),
        (["a_x2_lr_old.jpg"], "mine", 0),
        (["a_x2_lr_old.png", "a_x2_lr_mine.png"], "mine", 1),
        (["a_x2_lr_old.png", "a_x2_lr.png", "b_x2_lr_old.png"], None, 1),
    ],
)
def test_lr_files_are_found_whatever_their_suffix(
    tmp_path: Path, names: list[str], suffix: str | None, expected: int
) -> None:
    for number, name in enumerate(names):
        lr_file(tmp_path, name, 50 * number)
    evaluation = Evaluation({"lr_folder": str(tmp_path), "suffix": suffix})
    found = evaluation.stored("a_x2", LR)
    assert float(found.mean()) * 255 == pytest.approx(50 * expected, abs=1)


def test_ambiguous_lr_files(tmp_path: Path) -> None:
    for name in ("a_x2_lr_old.png", "a_x2_lr_new.png"):
        lr_file(tmp_path, name, 0)
    evaluation = Evaluation({"lr_folder": str(tmp_path)})
    with pytest.raises(ValueError, match=r"several .*a_x2_lr_new\.png, .*a_x2_lr_old\.png; sel"):
        evaluation.stored("a_x2", LR)
    with pytest.raises(FileNotFoundError, match=r"b_x2_lr\.png"):
        evaluation.stored("b_x2", LR)


def test_images_whose_results_would_have_the_same_name(hr_folder: Path, tmp_path: Path) -> None:
    for name in ("cat.png", "cat.PNG"):
        copy(hr_folder / "chelsea.png", tmp_path / name)
    options = {"dataroot_gt": str(tmp_path), "gt_size": 8}
    assert len(HRImageDataset({**options, "phase": "train"})) == 2
    with pytest.raises(ValueError, match=r"cat\.png has the same name as cat\.PNG except for"):
        HRImageDataset({**options, "phase": "val"})

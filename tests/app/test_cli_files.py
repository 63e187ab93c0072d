"""``rescale down``, ``up`` and ``compare`` on single files, and wrong usage."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from command_line import complaint

from rescale_app import Rescaler
from rescale_app.cli import main
from rescale_data.image_file import read_image, read_info


def test_jpeg_carries_it_too(hr_image: str, weights: str, tmp_path: Path) -> None:
    lr, back = tmp_path / "lr.jpg", tmp_path / "back.png"
    down = ["down", hr_image, "-s", "1.7x2.3", "-o", str(lr), "--quality", "90"]
    assert main([*down, "--weights", weights]) == 0
    info = read_info(lr)
    assert info is not None
    assert info.scale == (1.7, 2.3)
    assert info.weights == Rescaler(weights).fingerprint
    assert main(["up", str(lr), "-o", str(back), "--weights", weights]) == 0
    assert read_image(back).shape == read_image(hr_image).shape


@pytest.mark.parametrize(
    ("options", "width", "height"),
    [(["--fit", "60"], 60, 40), (["--size", "100x30"], 100, 30), (["--size", "144x50"], 144, 50)],
)
def test_target_sizes(
    options: list[str], width: int, height: int, hr_image: str, weights: str, tmp_path: Path
) -> None:
    lr, back = tmp_path / "lr.png", tmp_path / "back.png"
    assert main(["down", hr_image, *options, "-o", str(lr), "--weights", weights]) == 0
    assert read_image(lr).shape == (height, width, 3)
    assert main(["up", str(lr), "-o", str(back), "--weights", weights]) == 0
    assert read_image(back).shape == (96, 144, 3)


@pytest.mark.parametrize("options", [["--fit", "144"], ["--fit", "5000"], ["--size", "144x96"]])
def test_an_image_that_fits_is_copied_and_reported(
    options: list[str],
    hr_image: str,
    weights: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lr, back = tmp_path / "lr.png", tmp_path / "back.png"
    assert main(["down", hr_image, *options, "-o", str(lr), "--weights", weights]) == 0
    assert "already fits, copied unchanged" in capsys.readouterr().out
    assert main(["up", str(lr), "-o", str(back), "--weights", weights]) == 0
    np.testing.assert_array_equal(read_image(back), read_image(hr_image))


def test_compare(
    hr_image: str, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    panel = tmp_path / "panel.png"
    assert main(["compare", hr_image, "-s", "2.5", "-o", str(panel), "--weights", weights]) == 0
    out = capsys.readouterr().out
    comparison = Rescaler(weights).compare(read_image(hr_image), 2.5)
    assert f"{comparison.quality.psnr_y:.2f}" in out
    assert f"{comparison.bicubic_quality.psnr_y:.2f}" in out
    assert f"PSNR {comparison.lr_psnr:.2f} dB RGB" in out
    assert read_image(panel).shape[1] > 3 * 144


BAD_USAGE = [
    (["-s", "0.5", "-o", "o.png"], "scale 0.5 is out of range: expected 1 < scale <= 4"),
    (["-s", "9", "-o", "o.png"], "scale 9 is out of range"),
    (["-s", "nan", "-o", "o.png"], "scale nan is out of range"),
    (["-s", "abc", "-o", "o.png"], "'abc' is not a scale"),
    (["-s", "2x2x2", "-o", "o.png"], "'2x2x2' is not a scale"),
    (["--size", "40", "-o", "o.png"], "'40' is not a size"),
    (["--fit", "0", "-o", "o.png"], "'0' is not a positive integer"),
    (["-s", "2", "--fit", "9", "-o", "o.png"], "not allowed with"),
    (["-o", "o.png"], "-s or --fit or --size is required"),
    (
        ["-s", "2", "-o", "o.gif"],
        "o.gif: expected a file name that ends in .png, .jpg, .jpeg, .webp",
    ),
    (["-s", "2", "-o", "o.png", "--quality", "90"], "--quality requires a .jpg or .webp file"),
    (["-s", "2", "-o", "o.jpg", "--quality", "101"], "'101' is not a quality"),
    (["-s", "2", "-o", "picture.png"], "is the input file"),
]


@pytest.mark.parametrize(("options", "culprit"), BAD_USAGE)
def test_bad_usage(
    options: list[str],
    culprit: str,
    hr_image: str,
    weights: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["down", "picture.png", *options, "--weights", weights]) == 2
    assert culprit in complaint(capsys)
    assert os.listdir(tmp_path) == ["picture.png"]


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["down", "gone.png", "-s", "2", "-o", "o.png"], "gone.png: no such file or folder"),
        (["down", "picture.png", "-s", "2", "-o", "no/o.png"], "no: no such folder"),
        (["down", "picture.png", "--fit", "20", "-o", "o.png"], "cannot fit 144x96 into 20"),
        (["down", "picture.png", "--size", "30x30", "-o", "o.png"], "valid sizes are from 36x24"),
        (["down", "empty", "-s", "2", "-o", "out"], "empty: no images in this folder"),
        (
            ["down", "picture.png", "-s", "2", "-o", "o.png", "--weights", "gone.pth"],
            "gone.pth: no such weights file",
        ),
        (["test", "-opt", "gone.yml"], "gone.yml: No such file"),
        (["prepare", "lmdb", "gone", "o.lmdb"], "gone"),
    ],
)
def test_failures(
    arguments: list[str],
    culprit: str,
    hr_image: str,
    weights: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    if arguments[0] == "down" and "--weights" not in arguments:
        arguments = [*arguments, "--weights", weights]
    assert main(arguments) == 1
    assert culprit in complaint(capsys)
    assert sorted(os.listdir(tmp_path)) == ["empty", "picture.png"]

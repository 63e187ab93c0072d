"""Validation: results against an independent computation, and the kinds of LR files."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import structural_similarity
from validating import METRICS, Judge, Results

from rescale_arch import AIDN, imresize, lr_size
from rescale_data.image_file import read_image, read_info, write_image
from rescale_data.weight_file import fingerprint
from rescale_model.evaluation.round_trip import border

Floats = NDArray[np.float64]


# an independent computation, in NumPy and scikit-image ------------------------------------------


def luma(rgb: Floats) -> Floats:
    """Y of MATLAB's rgb2ycbcr, (H, W, 1)."""
    return (rgb @ np.array([65.481, 128.553, 24.966]) / 255 + 16)[..., None]


def psnr(a: Floats, b: Floats) -> float:
    return float(10 * np.log10(255**2 / ((a - b) ** 2).mean()))


def ssim(a: Floats, b: Floats) -> float:
    return float(
        structural_similarity(
            a,
            b,
            channel_axis=2,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def rounded(image: Floats) -> Floats:
    return np.rint(image)


def unrounded(image: Floats) -> Floats:
    return image


def pixels(image: torch.Tensor) -> Floats:
    return np.asarray(image[0].permute(1, 2, 0).double().clamp(0, 1) * 255)


def tensor(image: Floats) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1) / 255).float()[None]


def expected(
    hr_folder: Path,
    trained_weights: Path,
    scale: tuple[float, float],
    last: Callable[[Floats], Floats],
) -> Results:
    """The means at a scale; ``last`` is applied to the restored and the reference images."""
    net = AIDN(num_feat=8, num_block=2, adapt_interval=1).eval()
    net.load_state_dict(torch.load(trained_weights)["params"])
    edge = math.ceil(max(scale))
    figures: dict[str, list[float]] = {name: [] for name in METRICS}
    for path in sorted(hr_folder.glob("*.png")):
        gt = np.asarray(Image.open(path), dtype=np.float64)
        height, width = gt.shape[:2]
        inverse = (1 / scale[0], 1 / scale[1])
        small = (math.ceil(height / scale[0] - 1e-9), math.ceil(width / scale[1] - 1e-9))
        with torch.no_grad():
            lr = rounded(pixels(net.downscale(tensor(gt), scale)))
            hr = pixels(net.upscale(tensor(lr), scale, size=(height, width)))
            guide = pixels(imresize(tensor(gt), small, inverse))
            bicubic = pixels(imresize(tensor(rounded(guide)), (height, width), scale))
        pairs = {
            "hr": (last(hr), gt),
            "lr": (lr, last(guide)),
            "bicubic": (last(bicubic), gt),
        }
        for image, (a, b) in pairs.items():
            a, b = (x[edge:-edge, edge:-edge] for x in (a, b))
            figures[f"{image}_psnr"].append(psnr(a, b))
            figures[f"{image}_ssim"].append(ssim(a, b))
            figures[f"{image}_psnr_y"].append(psnr(luma(a), luma(b)))
            figures[f"{image}_ssim_y"].append(ssim(luma(a), luma(b)))
    return {name: sum(values) / len(values) for name, values in figures.items()}


@pytest.mark.parametrize(("protocol", "last"), [("8bit", rounded), ("float", unrounded)])
def test_figures_agree_with_another_computation(
    judge: Judge,
    hr_folder: Path,
    trained_weights: Path,
    protocol: str,
    last: Callable[[Floats], Floats],
) -> None:
    results = judge(protocol=protocol)
    for label, scale in (("x2.5", (2.5, 2.5)), ("x1.5x3", (1.5, 3.0))):
        for name, value in expected(hr_folder, trained_weights, scale, last).items():
            # BasicSR computes luma in single precision; a pixel may round the other way
            assert results[f"{name}_{label}"] == pytest.approx(value, rel=1e-4), (name, label)


# protocols, borders, precision, tiles -----------------------------------------------------------


def test_protocols_differ_by_rounding_alone(judge: Judge) -> None:
    eight, real = judge(), judge(protocol="float")
    for name in eight:
        assert eight[name] == pytest.approx(real[name], rel=0.02)
    assert {name for name in eight if eight[name] == real[name]} == set()


def test_a_given_border_goes_before_that_of_the_scale(judge: Judge) -> None:
    assert [border(scale) for scale in ((2.5, 2.5), (1.5, 3.0), (1.0, 3.2))] == [3, 3, 4]
    metric = METRICS["hr_psnr"]
    default = judge(metrics={"psnr": metric})
    assert judge(metrics={"psnr": {**metric, "crop_border": 3}}) == default
    assert judge(metrics={"psnr": {**metric, "crop_border": 0}}) != default


def test_half_precision_leaves_the_reference_alone(judge: Judge) -> None:
    full, half = judge(), judge(precision="bf16")
    assert half["bicubic_psnr_x2.5"] == full["bicubic_psnr_x2.5"]
    assert half["hr_psnr_x2.5"] != full["hr_psnr_x2.5"]
    assert half["hr_psnr_x2.5"] == pytest.approx(full["hr_psnr_x2.5"], rel=0.02)


def test_tiles_leave_the_figures_alone(judge: Judge) -> None:
    assert judge(tile=48) == pytest.approx(judge(), abs=0.01)  # a sample may be rounded otherwise


# LR files ---------------------------------------------------------------------------------------


def test_a_png_changes_nothing_and_lossy_files_do(judge: Judge) -> None:
    default = judge()
    assert judge(lr_format="png") == default
    ninety = judge(lr_format="jpeg")
    assert judge(lr_format="jpeg", lr_quality=90) == ninety
    fifty = judge(lr_format="jpeg", lr_quality=50)
    whole = judge(lr_format="jpeg", lr_quality=50, lr_chroma=444)
    webp = judge(lr_format="webp", lr_quality=50)
    for case in ("x2.5", "x1.5x3"):
        name = f"lr_psnr_{case}"
        assert default[name] != ninety[name]
        assert len({default[name], fifty[name], whole[name], webp[name]}) == 4
        assert fifty[name] < ninety[name]
        # bicubic, the comparison, has no part in it
        assert fifty[f"bicubic_psnr_{case}"] == default[f"bicubic_psnr_{case}"]


@pytest.mark.parametrize("file", [{"lr_format": "png"}, {"lr_format": "jpeg", "lr_quality": 80}])
def test_effort_restores_better_from_the_file(judge: Judge, file: dict[str, Any]) -> None:
    without, with_effort = judge(**file), judge(**file, effort=4)
    assert with_effort["bicubic_psnr_x2.5"] == without["bicubic_psnr_x2.5"]
    assert with_effort["hr_psnr_x2.5"] > without["hr_psnr_x2.5"]
    assert with_effort["lr_psnr_x2.5"] > without["lr_psnr_x2.5"] - 0.25


@pytest.fixture
def stored(judge: Judge, tmp_path: Path) -> tuple[Results, Path]:
    """Results of a test that saved its images, and their folder."""
    return judge(save_img=True), tmp_path / "visualization" / "whole"


def test_saved_lr_files_carry_what_restores_them(
    stored: tuple[Results, Path], hr_folder: Path, trained_weights: Path
) -> None:
    folder = stored[1]
    names = {path.stem for path in hr_folder.glob("*.png")}
    cases = {"x2.5": (2.5, 2.5), "x1.5x3": (1.5, 3.0)}
    saved = {path.name for path in folder.glob("*.png")}
    assert saved == {f"{n}_{c}_{which}.png" for n in names for c in cases for which in ("hr", "lr")}
    mark = fingerprint(torch.load(trained_weights)["params"])
    for name in names:
        size = read_image(hr_folder / f"{name}.png").shape[:2]
        for label, scale in cases.items():
            info = read_info(folder / f"{name}_{label}_lr.png")
            assert info is not None
            assert (info.network, info.weights) == ("aidn", mark)
            assert (info.scale, info.size) == (scale, size)
            assert read_image(folder / f"{name}_{label}_lr.png").shape[:2] == lr_size(size, scale)
            assert read_image(folder / f"{name}_{label}_hr.png").shape[:2] == size
            assert read_info(folder / f"{name}_{label}_hr.png") is None


def test_the_files_of_an_earlier_test_give_its_figures(
    stored: tuple[Results, Path], judge: Judge
) -> None:
    results, folder = stored
    assert judge(lr_folder=str(folder)) == results


def test_lr_files_may_be_jpegs_and_are_what_is_restored(
    stored: tuple[Results, Path], judge: Judge
) -> None:
    results, folder = stored
    for path in folder.glob("*_lr.png"):
        write_image(path.with_suffix(".jpg"), np.zeros_like(read_image(path)))
        path.unlink()
    again = judge(lr_folder=str(folder))
    assert again["hr_psnr_x2.5"] < results["hr_psnr_x2.5"] - 1
    assert again["bicubic_psnr_x2.5"] == results["bicubic_psnr_x2.5"]


def test_a_missing_lr_file_is_named(stored: tuple[Results, Path], judge: Judge) -> None:
    folder = stored[1]
    (folder / "coffee_x2.5_lr.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"coffee_x2\.5_lr\.png"):
        judge(lr_folder=str(folder))


def test_an_lr_file_of_another_size_is_named(stored: tuple[Results, Path], judge: Judge) -> None:
    path = stored[1] / "coffee_x2.5_lr.png"
    write_image(path, read_image(path)[1:])
    with pytest.raises(ValueError, match=r"coffee_x2\.5_lr\.png is 38 x 58 .*: expected 39 x 58$"):
        judge(lr_folder=str(path.parent))

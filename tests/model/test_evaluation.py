"""Validation: results against an independent computation, and the kinds of LR files."""

import csv
import json
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr

import numpy as np
import pytest
import torch
from basicsr.utils.registry import METRIC_REGISTRY
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import structural_similarity
from training import changed, model_options, test_options, train_options

from rescale_arch import AIDN, imresize, lr_size
from rescale_data.hr_dataset import HRImageDataset
from rescale_data.image_file import read_image, read_info, write_image
from rescale_data.weight_file import fingerprint
from rescale_model.evaluation.round_trip import EvaluatedImage, border
from rescale_model.evaluation.validation import Evaluation
from rescale_model.models.aidn import AIDNModel

METRICS = {
    f"{image}_{name}{'_y' if luma else ''}": {
        "type": f"calculate_{name}",
        "image": image,
        "test_y_channel": luma,
    }
    for image in ("hr", "lr", "bicubic")
    for name in ("psnr", "ssim")
    for luma in (False, True)
}
Floats = NDArray[np.float64]
Results = dict[str, float]
Judge = Callable[..., Results]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose results depend on the image."""
    torch.manual_seed(5)
    net = AIDN(num_feat=8, num_block=2, adapt_interval=1)
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    hr = torch.rand(2, 3, 4, 4)
    hr = torch.nn.functional.interpolate(hr, size=(32, 32), mode="bicubic").clamp(0, 1)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(30):
        lr, restored = net(hr, 2.0)
        guide = imresize(hr, lr_size((32, 32), 2.0), 0.5)
        optimizer.zero_grad()
        ((restored - hr).abs().mean() + (lr - guide).abs().mean()).backward()
        optimizer.step()
    torch.save({"params": net.state_dict()}, path)
    return path


@pytest.fixture
def options(hr_folder: Path, weights: Path) -> dict[str, Any]:
    return changed(
        test_options(hr_folder, weights),
        {"val: metrics": METRICS, "val: save_img": False},
    )


@pytest.fixture
def judge(options: dict[str, Any], tmp_path: Path) -> Judge:
    """Tests with changed ``val`` options and returns the means: ``<metric>_<case>`` -> value."""

    def run(save_img: bool = False, **val: Any) -> Results:
        changes = {f"val: {key}": value for key, value in val.items()}
        model = AIDNModel(model_options(changed(options, changes), tmp_path, is_train=False))
        validate(model, "evaluated", save_img)
        return dict(model.metric_results)

    return run


def validate(model: AIDNModel, iteration: int | str = 1, save_img: bool = False) -> None:
    dataset = next(options for key, options in model.opt["datasets"].items() if key != "train")
    model.validation(SimpleNamespace(dataset=HRImageDataset(dataset)), iteration, None, save_img)


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
    hr_folder: Path, weights: Path, scale: tuple[float, float], last: Callable[[Floats], Floats]
) -> Results:
    """The means at a scale; ``last`` is applied to the restored and the reference images."""
    net = AIDN(num_feat=8, num_block=2, adapt_interval=1).eval()
    net.load_state_dict(torch.load(weights)["params"])
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
    weights: Path,
    protocol: str,
    last: Callable[[Floats], Floats],
) -> None:
    results = judge(protocol=protocol)
    for label, scale in (("x2.5", (2.5, 2.5)), ("x1.5x3", (1.5, 3.0))):
        for name, value in expected(hr_folder, weights, scale, last).items():
            # BasicSR computes luma in single precision; a pixel may round the other way
            assert results[f"{name}_{label}"] == pytest.approx(value, rel=1e-4), (name, label)


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


@pytest.fixture
def stored(judge: Judge, tmp_path: Path) -> tuple[Results, Path]:
    """Results of a test that saved its images, and their folder."""
    return judge(save_img=True), tmp_path / "visualization" / "whole"


def test_saved_lr_files_carry_what_restores_them(
    stored: tuple[Results, Path], hr_folder: Path, weights: Path
) -> None:
    folder = stored[1]
    names = {path.stem for path in hr_folder.glob("*.png")}
    cases = {"x2.5": (2.5, 2.5), "x1.5x3": (1.5, 3.0)}
    saved = {path.name for path in folder.glob("*.png")}
    assert saved == {f"{n}_{c}_{which}.png" for n in names for c in cases for which in ("hr", "lr")}
    mark = fingerprint(torch.load(weights)["params"])
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


def test_tiles_leave_the_figures_alone(judge: Judge) -> None:
    assert judge(tile=48) == pytest.approx(judge(), abs=0.01)  # a sample may be rounded otherwise


@pytest.mark.parametrize("file", [{"lr_format": "png"}, {"lr_format": "jpeg", "lr_quality": 80}])
def test_effort_restores_better_from_the_file(judge: Judge, file: dict[str, Any]) -> None:
    without, with_effort = judge(**file), judge(**file, effort=4)
    assert with_effort["bicubic_psnr_x2.5"] == without["bicubic_psnr_x2.5"]
    assert with_effort["hr_psnr_x2.5"] > without["hr_psnr_x2.5"]
    assert with_effort["lr_psnr_x2.5"] > without["lr_psnr_x2.5"] - 0.25


def test_half_precision_leaves_the_reference_alone(judge: Judge) -> None:
    full, half = judge(), judge(precision="bf16")
    assert half["bicubic_psnr_x2.5"] == full["bicubic_psnr_x2.5"]
    assert half["hr_psnr_x2.5"] != full["hr_psnr_x2.5"]
    assert half["hr_psnr_x2.5"] == pytest.approx(full["hr_psnr_x2.5"], rel=0.02)


# tables, files, the best ------------------------------------------------------------------------


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
    hr_folder: Path, weights: Path, tmp_path: Path, lines: list[str]
) -> None:
    options = changed(
        train_options(hr_folder, hr_folder),
        {
            "train: ema_decay": 0,
            "path: pretrain_network_g": str(weights),
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


def test_tensorboard_gets_every_mean(options: dict[str, Any], tmp_path: Path) -> None:
    class Board:
        def __init__(self) -> None:
            self.values: dict[tuple[str, int], float] = {}

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.values[name, step] = value

    model = AIDNModel(model_options(options, tmp_path, is_train=False))
    dataset = HRImageDataset(model.opt["datasets"]["test_1"])
    board = Board()
    model.validation(SimpleNamespace(dataset=dataset), 7, board)
    assert board.values == {
        (f"metrics/whole/{name}", 7): value for name, value in model.metric_results.items()
    }


def test_images_below_folders_keep_their_folder(
    options: dict[str, Any], hr_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "tree" / "a").mkdir(parents=True)
    (tmp_path / "tree" / "a" / "one.v2.png").write_bytes((hr_folder / "coffee.png").read_bytes())
    changes = {
        "datasets: test_1: dataroot_gt": f"{tmp_path}/tree/",
        "datasets: test_1: recursive": True,
        "val: suffix": "mine",
        "val: scales": [2],
    }
    model = AIDNModel(model_options(changed(options, changes), tmp_path, is_train=False))
    validate(model, "evaluated", save_img=True)
    folder = tmp_path / "visualization" / "whole"
    assert (folder / "a" / "one.v2_x2_lr_mine.png").is_file()
    assert json.loads((folder / "metrics.json").read_text())["images"][0]["image"] == "a/one.v2"


def test_without_metrics_only_images_are_written(judge: Judge, tmp_path: Path) -> None:
    assert judge(save_img=True, metrics=None) == {}
    folder = tmp_path / "visualization" / "whole"
    assert {path.suffix for path in folder.iterdir()} == {".png"}


def test_an_image_that_is_too_small_is_named(
    options: dict[str, Any], hr_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "tiny").mkdir()
    with Image.open(hr_folder / "coffee.png") as hr_image:
        hr_image.crop((0, 0, 14, 14)).save(tmp_path / "tiny" / "spot.png")
    changes = {"datasets: test_1: dataroot_gt": str(tmp_path / "tiny")}
    model = AIDNModel(model_options(changed(options, changes), tmp_path, is_train=False))
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


def _mean_difference(img: np.ndarray, img2: np.ndarray) -> float:
    return float(img.mean() - img2.mean())


def _plain(img: np.ndarray, img2: np.ndarray) -> float:
    return _mean_difference(img, img2)


def _bordered(img: np.ndarray, img2: np.ndarray, crop_border: int) -> float:
    inner = slice(crop_border, -crop_border)
    return _mean_difference(img[inner, inner], img2[inner, inner])


def _asking(img: np.ndarray, img2: np.ndarray, better: str, factor: float = 1) -> float:
    assert better == "lower"
    return factor * _mean_difference(img, img2)


def _open(img: np.ndarray, **keywords: Any) -> float:
    assert keywords.keys() == {"img2", "crop_border", "better"}
    return _bordered(img, keywords["img2"], keywords["crop_border"])


def _without_reference(img: np.ndarray) -> float:
    return float(img.mean())


def test_a_metric_of_a_plugin_gets_only_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = (_plain, _bordered, _asking, _open, _without_reference)
    monkeypatch.setattr(METRIC_REGISTRY, "_obj_map", {f.__name__: f for f in functions})
    metrics: dict[str, Any] = {
        function.__name__: {"type": function.__name__} for function in functions
    }
    metrics["_asking"] |= {"better": "lower", "factor": 2}
    torch.manual_seed(0)
    image, reference = torch.rand(2, 1, 3, 12, 16)
    options = {"metrics": metrics, "protocol": "float"}
    scores = Evaluation(options).score("noise", {"hr": EvaluatedImage(image, reference, 3)})
    first, second = (255 * x[..., 3:-3, 3:-3].mean().item() for x in (image, reference))
    assert scores == pytest.approx(
        {
            "_plain": first - second,
            "_bordered": first - second,
            "_asking": 2 * (first - second),
            "_open": first - second,
            "_without_reference": first,
        },
        rel=1e-4,
    )


def test_scales_are_required_before_anything_is_evaluated(
    options: dict[str, Any], tmp_path: Path
) -> None:
    for scales, message in ((None, "val: scales is missing"), ([5], "scale 5 is out of range")):
        opt = model_options(changed(options, {"val: scales": scales}), tmp_path, is_train=False)
        with pytest.raises(ValueError, match=message):
            AIDNModel(opt)

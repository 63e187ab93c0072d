"""Perceptual metrics: NIQE, LPIPS and DISTS, offline and without their released weights."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from basicsr.metrics import calculate_metric
from numpy.typing import NDArray
from skimage import data
from training import changed, test_options, train_options, write_options

from rescale_model.evaluation import metrics as rescale_metric
from rescale_model.evaluation.round_trip import EvaluatedImage
from rescale_model.evaluation.validation import Evaluation
from rescale_model.options import check_options

PACKAGES = {"calculate_lpips": "lpips", "calculate_dists": "DISTS_pytorch"}
FILES = {"calculate_lpips": "alexnet-owt-7be5be79.pth", "calculate_dists": "vgg16-397923af.pth"}


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Neither the network nor cached downloads are used."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)
    networks = (rescale_metric._lpips, rescale_metric._dists)
    for network in networks:
        network.cache_clear()
    yield
    for network in networks:
        network.cache_clear()


@pytest.fixture
def backbone(tmp_path: Path) -> Callable[[str], Path]:
    """Random weights of a metric's backbone, where torchvision keeps its own."""

    def save(metric: str) -> Path:
        torch.manual_seed(0)
        build = {
            "calculate_lpips": torchvision.models.alexnet,
            "calculate_dists": torchvision.models.vgg16,
        }[metric]
        path = tmp_path / "torch" / "hub" / "checkpoints" / FILES[metric]
        path.parent.mkdir(parents=True)
        torch.save(build(weights=None).state_dict(), path)
        return path

    return save


def photo(height: int = 192, width: int = 192) -> NDArray[np.uint8]:
    """BGR, as BasicSR's metrics take it."""
    hr_image = data.astronaut()[:height, 150 : 150 + width, ::-1]
    return np.array(hr_image, dtype=np.uint8)


def blurred(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    shifted = [np.roll(image, (y, x), (0, 1)) for y in range(-2, 3) for x in range(-2, 3)]
    return np.mean(shifted, axis=0).astype(np.uint8)


def evaluated(hr: NDArray[np.uint8], restored: NDArray[np.uint8]) -> dict[str, EvaluatedImage]:
    first, second = (
        torch.from_numpy(image[..., ::-1].transpose(2, 0, 1) / np.float32(255))[None]
        for image in (restored, hr)
    )
    return {"hr": EvaluatedImage(first, second, 2)}


def test_niqe_needs_no_reference_and_no_download() -> None:
    evaluation = Evaluation({"metrics": {"niqe": {"type": "calculate_niqe"}}})
    assert evaluation.metrics["niqe"]["better"] == "lower"
    hr = photo(200, 300)
    sharp = evaluation.score("sharp", evaluated(hr, hr))["niqe"]
    dull = evaluation.score("dull", evaluated(hr, blurred(hr)))["niqe"]
    assert 1 < sharp < dull < 100
    assert sharp == pytest.approx(
        calculate_metric({"img": hr}, {"type": "calculate_niqe", "crop_border": 2}), rel=1e-6
    )


@pytest.mark.parametrize(
    ("metric", "size", "least"),
    [
        ("calculate_niqe", (99, 250), "96 x 192"),
        ("calculate_niqe", (190, 190), "96 x 192"),
        ("calculate_lpips", (35, 80), "32 x 32"),
        ("calculate_dists", (19, 19), "16 x 16"),
    ],
)
def test_small_images_are_named(
    metric: str, size: tuple[int, int], least: str, backbone: Callable[[str], Path]
) -> None:
    if metric in PACKAGES:
        pytest.importorskip(PACKAGES[metric])
        backbone(metric)
    evaluation = Evaluation({"metrics": {"m": {"type": metric}}})
    hr = photo(*size)
    message = f"tiny: too small: m needs {least} pixels inside a border of 2"
    with pytest.raises(ValueError, match=message):
        evaluation.score("tiny", evaluated(hr, hr))


@pytest.mark.parametrize("metric", sorted(PACKAGES))
def test_distances_are_those_of_the_packages(metric: str, backbone: Callable[[str], Path]) -> None:
    pytest.importorskip(PACKAGES[metric])
    path = backbone(metric)
    hr, restored = photo(), blurred(photo())
    options = {"type": metric, "crop_border": 4, "better": "lower"}
    distance = calculate_metric({"img": restored, "img2": hr}, options)
    first, second = (
        torch.from_numpy(image[4:-4, 4:-4, ::-1].copy()).permute(2, 0, 1)[None] / 255
        for image in (restored, hr)
    )
    assert distance == pytest.approx(plain(metric, path)(first, second), rel=1e-4)
    assert isinstance(distance, float) and distance > 0.001
    assert calculate_metric({"img": hr, "img2": hr}, options) == pytest.approx(0, abs=1e-5)


def plain(metric: str, path: Path) -> Callable[[torch.Tensor, torch.Tensor], float]:
    """The package itself, with the backbone of ``path``."""
    weights = torch.load(path)
    if metric == "calculate_lpips":
        import lpips

        net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        own = net.net.state_dict()
        net.net.load_state_dict(
            {name: weights[f"features.{name.partition('.')[2]}"] for name in own}
        )
        return lambda first, second: net(first * 2 - 1, second * 2 - 1).item()
    import DISTS_pytorch

    dists = DISTS_pytorch.DISTS(load_weights=False)  # takes the backbone from torchvision's folder
    own = torch.load(Path(DISTS_pytorch.__file__).with_name("weights.pt"))
    dists.alpha.data, dists.beta.data = own["alpha"], own["beta"]
    return lambda first, second: dists(first, second).item()


def test_lpips_takes_a_file_of_its_backbone(backbone: Callable[[str], Path]) -> None:
    pytest.importorskip("lpips")
    elsewhere = backbone("calculate_lpips").rename("own.pth")
    options = {"type": "calculate_lpips", "crop_border": 0, "backbone": str(elsewhere)}
    assert calculate_metric({"img": photo(), "img2": blurred(photo())}, options) > 0
    elsewhere.unlink()


@pytest.mark.parametrize("metric", sorted(PACKAGES))
def test_autocast_does_not_reach_the_metric(metric: str, backbone: Callable[[str], Path]) -> None:
    pytest.importorskip(PACKAGES[metric])
    backbone(metric)
    images = {"img": photo(), "img2": blurred(photo())}
    options = {"type": metric, "crop_border": 0}
    exact = calculate_metric(images, options)
    with torch.autocast("cpu", torch.bfloat16):
        assert calculate_metric(images, options) == exact


# what is missing --------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", sorted(PACKAGES))
def test_a_missing_package_is_reported_with_the_command_to_install_it(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[metric], None)
    command = (
        "pip install " + {"calculate_lpips": "lpips", "calculate_dists": "dists-pytorch"}[metric]
    )
    with pytest.raises(ValueError, match=command):
        Evaluation({"metrics": {"m": {"type": metric}}})


class _PackageWithoutWeights:
    """Has the name of the package; the error is raised before anything in it is used."""


@pytest.mark.parametrize("metric", sorted(PACKAGES))
def test_missing_weights_are_reported_before_anything_runs(
    metric: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hr_folder: Path
) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[metric], _PackageWithoutWeights)
    weights = tmp_path / "net.pth"
    weights.touch()
    options = changed(test_options(hr_folder, weights), {"val: metrics": {"m": {"type": metric}}})
    file = write_options(tmp_path / "test.yml", options)
    with pytest.raises(ValueError, match=rf"download https://\S+{FILES[metric]} to") as told:
        check_options(str(file), is_train=False)
    assert str(told.value).startswith(f"{file}: val: metrics: m: ")
    assert str(tmp_path / "torch" / "hub" / "checkpoints" / FILES[metric]) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"type": "calculate_lpips", "net": "squeeze"},
            "net is 'squeeze': expected one of vgg, alex",
        ),
        ({"type": "calculate_lpips", "nett": "vgg"}, r"nett is unknown \(nearest known: net\)"),
        ({"type": "calculate_dists", "test_y_channel": True}, "test_y_channel is unknown"),
        ({"type": "calculate_lpip"}, r"nearest known: calculate_lpips"),
        (
            {"type": "calculate_psnr", "protocol": "16bit"},
            "protocol is '16bit': expected one of 8bit, fl",
        ),
    ],
)
def test_wrong_options_are_named(
    options: dict[str, Any], reason: str, hr_folder: Path, tmp_path: Path
) -> None:
    file = write_options(
        tmp_path / "train.yml",
        changed(train_options(hr_folder, hr_folder), {"val: metrics": {"m": options}}),
    )
    with pytest.raises(ValueError, match=reason):
        check_options(str(file), is_train=True)


def test_a_metric_may_have_a_protocol_of_its_own() -> None:
    psnr = {"type": "calculate_psnr"}
    metrics = {"first": psnr, "second": {**psnr, "protocol": "float"}}
    hr = photo()
    pair = evaluated(hr, blurred(hr))["hr"]
    unrounded = {"hr": EvaluatedImage(pair.image + 0.001, pair.reference, 2)}
    both = Evaluation({"metrics": metrics}).score("photo", unrounded)
    each = {
        protocol: Evaluation({"metrics": {"m": psnr}, "protocol": protocol}).score(
            "photo", unrounded
        )
        for protocol in ("8bit", "float")
    }
    assert both == {"first": each["8bit"]["m"], "second": each["float"]["m"]}
    assert both["first"] != both["second"]

"""Validation of VQIR against an independent computation, and training after it."""

import json
from pathlib import Path

import rescale_compat  # noqa: F401  must precede basicsr

import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_psnr
from torch import Tensor
from torch.utils.data import DataLoader
from training import Make, same, step
from vq_training import MODELS, VQ, perturbed

from rescale_arch import VQIR, imresize
from rescale_data.hr_dataset import HRImageDataset
from rescale_data.image_file import read_image, read_info
from rescale_data.weight_file import fingerprint


def cropped_psnr(image: Tensor, target: np.ndarray, border: int) -> float:
    pixels = (image.clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    return float(calculate_psnr(pixels, target, border))


def eight_bits(image: Tensor) -> np.ndarray:
    pixels: np.ndarray = (image.clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    return pixels


@pytest.mark.parametrize(("stage", "factor"), [(1, 16), (2, 16), (1, 32), (2, 32)])
def test_validation_against_an_independent_computation(
    load_vqir: Make, tmp_path: Path, hr_folder: Path, stage: int, factor: int
) -> None:
    torch.manual_seed(5)
    net = perturbed(VQIR(factor, stage, **VQ), 5).eval()  # type: ignore[arg-type]
    assert isinstance(net, VQIR)
    weights = tmp_path / "net.pth"
    torch.save(net.state_dict(), weights)
    # LR images are a few pixels wide
    metrics = {
        image: {"type": "calculate_psnr", "image": image} for image in MODELS[stage].evaluated
    }
    model = load_vqir(stage, weights, network_g__factor=factor, val__metrics=metrics)
    options = {"name": "whole", "phase": "val", "dataroot_gt": str(hr_folder)}
    dataset = HRImageDataset(options)
    model.validation(DataLoader(dataset), "test", None, save_img=True)
    folder = tmp_path / "visualization" / "whole"
    rows = json.loads((folder / "metrics.json").read_text())["images"]
    assert len(rows) == 4

    for row, sample in zip(rows, dataset, strict=True):
        hr = sample["gt"]
        height, width = hr.shape[-2:]
        case = f"x{factor}"
        assert row["case"] == case
        pixels = eight_bits(hr)

        def reduced(by: int, hr: Tensor = hr) -> Tensor:
            sides = [-(-side // by) for side in hr.shape[-2:]]
            return imresize(hr, (sides[0], sides[1]), 1 / by)

        with torch.no_grad():
            stored = torch.from_numpy(eight_bits(net.downscale(hr[None])[0]) / 255).float()
            lr = stored.permute(2, 0, 1)
            restored = net.upscale(lr[None], size=(height, width))[0]
            guide = reduced(factor)
            expected = {"lr": cropped_psnr(lr, eight_bits(guide), 1)}
            both_ways = imresize(
                torch.tensor(eight_bits(guide) / 255).permute(2, 0, 1).float(),
                (height, width),
                factor,
            )
            border = 16 if stage == 2 else factor
            expected["hr"] = cropped_psnr(restored, pixels, border)
            expected["bicubic"] = cropped_psnr(both_ways, pixels, border)
            if stage == 2:
                levels = net.levels(lr[None], size=(height, width))
                expected["half"] = cropped_psnr(levels.half[0], eight_bits(reduced(2)), 8)
                expected["quarter"] = cropped_psnr(levels.quarter[0], eight_bits(reduced(4)), 4)
        for name, value in expected.items():
            assert row[name] == pytest.approx(value, abs=1e-3), name
        assert row.keys() == {"image", "case", *expected}

        stem = folder / f"{row['image']}_{case}"
        assert (read_image(f"{stem}_lr.png") == (stored * 255).round().byte().numpy()).all()
        info = read_info(f"{stem}_lr.png")
        assert info is not None
        assert (info.network, info.scale, info.size) == (
            f"vqir{factor}",
            (factor, factor),
            (height, width),
        )
        assert info.weights == fingerprint(net.state_dict())
        kinds = {path.name[len(stem.name) + 1 :] for path in folder.glob(f"{stem.name}_*")}
        assert kinds == {f"{kind}.png" for kind in expected if kind != "bicubic"}


@pytest.mark.parametrize("stage", [1, 2])
def test_the_average_is_validated_and_training_continues(
    make_vqir: Make, hr_folder: Path, stage: int
) -> None:
    model, alone = (make_vqir(stage, train__ema_decay=0.5) for _ in range(2))
    dataset = HRImageDataset({"name": "whole", "phase": "val", "dataroot_gt": str(hr_folder)})
    for one in (model, alone):
        step(one, 1)
    model.validation(DataLoader(dataset), 1, None)
    assert model.fingerprint == fingerprint(model.net_g_ema.state_dict())
    for one in (model, alone):
        step(one, 2, seed=2)
    assert same(model.net_g.state_dict(), alone.net_g.state_dict())
    assert same(model.net_g_ema.state_dict(), alone.net_g_ema.state_dict())

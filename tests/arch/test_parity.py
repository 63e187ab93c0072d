"""The networks against stored outputs of the papers' reference networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import recipe
import torch
from torch import Tensor

from rescale_arch import AIDN, imresize
from rescale_arch.rounding import quantize

GOLDEN = Path(__file__).parents[1] / "golden"
AIDN_FILES = {"aidn": None, "aidn_fixed_x2": 2, "aidn_fixed_x4": 4}
AIDN_CASES = [
    *(("aidn", n) for n in range(5)),
    ("aidn_fixed_x2", 0),
    ("aidn_fixed_x4", 0),
]


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def hr_image(case: np.ndarray) -> tuple[Tensor, float]:
    """The image of a case (seed, H, W, ratio), and the ratio."""
    seed, height, width = (int(value) for value in case[:3])
    return torch.from_numpy(recipe.image(seed, height, width)), float(case[3])


@pytest.fixture(scope="module")
def networks() -> dict[str, AIDN]:
    return {name: recipe.fill(AIDN(fixed_scale=fixed)) for name, fixed in AIDN_FILES.items()}


@pytest.mark.parametrize("name", AIDN_FILES)
def test_state_dict_entries(networks: dict[str, AIDN], name: str) -> None:
    entries = sorted(f"{k} {list(v.shape)}" for k, v in networks[name].state_dict().items())
    assert entries == sorted(map(str, golden(name)["keys"]))


@pytest.mark.parametrize(("name", "number"), AIDN_CASES)
@torch.inference_mode()
def test_outputs(networks: dict[str, AIDN], name: str, number: int) -> None:
    expected = golden(name)
    hr, scale = hr_image(expected[f"case{number}"])
    net = networks[name]
    lr = net.downscale(hr, scale)
    expected_lr = torch.from_numpy(expected[f"lr{number}"])
    torch.testing.assert_close(lr, expected_lr, rtol=0, atol=2e-6)
    assert torch.equal(lr, net.downscale(hr, (scale, scale)))
    restored = net.upscale(quantize(expected_lr), scale, size=(hr.shape[-2], hr.shape[-1]))
    torch.testing.assert_close(
        restored, torch.from_numpy(expected[f"sr{number}"]), rtol=0, atol=2e-6
    )


def test_gradients() -> None:
    expected = golden("aidn_grad")
    hr, scale = hr_image(expected["case"])
    hr = torch.cat([hr, hr.flip(-1)])
    net = recipe.fill(AIDN()).train()
    lr, restored = net(hr, scale)
    reference = imresize(hr, (lr.shape[-2], lr.shape[-1]), 1 / scale)
    losses = torch.nn.functional.mse_loss(lr, reference), (restored - hr).abs().mean()
    np.testing.assert_allclose([loss.item() for loss in losses], expected["loss"], rtol=1e-5)
    sum(losses).backward()
    norms = {k: p.grad.norm().item() for k, p in net.named_parameters() if p.grad is not None}
    names = [str(name) for name in expected["names"]]
    assert norms.keys() == set(names)
    ours = np.array([norms[name] for name in names])
    np.testing.assert_allclose(ours, expected["norms"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("number", range(6))
def test_bicubic(number: int) -> None:
    expected = golden("bicubic")
    hr_image32, ratio = hr_image(expected[f"case{number}"])
    y = torch.from_numpy(expected[f"y{number}"])
    ours = imresize(hr_image32.double(), (y.shape[-2], y.shape[-1]), ratio)
    torch.testing.assert_close(ours, y, rtol=0, atol=1e-12)
    single = imresize(hr_image32, (y.shape[-2], y.shape[-1]), ratio)
    torch.testing.assert_close(single.double(), y, rtol=0, atol=1e-6)

"""VQGAN and VQIR against stored outputs of the papers' reference networks."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recipe
import torch
from torch import Tensor

from rescale_arch import VQGAN, VQIR
from rescale_arch.images import from_unit, to_unit

GOLDEN = Path(__file__).parents[1] / "golden"
VQIR_CASES = [(16, 1), (16, 2), (32, 1), (32, 2)]


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def constructor(expected: dict[str, np.ndarray]) -> dict[str, Any]:
    """The keywords of the reference's ``config`` that are ours; the others have one valid value."""
    config = ast.literal_eval(str(expected["config"]))
    fixed = {"in_channels": 3, "out_channels": 3, "double_z": False}
    assert {name: config.pop(name) for name in fixed} == fixed
    return dict(config)


def hr_image(expected: dict[str, np.ndarray]) -> Tensor:
    seed, height, width = (int(value) for value in expected["case"][:3])
    return torch.from_numpy(recipe.image(seed, height, width))


def assert_close(ours: Tensor, expected: np.ndarray, tolerance: float) -> None:
    torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=0, atol=tolerance)


def assert_entries(net: torch.nn.Module, expected: dict[str, np.ndarray]) -> None:
    entries = sorted(f"{k} {list(v.shape)}" for k, v in net.state_dict().items())
    assert entries == sorted(str(key) for key in expected["keys"] if ".temb_proj." not in str(key))


@torch.inference_mode()
def test_vqgan() -> None:
    expected = golden("vqgan")
    net = recipe.fill(VQGAN(**constructor(expected)))
    assert_entries(net, expected)
    x = hr_image(expected)
    codes, indices = net.encode(x)
    assert indices.flatten(1).tolist() == expected["indices"].tolist()
    assert_close(codes, expected["quant"], 1e-6)
    restored = from_unit(net.decode(codes))
    assert_close(restored, expected["dec"], 5e-5)
    assert_close(from_unit(net(x).restored), expected["dec"], 5e-5)


@pytest.fixture(scope="module", params=VQIR_CASES, ids=lambda case: "x{}-stage{}".format(*case))
def case(request: pytest.FixtureRequest) -> tuple[VQIR, dict[str, np.ndarray]]:
    factor, stage = request.param
    expected = golden(f"vqir{factor}_stage{stage}")
    return recipe.fill(VQIR(factor, stage, **constructor(expected))), expected


def test_vqir_state_dict_entries(case: tuple[VQIR, dict[str, np.ndarray]]) -> None:
    assert_entries(*case)


@torch.inference_mode()
def test_vqir_downscale(case: tuple[VQIR, dict[str, np.ndarray]]) -> None:
    net, expected = case
    hr = hr_image(expected)
    _, indices = net.encode(hr)
    assert indices.flatten(1).tolist() == expected["indices"].tolist()
    lr = net.downscale(hr)
    assert_close(from_unit(lr), expected["lr_raw"], 1e-6)
    reference = to_unit(torch.from_numpy(expected["lr_raw"]))  # ours may round either way
    assert_close(from_unit(net.round_lr(reference)), expected["LR"], 1e-6)


@pytest.mark.parametrize(
    ("given", "features", "indices", "prefix"),
    [("LR", "feat_back", "indices_back", ""), ("lr_in", "feat_in", "indices_in", "in_")],
)
@torch.inference_mode()
def test_vqir_upscale(
    case: tuple[VQIR, dict[str, np.ndarray]], given: str, features: str, indices: str, prefix: str
) -> None:
    net, expected = case
    height, width = (int(side) for side in expected["case"][1:3])
    lr = torch.from_numpy(expected[given])
    recovered = net.icrm.reverse(lr)
    assert_close(recovered, expected[features], 1e-6)
    assert net.quantize(recovered)[1].flatten(1).tolist() == expected[indices].tolist()
    restored = net.upscale(to_unit(lr), size=(height, width))
    if net.stage == 1:
        assert_close(from_unit(restored), expected[f"{prefix}SR"], 5e-5)
        return
    levels = net.levels(to_unit(lr), size=(height, width))
    assert torch.equal(levels.full, restored)
    assert_close(from_unit(levels.full), expected[f"{prefix}Level_1"], 5e-5)
    assert_close(from_unit(levels.half), expected[f"{prefix}Level_2"], 5e-5)
    assert_close(from_unit(levels.quarter), expected[f"{prefix}Level_4"], 5e-5)

"""The networks against plain implementations of the papers' formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.reference.aidn import PlainAIDN
from benchmarks.reference.vqir import PlainVQIR
from rescale_arch import AIDN, VQIR
from rescale_arch.rounding import quantize


def randomize(net: nn.Module, seed: int) -> nn.Module:
    """Fills ``net`` with random weights that keep signals in bounds; eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if not value.is_floating_point() or "mean." in name or "haar" in name:
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(1 + 0.2 * noise.abs())
            elif value.dim() < 2:
                value.copy_(0.1 * noise + (1.0 if "norm" in name and "weight" in name else 0.0))
            elif "icrm" in name and value.dim() == 2:  # a mix: invertible, but not orthogonal
                value.copy_(torch.linalg.qr(noise)[0] + 0.1 * torch.eye(len(noise)))
            elif "icrm" in name:  # what its couplings are off by grows on the way back
                value.copy_(0.5 * noise * value[0].numel() ** -0.5)
            else:
                value.copy_(noise * value[0].numel() ** -0.5)
    return net.eval()


AIDN_NUMBERS = {
    "num_feat": 16,
    "num_block": 5,
    "adapt_interval": 2,
    "num_adapt_expert": 3,
    "num_crm_expert": 5,
    "res_scale": 0.7,
}


@pytest.fixture(scope="module")
def aidns() -> tuple[AIDN, PlainAIDN]:
    ours, plain = AIDN(**AIDN_NUMBERS), PlainAIDN(**AIDN_NUMBERS)  # type: ignore[arg-type]
    plain.load_state_dict(randomize(ours, 1).state_dict())
    return ours, plain.eval()


@pytest.mark.parametrize(
    ("size", "scale"),
    [
        ((32, 32), 2.0),
        ((23, 41), 2.3),
        ((8, 9), 4.0),
        ((64, 37), 1.1),
        ((30, 45), (3.7, 1.0)),
        ((45, 31), (1.2, 2.9)),
    ],
)
@torch.inference_mode()
def test_aidn(
    aidns: tuple[AIDN, PlainAIDN], size: tuple[int, int], scale: float | tuple[float, float]
) -> None:
    ours, plain = aidns
    hr = torch.rand(2, 3, *size)
    lr = plain.downscale(hr, scale)
    close(ours.downscale(hr, scale), lr)
    stored = quantize(lr)
    expected = plain.upscale(stored, scale, size=size)
    close(ours.upscale(stored, scale, size=size), expected)
    assert expected.std() > 0.01


def test_aidn_learns_as_the_formulas_do(aidns: tuple[AIDN, PlainAIDN]) -> None:
    hr = torch.rand(2, 3, 24, 30)
    gradients = []
    for net in aidns:
        net.train()
        lr, restored = net(hr, 1.7)
        ((restored - hr).abs().mean() + (lr**2).mean()).backward()
        gradients.append({name: p.grad for name, p in net.named_parameters() if p.requires_grad})
        net.zero_grad(set_to_none=True)
        net.eval()
    ours, plain = gradients
    assert ours.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-5)


VQIR_NUMBERS = {
    "ch": 32,
    "ch_mult": (1, 2, 2, 1, 2),
    "num_res_blocks": 1,
    "z_channels": 48,
    "embed_dim": 64,
    "n_embed": 200,
}


@pytest.fixture(scope="module", params=[(16, 1), (16, 2), (32, 1), (32, 2)], ids=str)
def vqirs(request: pytest.FixtureRequest) -> tuple[VQIR, PlainVQIR]:
    factor, stage = request.param
    ours = VQIR(factor, stage, **VQIR_NUMBERS)  # type: ignore[arg-type]
    plain = PlainVQIR(factor, stage, **VQIR_NUMBERS)  # type: ignore[arg-type]
    plain.load_state_dict(randomize(ours, 2).state_dict())
    # in double precision, since rounding errors may choose another one of two codes
    return ours.double(), plain.double().eval()


@pytest.mark.parametrize("size", [(64, 64), (96, 32)])
@torch.inference_mode()
def test_vqir(vqirs: tuple[VQIR, PlainVQIR], size: tuple[int, int]) -> None:
    ours, plain = vqirs
    hr = torch.rand(2, 3, *size, dtype=torch.float64)
    codes, indices = ours.encode(hr)
    close(codes, plain.encode(hr))
    assert len(indices.unique()) > 5
    close(ours.decode(codes), plain.decode(codes))
    lr = plain.downscale(hr)
    close(ours.downscale(hr), lr)
    stored = quantize(lr)
    close(ours.icrm.reverse(2 * stored - 1), plain.icrm.reverse(2 * stored - 1))
    expected = plain.upscale(stored, size=size)
    close(ours.upscale(stored, size=size), expected)
    assert expected.std() > 0.01


def close(ours: Tensor, plain: Tensor) -> None:
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5)

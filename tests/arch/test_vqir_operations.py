"""The invertible operations of VQIR: definitions, both directions, and the inverse of a weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fake_cuda import fake_cuda
from tiny_networks import randomized

from rescale_arch.vqir.invertible import (
    AffineCoupling,
    Haar,
    InvertibleConv1x1,
    Operation,
    Projection,
    SpatialAttention,
)


def mix() -> InvertibleConv1x1:
    module = InvertibleConv1x1(12)
    with torch.no_grad():  # far from orthogonal
        module.weight.copy_(torch.eye(12) + 0.3 * torch.randn(12, 12).triu())
    return module


@pytest.mark.parametrize(
    "module",
    [lambda: randomized(AffineCoupling(12)), mix, lambda: Haar(12)],
    ids=["coupling", "mix", "haar"],
)
@torch.inference_mode()
def test_reverse_undoes_forward(module: Any) -> None:
    operation: Operation = module()
    x = torch.randn(2, 12, 6, 8)
    y = operation(x)
    assert not torch.allclose(y.flatten()[: x.numel()], x.flatten())
    torch.testing.assert_close(operation.reverse(y), x, rtol=0, atol=1e-5)
    torch.testing.assert_close(operation(operation.reverse(y)), y, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_couplings_start_as_the_identity() -> None:
    x = torch.randn(1, 8, 5, 5)
    assert torch.equal(AffineCoupling(8)(x), x)


@torch.inference_mode()
def test_coupling_is_the_papers() -> None:
    module = randomized(AffineCoupling(8))
    x1, x2 = torch.randn(1, 4, 5, 5), torch.randn(1, 4, 5, 5)
    y1 = x1 * torch.exp(2 * torch.sigmoid(module.G2(x2)) - 1) + module.H2(x2)
    y2 = x2 * torch.exp(2 * torch.sigmoid(module.G1(y1)) - 1) + module.H1(y1)
    expected = torch.cat((y1, y2), dim=1)
    torch.testing.assert_close(module(torch.cat((x1, x2), dim=1)), expected)


@torch.inference_mode()
def test_haar_groups_by_pattern() -> None:
    x = torch.randn(1, 3, 4, 6)
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    expected = torch.cat([a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d], dim=1) / 4
    torch.testing.assert_close(Haar(3)(x), expected)


@pytest.mark.parametrize(
    ("module", "kept"), [(Projection(8, 4), 4), (Projection(8, 3), 3), (SpatialAttention(8, 4), 8)]
)
def test_learned_operations_go_both_ways(module: Operation, kept: int) -> None:
    x = torch.randn(2, 8, 5, 6, requires_grad=True)
    y = module(x)
    assert y.shape == (2, kept, 5, 6)
    back = module.reverse(y)
    assert back.shape == x.shape
    back.square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_directions_of_attend_have_their_own_weights() -> None:
    module = SpatialAttention(8, 4)
    module(torch.randn(1, 8, 4, 4)).sum().backward()
    assert all(p.grad is None for p in module.back_att.parameters())
    assert all(p.grad is not None for p in module.forw_att.parameters())


def scale_weight(module: InvertibleConv1x1) -> None:
    with torch.no_grad():
        module.weight.mul_(2)


def average_weight(module: InvertibleConv1x1) -> None:
    """As BasicSR's ``model_ema`` does, which PyTorch's version counters do not see."""
    module.weight.data.mul_(0.9).add_(mix().weight.data, alpha=0.1)


def replace_weight(module: InvertibleConv1x1) -> None:
    module.weight.data = mix().weight.data


def load_weight(module: InvertibleConv1x1) -> None:
    module.load_state_dict(mix().state_dict())


def assign_weight(module: InvertibleConv1x1) -> None:
    module.load_state_dict(mix().state_dict(), assign=True)


def train_weight(module: InvertibleConv1x1) -> None:
    module.requires_grad_(True)
    module.reverse(torch.randn(1, 12, 3, 3)).square().sum().backward()
    assert module.weight.grad is not None
    scale_weight(module)


@pytest.mark.parametrize("inference", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "change",
    [scale_weight, average_weight, replace_weight, load_weight, assign_weight, train_weight],
)
def test_the_inverse_follows_the_weight(
    change: Callable[[InvertibleConv1x1], None], inference: Callable[[], Any]
) -> None:
    module = mix().requires_grad_(False)
    y = torch.randn(1, 12, 3, 3)
    with inference():
        torch.testing.assert_close(module(module.reverse(y)), y, rtol=0, atol=1e-5)
    change(module)
    with inference():
        torch.testing.assert_close(module(module.reverse(y)), y, rtol=0, atol=1e-5)
    y.requires_grad_()
    module.reverse(y).sum().backward()
    assert y.grad is not None


def test_the_inverse_does_not_wait_for_a_gpu() -> None:
    with fake_cuda() as gpu:
        module = InvertibleConv1x1(12).to(gpu.device)
        y = torch.randn(1, 12, 3, 3, device=gpu.device)
        with gpu.no_sync():
            module.reverse(y).sum().backward()


def test_a_weight_without_inverse_is_an_error() -> None:
    module = mix()
    with torch.no_grad():
        module.weight[3] = 0
    with pytest.raises(torch.linalg.LinAlgError, match="singular"):
        module.reverse(torch.randn(1, 12, 3, 3))

"""The losses against plain implementations of their papers' formulas."""

import sys
from pathlib import Path
from typing import Any

import rescale_compat  # noqa: F401  must precede torchvision

import pytest
import torch
import torchvision
from basicsr.losses import build_loss
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import rescale_model  # noqa: F401  registers the losses
from rescale_model.losses import CodeBookLoss, EdgeLoss, GradientLoss, GramLoss, LPIPSLoss


@pytest.mark.parametrize("cls", [CodeBookLoss, EdgeLoss, GradientLoss, GramLoss])
def test_basicsr_builds_it_by_name(cls: type[nn.Module]) -> None:
    loss = build_loss({"type": cls.__name__, "loss_weight": 3.0})
    assert type(loss) is cls
    a, b = torch.rand(2, 2, 3, 16, 16)
    torch.testing.assert_close(loss(a, b), 3 * cls()(a, b))
    assert loss(a, a) == 0


# codebook ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
def test_beta_is_on_the_right_term(legacy: bool) -> None:
    z = torch.tensor([1.0, 5.0], requires_grad=True)
    codes = torch.tensor([0.0, 2.0], requires_grad=True)
    loss = CodeBookLoss(2.0, beta=0.25, legacy_beta=legacy)(z, codes)
    assert loss.item() == pytest.approx(2 * (1 + 0.25) * (1 + 9) / 2)
    loss.backward()
    pull = torch.tensor([1.0, 3.0])  # the gradient of either mean square
    assert z.grad is not None and codes.grad is not None
    torch.testing.assert_close(z.grad, 2 * pull * (1 if legacy else 0.25))
    torch.testing.assert_close(codes.grad, -2 * pull * (0.25 if legacy else 1))


# Gram -------------------------------------------------------------------------------------------


def test_gram_is_over_positions() -> None:
    a, b = torch.rand(2, 2, 5, 2, 3)
    grams = torch.zeros(2, 2, 6, 6)
    for which, features in enumerate((a, b)):
        for image in range(2):
            for p in range(6):
                for q in range(6):
                    at_p, at_q = (features[image, :, i // 3, i % 3] for i in (p, q))
                    grams[which, image, p, q] = (at_p * at_q).sum() / 6
    torch.testing.assert_close(GramLoss()(a, b), (grams[0] - grams[1]).square().mean())


# edges ------------------------------------------------------------------------------------------


def plain_laplacian(x: Tensor) -> Tensor:
    """The kernel of 25 taps, pixel by pixel."""
    taps = torch.tensor([0.05, 0.25, 0.4, 0.25, 0.05])
    kernel = taps[:, None] * taps

    def blur(image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        out = torch.zeros_like(image)
        for y in range(height):
            for x in range(width):
                for dy in range(-2, 3):
                    for dx in range(-2, 3):
                        row = min(max(y + dy, 0), height - 1)
                        column = min(max(x + dx, 0), width - 1)
                        out[..., y, x] += kernel[dy + 2, dx + 2] * image[..., row, column]
        return out

    half = blur(x)[..., ::2, ::2]
    spread = torch.zeros_like(x)
    spread[..., ::2, ::2] = half * 4
    return x - blur(spread)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 4)])
def test_edges_are_compared_in_the_papers_range(size: tuple[int, int]) -> None:
    pred, target = torch.rand(2, 2, 3, *size)
    edges = [plain_laplacian(image * 2 - 1) for image in (pred, target)]
    expected = (edges[0] - edges[1]).abs().mean()
    torch.testing.assert_close(EdgeLoss()(pred, target), expected)


@given(height=st.integers(1, 20), width=st.integers(1, 20), channels=st.integers(1, 4))
def test_edges_of_any_size(height: int, width: int, channels: int) -> None:
    pred = torch.rand(1, channels, height, width, requires_grad=True)
    loss = EdgeLoss()(pred, torch.zeros(1, channels, height, width))
    loss.backward()
    assert pred.grad is not None
    assert loss.isfinite() and pred.grad.isfinite().all()


def test_edges_see_detail_and_no_shift_of_brightness() -> None:
    flat = torch.full((1, 3, 32, 32), 0.5)
    checks = flat.clone()
    checks[..., ::2, ::2] += 0.1
    inside = (slice(None), slice(None), slice(8, 24), slice(8, 24))
    loss = EdgeLoss()
    assert plain_laplacian(flat + 0.1)[inside].abs().max() < 1e-6
    assert loss(checks, flat) > loss(flat + 0.025, flat)


# gradients --------------------------------------------------------------------------------------


def plain_gradients(x: Tensor, scales: int) -> list[Tensor]:
    """Differences of neighbors, pixel by pixel, horizontal and vertical of each scale in turn."""
    result = []
    for scale in range(scales):
        side = 2**scale
        height, width = x.shape[-2] // side, x.shape[-1] // side
        small = torch.stack(
            [
                x[..., y * side : (y + 1) * side, c * side : (c + 1) * side].mean((-2, -1))
                for y in range(height)
                for c in range(width)
            ],
            dim=-1,
        ).unflatten(-1, (height, width))
        result.append(small[..., :, 1:] - small[..., :, :-1])
        result.append(small[..., 1:, :] - small[..., :-1, :])
    return result


@pytest.mark.parametrize("scales", [1, 2, 4])
@pytest.mark.parametrize("size", [(16, 32), (19, 17)])
def test_gradients_are_compared_at_every_scale(scales: int, size: tuple[int, int]) -> None:
    pred, target = torch.rand(2, 2, 3, *size)
    pairs = zip(
        plain_gradients(pred * 2 - 1, scales), plain_gradients(target * 2 - 1, scales), strict=True
    )
    expected = sum((x - y).abs().mean() for x, y in pairs)
    torch.testing.assert_close(GradientLoss(scales=scales)(pred, target), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_reach_the_restored_image(dtype: torch.dtype) -> None:
    pred, target = torch.rand(2, 1, 3, 24, 16).to(dtype)
    pred.requires_grad_(True)
    loss = GradientLoss()(pred, target)
    assert (loss.shape, loss.dtype) == ((), dtype)
    loss.backward()
    assert pred.grad is not None and pred.grad.isfinite().all() and pred.grad.any()
    assert not target.requires_grad


def test_gradients_see_large_edges_and_no_shift_of_brightness() -> None:
    image = torch.rand(1, 3, 32, 32)
    loss = GradientLoss()
    assert loss(image + 0.25, image) < 1e-5
    step = torch.zeros(1, 3, 32, 32)
    step[..., 16:] = 0.5
    fine = GradientLoss(scales=1)
    # an edge is as high at every scale, while one in so many differences has it: 31, 15, 7, 3
    shares = [1 / 31, 1 / 15, 1 / 7, 1 / 3]
    assert fine(step, torch.zeros_like(step)).item() == pytest.approx(shares[0])
    assert loss(step, torch.zeros_like(step)).item() == pytest.approx(sum(shares))


def test_gradients_of_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match="GradientLoss: scales is 0: expected at least 1"):
        GradientLoss(scales=0)
    GradientLoss()(*torch.rand(2, 1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"images of 15 x 40 pixels: 4 scales .* 16 x 16"):
        GradientLoss()(*torch.rand(2, 1, 3, 15, 40))


# LPIPS ------------------------------------------------------------------------------------------


def backbone(path: Path) -> nn.Module:
    """A random network of the right shape, saved as torchvision keeps its own."""
    torch.manual_seed(0)
    net: nn.Module = torchvision.models.vgg16(weights=None)
    torch.save(net.state_dict(), path)
    return net


def test_a_missing_package_is_reported_with_the_command_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ValueError, match="pip install lpips"):
        LPIPSLoss()


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="net is 'vgg19': expected one of vgg, alex"):
        LPIPSLoss(net="vgg19")


class _PackageWithoutWeights:
    """Has the name of the package; the error is raised before anything in it is used."""


@pytest.mark.parametrize("named", [False, True])
def test_missing_weights_are_reported_and_not_downloaded(
    named: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "lpips", _PackageWithoutWeights)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
    where = tmp_path / "own.pth" if named else tmp_path / "hub/checkpoints/vgg16-397923af.pth"
    with pytest.raises(FileNotFoundError, match=r"download \S+vgg16-397923af\.pth to") as caught:
        LPIPSLoss(backbone=str(where) if named else None)
    assert str(where) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cached", [True, False])
def test_distance_is_that_of_the_package(
    cached: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lpips: Any = pytest.importorskip("lpips", reason="the package lpips is not installed")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / ("hub/checkpoints/vgg16-397923af.pth" if cached else "own.pth")
    path.parent.mkdir(parents=True, exist_ok=True)
    features = backbone(path).features
    loss = LPIPSLoss(2.0, backbone=None if cached else str(path))
    plain = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    layers = [module for i in range(1, 6) for module in getattr(plain.net, f"slice{i}")]
    for ours, theirs in zip(layers, features, strict=False):
        ours.load_state_dict(theirs.state_dict())
    pred, target = torch.rand(2, 2, 3, 64, 48)
    pred.requires_grad_(True)
    expected = plain(pred * 2 - 1, target * 2 - 1).mean()
    distance = loss(pred, target)
    assert distance.item() == pytest.approx(2 * expected.item(), rel=1e-5)
    assert distance > 0 and loss(target, target) == 0
    distance.backward()
    assert pred.grad is not None and pred.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_other_weights_are_no_backbone(tmp_path: Path) -> None:
    pytest.importorskip("lpips", reason="the package lpips is not installed")
    path = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 5, 5)}, path)
    with pytest.raises(ValueError, match=r"other\.pth: .* features\.0\.weight does not match"):
        LPIPSLoss(backbone=str(path))

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import pytest
import torch
from fake_cuda import fake_cuda
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rescale_arch import VQGAN, VQIR
from rescale_arch.checkpoints import canonical_weights, load_strictly
from rescale_arch.memory_format import channels_last
from rescale_arch.rounding import quantize, rounding_noise
from rescale_arch.vqgan.architecture import swap_color_order
from rescale_arch.vqir import strip_attention
from rescale_arch.vqir.architecture import vqir_config
from rescale_arch.vqir.invertible import (
    AffineCoupling,
    Haar,
    InvertibleConv1x1,
    Operation,
    Projection,
    SpatialAttention,
)
from rescale_arch.vqir.network import Levels, Recovered
from rescale_arch.vqir.strip_attention import (
    InterStripAttention,
    IntraStripAttention,
    StripAttention,
)

TINY: dict[str, Any] = {
    "ch": 32,
    "ch_mult": (1, 1, 1, 1, 1),
    "num_res_blocks": 1,
    "z_channels": 16,
    "embed_dim": 32,
    "n_embed": 64,
}
Net = TypeVar("Net", bound=nn.Module)
CASES = [(16, 1), (16, 2), (32, 1), (32, 2)]


def tiny(factor: int = 16, stage: int = 1, **options: Any) -> VQIR:
    torch.manual_seed(0)
    net = VQIR(factor, stage, **{**TINY, **options})  # type: ignore[arg-type]
    return randomized(net).eval()


@cache
def shared(factor: int, stage: int) -> VQIR:
    """A network for tests that do not change it."""
    return tiny(factor, stage)


def randomized(net: Net) -> Net:
    """Makes couplings differ from the identity, and moves codes near the features."""
    for name, parameter in net.named_parameters():
        if ".conv3." in name:
            nn.init.normal_(parameter, std=0.1)
        elif name.endswith("embedding.weight"):
            nn.init.normal_(parameter, std=0.3)
    return net


# invertible operations


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


# strip attention


def strips_by_matrices(module: StripAttention, x: Tensor) -> Tensor:
    """The block as the papers state it, token by token, with explicit matrices."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(tokens, length) each."""
        heads = [part.chunk(module.heads, dim=1) for part in (q, k, v)]
        out = []
        for q_, k_, v_ in zip(*heads, strict=True):
            out.append(torch.softmax(q_ @ k_.T / q_.shape[1] ** 0.5, dim=-1) @ v_)
        return torch.cat(out, dim=1)

    def rows(features: Tensor, projection: nn.Module) -> Tensor:
        """(C/2, H, W) -> the same."""
        channels, height, width = features.shape
        if isinstance(module, IntraStripAttention):
            return torch.stack(
                [
                    attend(*projection(features[:, row].T).chunk(3, dim=1)).T
                    for row in range(height)
                ],
                dim=1,
            )
        qkv = [
            part.permute(1, 0, 2).reshape(height, channels * width)
            for part in projection(features[None])[0].chunk(3)
        ]
        return attend(*qkv).view(height, channels, width).permute(1, 0, 2)

    def norm(layer: nn.LayerNorm, features: Tensor) -> Tensor:
        mean = features.mean(1, keepdim=True)
        variance = features.var(1, unbiased=False, keepdim=True)
        scaled = (features - mean) / (variance + 1e-5).sqrt()
        return scaled * layer.weight[:, None, None] + layer.bias[:, None, None]

    kind = "qkv_local" if isinstance(module, IntraStripAttention) else "conv"
    of_h, of_v = getattr(module, f"{kind}_h"), getattr(module, f"{kind}_v")
    out = []
    for image in module.conv_input(norm(module.attention_norm, x)):
        h, v = image.chunk(2)
        out.append(torch.cat([rows(h, of_h), rows(v.mT, of_v).mT]))
    x = x + module.fuse_out(torch.stack(out))
    hidden = norm(module.ffn_norm, x).permute(0, 2, 3, 1) @ module.ffn.fc1.weight.T
    hidden = nn.functional.gelu(hidden + module.ffn.fc1.bias)
    x = x + (hidden @ module.ffn.fc2.weight.T + module.ffn.fc2.bias).permute(0, 3, 1, 2)
    return x + module.PEG.PEG(x)


@pytest.mark.parametrize("channels", [32, 128, 192])
@pytest.mark.parametrize("kind", [IntraStripAttention, InterStripAttention])
@torch.inference_mode()
def test_strip_attention_is_the_papers(kind: type[StripAttention], channels: int) -> None:
    module = kind(channels).double()
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=2 * parameter[0].numel() ** -0.5)
        else:
            nn.init.normal_(parameter, mean=1.0, std=0.3)
    x = torch.randn(2, channels, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(module(x), strips_by_matrices(module, x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wide_heads_attend_as_narrow_ones_do(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = (torch.randn(2, 3, 11, 50, dtype=dtype, requires_grad=True) for _ in range(3))

    def attended() -> tuple[Tensor, ...]:
        out = strip_attention._attention(q, k, v)
        return out, *torch.autograd.grad(out.float().square().sum(), (q, k, v))

    expected = attended()
    monkeypatch.setattr(strip_attention, "_WIDEST_HEAD", 49)
    monkeypatch.setattr(strip_attention, "_SUMMED_AT_ONCE", 16)
    tolerance = 1e-5 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(attended(), expected, rtol=tolerance, atol=tolerance)


def test_strips_refuse_channels_that_heads_do_not_divide() -> None:
    with pytest.raises(ValueError, match="channels is 224, whose half is not divisible by 3 heads"):
        IntraStripAttention(224)


# rounding


def test_noise_is_of_the_size_of_the_rounding() -> None:
    x = torch.rand(1, 3, 50, 50) * 0.9 + 0.05
    levels = (rounding_noise(x) - x) * 255
    assert levels.abs().max() <= 0.5 + 1e-4
    assert levels.std().item() == pytest.approx(12**-0.5, rel=0.05)
    assert levels.mean().abs() < 0.02
    far = torch.tensor([-0.5, 0.5, 1.5], requires_grad=True)
    noisy = rounding_noise(far)
    assert noisy[0] == 0
    assert noisy[2] == 1
    noisy.sum().backward()
    assert far.grad is not None
    assert far.grad.tolist() == [0, 1, 0]


def test_rounding_is_noise_in_training_of_stage_1_only() -> None:
    lr = torch.rand(1, 3, 4, 4)
    rounded = quantize(lr)
    for stage in (1, 2):
        net = tiny(stage=stage)
        assert torch.equal(net.round_lr(lr), rounded)
        assert torch.equal(net.train().round_lr(lr), rounded) == (stage == 2)


# the network


@given(st.sampled_from(CASES), st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=24)
def test_any_size_comes_back_exact(case: tuple[int, int], more_h: int, more_w: int) -> None:
    factor, stage = case
    net = shared(factor, stage)
    height, width = factor + more_h, factor + more_w
    hr = torch.rand(2, 3, height, width)
    with torch.inference_mode():
        lr = net.round_lr(net.downscale(hr))
        restored = net.upscale(lr, size=(height, width))
    assert lr.shape == (2, 3, -(-height // factor), -(-width // factor))
    assert lr.shape[-2:] == net.lr_size((height, width))
    assert restored.shape == hr.shape
    assert restored.isfinite().all()
    if stage == 2:
        with torch.inference_mode():
            levels = net.levels(lr, size=(height, width))
        assert levels.full.shape == hr.shape
        assert levels.half.shape[-2:] == (-(-height // 2), -(-width // 2))
        assert levels.quarter.shape[-2:] == (-(-height // 4), -(-width // 4))


@torch.inference_mode()
def test_padding_is_reflection_right_and_below() -> None:
    net = tiny()
    hr = torch.rand(1, 3, 21, 32)
    padded = torch.cat([hr, hr[:, :, 9:20].flip(2)], dim=2)
    assert torch.equal(net.downscale(hr), net.downscale(padded))


def test_stage_1_trains_the_recovery_alone() -> None:
    net = tiny(stage=1).train()
    out = net(torch.rand(2, 3, 40, 33))
    assert isinstance(out, Recovered)
    assert out.lr.shape == (2, 3, 3, 3)
    assert out.zq.shape == out.zb.shape == (2, 32, 3, 3)
    assert not out.zq.requires_grad
    (out.lr.square().mean() + (out.zb - out.zq).square().mean()).backward()
    assert_trained(net, "icrm")


def test_gradients_flow_through_the_8_bit_step() -> None:
    """From the recovered features alone to what makes the LR image."""
    for net in (tiny(stage=1).train(), tiny(stage=1)):
        torch.nn.init.constant_(net.icrm.inpfeat_extraction[3].conv1.bias, 0.0)
        out = net(torch.rand(1, 3, 32, 32))
        assert out.lr.min() > 0
        assert out.lr.max() < 1
        (out.zb - out.zq).square().mean().backward()
        weight = net.icrm.operations[3].conv1.weight  # used forward only
        assert weight.grad is not None
        assert weight.grad.abs().sum() > 0


def test_stage_2_trains_the_refinement_alone() -> None:
    net = tiny(stage=2).train()
    out = net(torch.rand(2, 3, 40, 33))
    assert isinstance(out, Levels)
    sum(level.square().mean() for level in out).backward()
    assert_trained(net, "refine")


def assert_trained(net: VQIR, part: str) -> None:
    assert net.trained_part == part
    trained = {id(parameter) for parameter in net.trained_parameters()}
    for name, parameter in net.named_parameters():
        is_trained = name.startswith(f"{part}.")
        assert parameter.requires_grad == is_trained, name
        assert (id(parameter) in trained) == is_trained, name
        assert (parameter.grad is not None) == is_trained, name
    for name, child in net.named_children():
        assert all(module.training == (name == part) for module in child.modules()), name
    assert net.training
    assert not any(module.training for module in net.eval().modules())


@pytest.mark.parametrize(("factor", "stage"), CASES)
def test_frozen_parts_keep_no_activations(factor: int, stage: int) -> None:
    net = tiny(factor, stage).train()
    trained = set(net.get_submodule(net.trained_part).modules())
    outside = [module for module in net.modules() if not [*module.children()]]
    seen: list[bool] = []
    for module in outside:
        if module not in trained:
            module.register_forward_hook(lambda *args: seen.append(args[2].requires_grad))
    net.quantize.register_forward_hook(lambda *args: seen.append(args[2][0].requires_grad))
    hr = torch.rand(1, 3, 32, 32, requires_grad=True)
    first, *_ = net(hr)
    restored = net.upscale(quantize(torch.rand_like(net.downscale(hr))), size=(32, 32))
    assert len(seen) > 20
    assert not any(seen)
    assert first.requires_grad
    assert restored.requires_grad == (stage == 2)


@torch.inference_mode()
def test_forward_is_downscale_and_upscale() -> None:
    hr = torch.rand(1, 3, 37, 50)
    net = tiny(stage=2)
    lr = net.round_lr(net.downscale(hr))
    for ours, expected in zip(net(hr), net.levels(lr, size=(37, 50)), strict=True):
        assert torch.equal(ours, expected)
    assert torch.equal(net(hr).full, net.upscale(lr, size=(37, 50)))
    first = tiny(stage=1)
    recovered = first(hr)
    assert torch.equal(recovered.lr, first.downscale(hr))
    codes, _ = first.quantize(recovered.zb)
    restored = first.decode(codes)[..., :37, :50]
    assert torch.equal(first.upscale(first.round_lr(recovered.lr), size=(37, 50)), restored)


@torch.inference_mode()
def test_images_of_a_batch_are_independent() -> None:
    net = tiny(32, 2)
    hr = torch.rand(3, 3, 64, 40)
    lr = net.round_lr(net.downscale(hr))
    restored = net.upscale(lr, size=(64, 40))
    for index in range(3):
        alone = net.upscale(lr[index : index + 1], size=(64, 40))
        torch.testing.assert_close(alone[0], restored[index], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("factor", "stage"), [(16, 1), (32, 2)])
@torch.inference_mode()
def test_channels_last_and_bfloat16(factor: int, stage: int) -> None:
    hr = torch.rand(1, 3, 64, 96)
    net = tiny(factor, stage)
    lr = net.downscale(hr)
    stored = net.round_lr(lr)
    restored = net.upscale(stored, size=(64, 96))
    net = channels_last(net)
    ours = net.downscale(hr.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(ours, lr, rtol=0, atol=1e-5)
    again = net.upscale(stored, size=(64, 96))
    torch.testing.assert_close(again, restored, rtol=0, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        lr16 = net.downscale(hr)
        half = net.upscale(stored, size=(64, 96))
    assert lr16.dtype == half.dtype == torch.float32
    assert (half - restored).abs().max() < 0.1
    assert (half - restored).abs().mean() < 0.01


# weights


@pytest.mark.parametrize(("factor", "stage"), CASES)
def test_config_and_state_dict_round_trip(factor: int, stage: int) -> None:
    net = tiny(factor, stage)
    twin = VQIR(**vqir_config(net.state_dict())).eval()
    assert (twin.factor, twin.stage) == (factor, stage)
    load_strictly(twin, net.state_dict(), "twin")
    hr = torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        for ours, theirs in zip(twin(hr), net(hr), strict=True):
            assert torch.equal(ours, theirs)


def test_each_step_starts_from_the_one_before() -> None:
    torch.manual_seed(1)
    vqgan, first, second = VQGAN(**TINY), VQIR(16, 1, **TINY), VQIR(16, 2, **TINY)
    kept = first.icrm.operations[0].G1.conv1.weight.clone()
    load_strictly(first, vqgan.state_dict(), "vqgan.ckpt", without="icrm")
    assert torch.equal(first.icrm.operations[0].G1.conv1.weight, kept)
    load_strictly(second, first.state_dict(), "stage1.pth", without="refine")
    x = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(vqgan.encode(x)[1], second.encode(x)[1])
        assert torch.equal(first.downscale(x), second.downscale(x))
    with pytest.raises(ValueError, match=r"vqgan\.ckpt does not fit VQIR: \d+ missing: icrm\."):
        load_strictly(first, vqgan.state_dict(), "vqgan.ckpt")
    with pytest.raises(ValueError, match=r"stage2\.pth does not fit VQIR: \d+ unexpected: refine"):
        load_strictly(first, second.state_dict(), "stage2.pth")
    with pytest.raises(ValueError, match=r"stage1\.pth does not fit VQIR: \d+ unexpected: icrm"):
        load_strictly(first, first.state_dict(), "stage1.pth", without="icrm")
    with pytest.raises(ValueError, match="not the weights of a VQIR"):
        vqir_config(vqgan.state_dict())


def test_unused_entries_of_released_weights_are_dropped() -> None:
    net = tiny(stage=2)
    unused = {
        f"refine.refine_out.{index}.temb_proj.{name}": torch.zeros(1)
        for index in (0, 1)
        for name in ("weight", "bias")
    }
    weights = canonical_weights({"params": {**net.state_dict(), **unused}})
    load_strictly(tiny(stage=2), weights, "stage2.pth")


@pytest.mark.parametrize(("factor", "stage"), CASES)
@torch.inference_mode()
def test_color_order_is_swapped_exactly(factor: int, stage: int) -> None:
    rgb, bgr = tiny(factor, stage), tiny(factor, stage)
    load_strictly(bgr, swap_color_order(rgb.state_dict()), "bgr")
    hr = torch.rand(1, 3, 64, 32)
    lr = rgb.downscale(hr)
    torch.testing.assert_close(bgr.downscale(hr.flip(1)), lr.flip(1), rtol=0, atol=1e-6)
    assert not torch.allclose(lr, lr.flip(1), atol=1e-3)
    stored = rgb.round_lr(lr)
    ours = rgb.upscale(stored, size=(64, 32))
    theirs = bgr.upscale(stored.flip(1), size=(64, 32))
    torch.testing.assert_close(theirs, ours.flip(1), rtol=0, atol=1e-5)
    assert not torch.allclose(ours, ours.flip(1), atol=1e-3)
    if stage == 2:
        levels, flipped = (
            rgb.levels(stored, size=(64, 32)),
            bgr.levels(stored.flip(1), size=(64, 32)),
        )
        for a, b in zip(levels, flipped, strict=True):
            torch.testing.assert_close(a, b.flip(1), rtol=0, atol=1e-5)


# errors


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"factor": 8}, "factor is 8: expected one of 16, 32"),
        ({"stage": 3}, "stage is 3: expected one of 1, 2"),
        ({"ch_mult": (1, 1, 1)}, "ch_mult is .*five numbers"),
        ({"embed_dim": 48}, "embed_dim is 48: expected a multiple of 32"),
        ({"ch": 30}, "ch is 30"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], culprit: str) -> None:
    at = (64,) if len(options.get("ch_mult", "five!")) == 3 else (16,)
    with pytest.raises(ValueError, match=culprit) as caught:
        tiny(**options, attn_resolutions=at)
    assert "\n" not in str(caught.value)


def test_bad_input_is_named() -> None:
    net = tiny(32)
    hr = torch.rand(1, 3, 64, 64)
    for call, culprit in (
        (lambda: net.downscale(hr[:, :, :31]), "hr is 31 x 64 pixels .* at least 32 x 32"),
        (lambda: net(hr[:, :, :, :16]), "hr is 64 x 16 pixels"),
        (lambda: net.downscale(hr[:, :1]), r"hr has shape \(1, 1, 64, 64\): expected RGB images"),
        (lambda: net.upscale(hr, size=(64, 64)), "lr is 64 x 64 .* has an LR image of 2 x 2"),
        (lambda: net.upscale(hr[:, :2], size=(64, 64)), r"lr has shape \(1, 2, 64, 64\)"),
        (lambda: net.upscale(hr, size=(8, 64)), r"size \(8, 64\) has a side below 32"),
        (lambda: net.levels(hr, size=(64, 64)), "levels need a network of stage 2"),
    ):
        with pytest.raises(ValueError, match=culprit) as caught:
            call()
        assert "\n" not in str(caught.value)

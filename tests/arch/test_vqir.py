"""The networks of VQIR: sizes, rounding, what each stage trains, weights, and errors."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import VQ_TINY, tiny_vqir

from rescale_arch import VQGAN, VQIR
from rescale_arch.checkpoints import canonical_weights, load_strictly
from rescale_arch.memory_format import channels_last
from rescale_arch.rounding import quantize, rounding_noise
from rescale_arch.vqgan.architecture import swap_color_order
from rescale_arch.vqir.architecture import vqir_config
from rescale_arch.vqir.network import Levels, Recovered

CASES = [(16, 1), (16, 2), (32, 1), (32, 2)]


@cache
def shared(factor: int, stage: int) -> VQIR:
    """A network for tests that do not change it."""
    return tiny_vqir(factor, stage)


# rounding ---------------------------------------------------------------------------------------


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
        net = tiny_vqir(stage=stage)
        assert torch.equal(net.round_lr(lr), rounded)
        assert torch.equal(net.train().round_lr(lr), rounded) == (stage == 2)


# sizes and precision ----------------------------------------------------------------------------


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
    net = tiny_vqir()
    hr = torch.rand(1, 3, 21, 32)
    padded = torch.cat([hr, hr[:, :, 9:20].flip(2)], dim=2)
    assert torch.equal(net.downscale(hr), net.downscale(padded))


@torch.inference_mode()
def test_forward_is_downscale_and_upscale() -> None:
    hr = torch.rand(1, 3, 37, 50)
    net = tiny_vqir(stage=2)
    lr = net.round_lr(net.downscale(hr))
    for ours, expected in zip(net(hr), net.levels(lr, size=(37, 50)), strict=True):
        assert torch.equal(ours, expected)
    assert torch.equal(net(hr).full, net.upscale(lr, size=(37, 50)))
    first = tiny_vqir(stage=1)
    recovered = first(hr)
    assert torch.equal(recovered.lr, first.downscale(hr))
    codes, _ = first.quantize(recovered.zb)
    restored = first.decode(codes)[..., :37, :50]
    assert torch.equal(first.upscale(first.round_lr(recovered.lr), size=(37, 50)), restored)


@torch.inference_mode()
def test_images_of_a_batch_are_independent() -> None:
    net = tiny_vqir(32, 2)
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
    net = tiny_vqir(factor, stage)
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


# training ---------------------------------------------------------------------------------------


def test_stage_1_trains_the_recovery_alone() -> None:
    net = tiny_vqir(stage=1).train()
    out = net(torch.rand(2, 3, 40, 33))
    assert isinstance(out, Recovered)
    assert out.lr.shape == (2, 3, 3, 3)
    assert out.zq.shape == out.zb.shape == (2, 32, 3, 3)
    assert not out.zq.requires_grad
    (out.lr.square().mean() + (out.zb - out.zq).square().mean()).backward()
    assert_trained(net, "icrm")


def test_gradients_flow_through_the_8_bit_step() -> None:
    """From the recovered features alone to what makes the LR image."""
    for net in (tiny_vqir(stage=1).train(), tiny_vqir(stage=1)):
        torch.nn.init.constant_(net.icrm.inpfeat_extraction[3].conv1.bias, 0.0)
        out = net(torch.rand(1, 3, 32, 32))
        assert out.lr.min() > 0
        assert out.lr.max() < 1
        (out.zb - out.zq).square().mean().backward()
        weight = net.icrm.operations[3].conv1.weight  # used forward only
        assert weight.grad is not None
        assert weight.grad.abs().sum() > 0


def test_stage_2_trains_the_refinement_alone() -> None:
    net = tiny_vqir(stage=2).train()
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
    net = tiny_vqir(factor, stage).train()
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


# weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "stage"), CASES)
def test_config_and_state_dict_round_trip(factor: int, stage: int) -> None:
    net = tiny_vqir(factor, stage)
    twin = VQIR(**vqir_config(net.state_dict())).eval()
    assert (twin.factor, twin.stage) == (factor, stage)
    load_strictly(twin, net.state_dict(), "twin")
    hr = torch.rand(1, 3, 32, 48)
    with torch.inference_mode():
        for ours, theirs in zip(twin(hr), net(hr), strict=True):
            assert torch.equal(ours, theirs)


def test_each_step_starts_from_the_one_before() -> None:
    torch.manual_seed(1)
    vqgan, first, second = VQGAN(**VQ_TINY), VQIR(16, 1, **VQ_TINY), VQIR(16, 2, **VQ_TINY)
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
    net = tiny_vqir(stage=2)
    unused = {
        f"refine.refine_out.{index}.temb_proj.{name}": torch.zeros(1)
        for index in (0, 1)
        for name in ("weight", "bias")
    }
    weights = canonical_weights({"params": {**net.state_dict(), **unused}})
    load_strictly(tiny_vqir(stage=2), weights, "stage2.pth")


@pytest.mark.parametrize(("factor", "stage"), CASES)
@torch.inference_mode()
def test_color_order_is_swapped_exactly(factor: int, stage: int) -> None:
    rgb, bgr = tiny_vqir(factor, stage), tiny_vqir(factor, stage)
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


# errors -----------------------------------------------------------------------------------------


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
        tiny_vqir(**options, attn_resolutions=at)
    assert "\n" not in str(caught.value)


def test_bad_input_is_named() -> None:
    net = tiny_vqir(32)
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

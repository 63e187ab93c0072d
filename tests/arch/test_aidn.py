from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import AIDN_TINY
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rescale_arch import AIDN, lr_size
from rescale_arch.aidn.conditional_resampling import (
    ConditionalResampling,
    Sampling,
    init_experts,
)
from rescale_arch.memory_format import channels_last
from rescale_arch.rounding import quantize

HALF: dict[str, Any] = {"down_unshuffle": 2, "down_num_feat": 16}


def tiny(**options: Any) -> AIDN:
    torch.manual_seed(0)
    return AIDN(**{**AIDN_TINY, **options}).eval()


def tiny_fixed(scale: int) -> AIDN:
    torch.manual_seed(0)
    return AIDN(num_feat=8, num_block=2, fixed_scale=scale).eval()  # type: ignore[arg-type]


@given(
    st.integers(8, 50),
    st.integers(8, 50),
    st.tuples(st.floats(1.0, 4.0), st.floats(1.01, 4.0)) | st.floats(1.01, 4.0),
    st.sampled_from([{}, HALF, {"down_unshuffle": 3}]),
)
@settings(max_examples=60, deadline=None)
def test_any_size_and_scale_comes_back_exact(
    height: int, width: int, scale: float | tuple[float, float], options: dict[str, Any]
) -> None:
    net = tiny(**options)
    hr = torch.rand(2, 3, height, width)
    with torch.inference_mode():
        lr, restored = net(hr, scale)
    assert lr.shape == (2, 3, *lr_size((height, width), scale))
    assert restored.shape == hr.shape
    assert restored.isfinite().all()


@pytest.mark.parametrize("fixed", [2, 3, 4])
@pytest.mark.parametrize("size", [(8, 8), (9, 11), (13, 24), (25, 26)])
def test_fixed_scale_takes_any_size(fixed: int, size: tuple[int, int]) -> None:
    net = tiny_fixed(fixed)
    with torch.inference_mode():
        lr, restored = net(torch.rand(1, 3, *size))
    assert lr.shape[-2:] == lr_size(size, fixed)
    assert restored.shape[-2:] == size


@pytest.mark.parametrize("options", [{}, HALF])
@torch.inference_mode()
def test_images_of_a_batch_are_independent(options: dict[str, Any]) -> None:
    net = tiny(**options)
    hr = torch.rand(3, 3, 21, 17)
    lr, restored = net(hr, 1.7)
    for index in range(3):
        lr_alone, alone = net(hr[index : index + 1], 1.7)
        torch.testing.assert_close(lr[index : index + 1], lr_alone, rtol=0, atol=1e-6)
        torch.testing.assert_close(restored[index : index + 1], alone, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_axes_have_their_own_factor() -> None:
    """Transposing the image and the pair transposes the result, if the kernels are symmetric."""
    net = tiny()
    for parameter in net.parameters():
        if parameter.dim() >= 4 and parameter.shape[-1] == 3:
            parameter.copy_((parameter + parameter.mT) / 2)
    for trunk in (net.down_net, net.up_net):
        for adaption in trunk.sa_adapt:
            layer = adaption.adapt.routing[0]
            layer.weight.copy_(layer.weight.mean(1, keepdim=True).expand_as(layer.weight))
        embed = trunk.sa_sample.body[0].weight
        embed[:, 0] = embed[:, 1]
        embed[:, 2] = embed[:, 3]
        offset = trunk.sa_sample.offset
        offset.weight[0] = offset.weight[1]
        offset.bias[0] = offset.bias[1]
    hr = torch.rand(1, 3, 20, 31)
    lr, restored = net(hr, (1.5, 2.6))
    lr_t, restored_t = net(hr.mT, (2.6, 1.5))
    torch.testing.assert_close(lr_t, lr.mT, rtol=0, atol=1e-5)
    torch.testing.assert_close(restored_t, restored.mT, rtol=0, atol=1e-5)
    lr_swapped, _ = net(hr, (2.6, 1.5))
    assert lr_swapped.shape != lr.shape


def crm_by_matrices(
    crm: ConditionalResampling, x: Tensor, ratio: tuple[float, float], size: tuple[int, int]
) -> Tensor:
    """The module as the paper states it: explicit maps, and a matrix for every pixel."""
    height, width = x.shape[-2:]
    at = [(torch.arange(n) + 0.5) / t for n, t in zip(size, ratio, strict=True)]
    position = [a - 0.5 for a in at]
    phase = [a - torch.floor(a + 1e-3) - 0.5 for a in at]

    def sample(rows: Tensor, columns: Tensor) -> Tensor:
        out = torch.zeros(x.shape[1], *size)
        for i in range(size[0]):
            for j in range(size[1]):
                top, left = rows[i, j].floor(), columns[i, j].floor()
                for row in (top, top + 1):
                    for column in (left, left + 1):
                        if 0 <= row < height and 0 <= column < width:
                            weight = (1 - (rows[i, j] - row).abs()) * (
                                1 - (columns[i, j] - column).abs()
                            )
                            out[:, i, j] += weight * x[0, :, int(row), int(column)]
        return out

    rows, columns = torch.meshgrid(position[0], position[1], indexing="ij")
    f0 = sample(rows, columns)
    maps = torch.stack(
        [
            torch.full(size, 1 / ratio[0]),
            torch.full(size, 1 / ratio[1]),
            phase[0][:, None].expand(size),
            phase[1][None, :].expand(size),
        ]
    )
    embedding = crm.body(torch.cat([maps, f0])[None])
    offset = crm.offset(embedding)[0]
    f1 = sample(rows + offset[1], columns + offset[0])
    routing = crm.routing(embedding)[0]
    compress = torch.einsum("ehw,eoc->hwoc", routing, crm.weight_compress[..., 0, 0])
    expand = torch.einsum("ehw,eco->hwco", routing, crm.weight_expand[..., 0, 0])
    filtered = torch.einsum("hwco,hwod,dhw->chw", expand, compress, f1)
    return (f1 + filtered)[None]


@pytest.mark.parametrize("ratio", [(0.4, 0.4), (1 / 3.7, 0.8), (2.5, 2.5), (1.0, 3.3)])
@torch.inference_mode()
def test_conditional_resampling_is_the_papers(ratio: tuple[float, float]) -> None:
    torch.manual_seed(1)
    crm = ConditionalResampling(16, 3)
    nn.init.normal_(crm.offset.weight)
    x = torch.randn(1, 16, 9, 12)
    size = (round(9 * ratio[0]), round(12 * ratio[1]))
    out = crm(x, Sampling.of(ratio, size, x))
    torch.testing.assert_close(out, crm_by_matrices(crm, x, ratio, size), rtol=0, atol=1e-5)


@pytest.mark.parametrize("unshuffle", [1, 2, 3])
@pytest.mark.parametrize("scale", [(1.4, 2.5), (1.0, 3.7), (2.0, 2.0)])
@torch.inference_mode()
def test_an_unshuffle_keeps_the_positions(unshuffle: int, scale: tuple[float, float]) -> None:
    """A network that only averages its blocks of pixels gives a ramp back at the LR pixels."""
    net = tiny(down_unshuffle=unshuffle).double().down_net
    for name, parameter in net.named_parameters():
        if "_mean" not in name:
            parameter.zero_()
    tail = net.tail[1].weight
    for channel in range(3):
        block = slice(channel * unshuffle**2, (channel + 1) * unshuffle**2)
        net.head[0].weight[channel, block, 1, 1] = 1 / unshuffle**2
        tail[channel, channel, 1, 1] = 1
    rows, columns = torch.arange(61.0).double(), torch.arange(47.0).double()
    ramp = torch.stack([rows[:, None] + 0 * columns, 0 * rows[:, None] + columns])
    hr = torch.cat([ramp, ramp[:1] - 2 * ramp[1:]])[None] / 100
    size = lr_size((61, 47), scale)
    ratio = net.feature_ratio((1 / scale[0], 1 / scale[1]))
    lr = net(hr, Sampling.of(ratio, size, hr))[0]
    y = (torch.arange(size[0]) + 0.5).double() * scale[0] - 0.5
    x = (torch.arange(size[1]) + 0.5).double() * scale[1] - 0.5
    expected = torch.stack([y[:, None] + 0 * x, 0 * y[:, None] + x, y[:, None] - 2 * x]) / 100
    # near the border, features outside count as zeros, and padded ones as pixels
    inner = (y > 2)[:, None] & (y < 56)[:, None] & (x > 2) & (x < 42)
    assert inner.sum() > 50
    torch.testing.assert_close(lr[:, inner], expected[:, inner], rtol=0, atol=1e-12)


@torch.inference_mode()
def test_features_of_one_row_are_resampled() -> None:
    torch.manual_seed(1)
    crm = ConditionalResampling(16, 3)
    x = torch.randn(1, 16, 1, 12)
    size, ratio = (3, 18), (3.0, 1.5)
    out = crm(x, Sampling.of(ratio, size, x))
    torch.testing.assert_close(out, crm_by_matrices(crm, x, ratio, size), rtol=0, atol=1e-5)


class Samplings(TorchDispatchMode):
    """Records the operators that sample at a grid, and their last argument, align_corners."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, bool]] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if "grid_sampler" in name and "backward" not in name:
            self.seen.add((name, args[4]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_sampling_compiles_for_any_size_on_a_gpu(device: str) -> None:
    """On a GPU, align_corners=True dispatches to cuDNN, which does not take dynamic shapes."""
    crm = ConditionalResampling(16, 3).to(device)
    x = torch.randn(1, 16, 9, 12, device=device)
    with Samplings() as samplings:
        crm(x, Sampling.of((0.4, 0.4), (4, 5), x))
    assert samplings.seen == {("grid_sampler_2d", False)}


def test_experts_are_initialized_one_by_one() -> None:
    torch.manual_seed(0)
    pool = torch.empty(4, 64, 32, 3, 3)
    init_experts(pool)
    torch.manual_seed(0)
    bound = nn.Conv2d(32, 64, 3).weight.abs().max()
    for expert in pool:
        assert expert.abs().max().item() == pytest.approx(bound.item(), rel=0.01)


@pytest.mark.parametrize("options", [{}, HALF])
def test_every_trained_parameter_gets_a_gradient(options: dict[str, Any]) -> None:
    net = tiny(**options).train()
    lr, restored = net(torch.rand(2, 3, 24, 20), 1.9)
    (lr.square().mean() + restored.square().mean()).backward()
    for name, parameter in net.named_parameters():
        if "_mean." in name:
            assert not parameter.requires_grad
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_quantize_forward() -> None:
    x = torch.tensor([-0.3, 0.0, 0.4 / 255, 0.6 / 255, 0.5, 1.0, 1.7])
    for surrogate in ("round_soft", "ste"):
        expected = torch.tensor([0, 0, 0, 1, 128, 255, 255]) / 255
        torch.testing.assert_close(quantize(x, surrogate), expected)  # type: ignore[arg-type]


def test_quantize_backward() -> None:
    x = torch.tensor([-0.3, 0.0, 0.25, 0.5, 1.0, 1.7], requires_grad=True)
    quantize(x, "ste").sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.ones(6))
    x.grad = None
    quantize(x, "round_soft").sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.5, 0.5, 1.0, 1.5, 0.5, 0.5]))


def test_no_quantization_leaves_the_lr_image_alone() -> None:
    hr = torch.rand(1, 3, 16, 16)
    net = tiny(quantization=None)
    with torch.inference_mode():
        lr, restored = net(hr, 2.0)
        assert torch.equal(restored, net.upscale(lr, 2.0, size=(16, 16)))
        rounded = net.upscale(quantize(lr), 2.0, size=(16, 16))
    assert not torch.equal(restored, rounded)


def test_jpeg_is_differentiable_and_no_part_of_the_weights() -> None:
    net = tiny(jpeg_quality=90)
    assert net.state_dict().keys() == tiny().state_dict().keys()
    hr = torch.rand(1, 3, 25, 33)
    lr, restored = net(hr, 1.3)
    restored.square().mean().backward()
    assert next(net.down_net.parameters()).device.type == "cpu"
    head = net.down_net.head[0].weight
    assert head.grad is not None
    assert head.grad.abs().sum() > 0
    with torch.inference_mode():
        plain = tiny().upscale(quantize(lr), 1.3, size=(25, 33))
    assert not torch.allclose(restored, plain)


@pytest.mark.parametrize("options", [{}, HALF])
@torch.inference_mode()
def test_bfloat16_keeps_the_pixels_precise(options: dict[str, Any]) -> None:
    net = tiny(**options)
    hr = torch.rand(1, 3, 40, 40)
    lr, _ = net(hr, 2.0)
    with torch.autocast("cpu", torch.bfloat16):
        lr16, restored16 = net(hr, 2.0)
    assert lr16.dtype == restored16.dtype == torch.float32
    assert (lr16 - lr).abs().max() < 2e-2


@pytest.mark.parametrize("options", [{}, HALF])
@torch.inference_mode()
def test_channels_last_changes_nothing(options: dict[str, Any]) -> None:
    hr = torch.rand(2, 3, 19, 23)
    expected = tiny(**options)(hr, 2.2)
    net = channels_last(tiny(**options))
    assert net.get_parameter("up_net.head.0.weight").is_contiguous(
        memory_format=torch.channels_last
    )
    ours = net(hr.contiguous(memory_format=torch.channels_last), 2.2)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"num_feat": 12}, "num_feat is 12"),
        ({"num_block": 0}, "num_block is 0"),
        ({"fixed_scale": 5}, "fixed_scale is 5"),
        ({"quantization": "hard"}, "quantization is 'hard'"),
        ({"jpeg_quality": 101}, "jpeg_quality is 101"),
        ({"down_num_feat": 12}, "down_num_feat is 12"),
        ({"down_unshuffle": 0}, "down_unshuffle is 0: expected 1 to 4"),
        ({"down_unshuffle": 2, "fixed_scale": 2}, "down_unshuffle is 2: .* fixed_scale needs 1"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        AIDN(**options)


def test_bad_input_is_named() -> None:
    net = tiny()
    hr = torch.rand(1, 3, 16, 16)
    with pytest.raises(ValueError, match=r"7 x 16 pixels .* at least 8 x 8"):
        net.downscale(hr[:, :, :7], 2)
    with pytest.raises(ValueError, match=r"RGB images \(B, 3, H, W\)"):
        net.downscale(hr[:, :1], 2)
    with pytest.raises(ValueError, match="scale 9 is out of range"):
        net.downscale(hr, 9)
    with pytest.raises(ValueError, match="scale is missing"):
        net.downscale(hr)
    with pytest.raises(ValueError, match="has an LR image of 8 x 8"):
        net.upscale(hr, 2.0, size=(16, 16))
    with pytest.raises(ValueError, match="fixed_scale 2"):
        tiny_fixed(2).downscale(hr, 3)

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from rescale_arch import VQGAN
from rescale_arch.checkpoints import canonical_weights, load_strictly
from rescale_arch.images import from_unit, to_unit
from rescale_arch.memory_format import channels_last
from rescale_arch.vqgan.architecture import swap_color_order, vqgan_config
from rescale_arch.vqgan.layers import Attention
from rescale_arch.vqgan.vector_quantizer import VectorQuantizer, straight_through

TINY: dict[str, Any] = {
    "ch": 32,
    "ch_mult": (1, 1, 2),
    "num_res_blocks": 1,
    "attn_resolutions": (64,),
    "z_channels": 16,
    "embed_dim": 8,
    "n_embed": 32,
}


def tiny(**options: Any) -> VQGAN:
    torch.manual_seed(0)
    net = VQGAN(**{**TINY, **options}).eval()
    nn.init.normal_(
        net.quantize.embedding.weight, std=0.3
    )  # near the features, so that many are used
    return net


@given(st.integers(4, 40), st.integers(4, 40))
@settings(max_examples=25)
def test_any_size_comes_back_exact(height: int, width: int) -> None:
    net = tiny()
    x = torch.rand(2, 3, height, width)
    with torch.inference_mode():
        restored, z, codes, indices = net(x)
        quantized, same = net.encode(x)
    small = (-(-height // 4), -(-width // 4))
    assert restored.shape == x.shape
    assert z.shape == codes.shape == quantized.shape == (2, 8, *small)
    assert indices.shape == (2, *small)
    assert torch.equal(same, indices)


@torch.inference_mode()
def test_public_images_are_in_0_1() -> None:
    net = tiny()
    x = torch.rand(1, 3, 16, 16)
    seen: list[Tensor] = []
    net.encoder.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    codes, _ = net.encode(x)
    assert torch.equal(seen[0], x * 2 - 1)
    inner = net.decoder(net.post_quant_conv(codes))
    assert torch.equal(net.decode(codes), (inner + 1) / 2)
    torch.testing.assert_close(to_unit(from_unit(x)), x)


@torch.inference_mode()
def test_features_are_those_of_the_levels() -> None:
    net = tiny()
    codes, _ = net.encode(torch.rand(1, 3, 24, 32))
    image, features = net.decode(codes, return_features=True)
    assert torch.equal(image, net.decode(codes))
    assert {reduction: tuple(x.shape[1:]) for reduction, x in features.items()} == {
        4: (64, 6, 8),
        2: (32, 12, 16),
        1: (32, 24, 32),
    }
    seen: list[Tensor] = []
    net.decoder.up[1].upsample.register_forward_hook(
        lambda module, given, out: seen.append(given[0])
    )
    net.decode(codes)
    assert torch.equal(seen[0], features[2])


@torch.inference_mode()
def test_codes_are_the_nearest() -> None:
    book = VectorQuantizer(50, 12)
    nn.init.normal_(book.embedding.weight)
    z = torch.randn(3, 12, 5, 7)
    codes, indices = book(z)
    vectors = z.permute(0, 2, 3, 1).reshape(-1, 12).double()
    distances = (vectors[:, None] - book.embedding.weight.double()).square().sum(-1)
    assert torch.equal(indices.flatten(), distances.argmin(1))
    assert torch.equal(codes[1, :, 2, 3], book.embedding.weight[indices[1, 2, 3]])


@pytest.mark.parametrize("at_once", [1, 100, 1000, 10**9])
@torch.inference_mode()
def test_searching_in_chunks_changes_nothing(at_once: int) -> None:
    book = VectorQuantizer(40, 16)
    nn.init.normal_(book.embedding.weight)
    vectors = torch.randn(2, 9, 11, 16)
    whole = torch.cdist(vectors.flatten(0, 2).double(), book.embedding.weight.double()).argmin(1)
    assert torch.equal(book.nearest(vectors, at_once).flatten(), whole)


@torch.inference_mode()
def test_of_equal_codes_the_first_is_taken() -> None:
    book = VectorQuantizer(30, 8)
    nn.init.normal_(book.embedding.weight)
    book.embedding.weight[20:] = book.embedding.weight[:10].clone()
    assert book.nearest(torch.randn(500, 8)).max() < 20


def test_gradients_pass_straight_through() -> None:
    z = torch.randn(1, 4, 2, 3, requires_grad=True)
    codes = torch.randn(1, 4, 2, 3, requires_grad=True)
    out = straight_through(z, codes)
    assert torch.equal(out, codes)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    assert z.grad is not None
    assert torch.equal(z.grad, weight)
    assert codes.grad is None


def test_every_parameter_gets_a_gradient() -> None:
    net = tiny().train()
    x = torch.rand(2, 3, 18, 22)
    restored, z, codes, _ = net(x)
    F.l1_loss(restored, x).backward(retain_graph=True)
    book = net.quantize.embedding.weight
    assert book.grad is None  # it learns only from the codebook loss
    assert net.last_layer.grad is not None
    for name, parameter in net.named_parameters():
        if parameter is not book:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    assert net.encoder.conv_in.weight.grad.abs().sum() > 0
    F.mse_loss(codes, z.detach()).backward()
    assert book.grad is not None
    assert book.grad.abs().sum() > 0


@torch.inference_mode()
def test_attention_is_softmax_over_all_positions() -> None:
    attention = Attention(32)
    x = torch.randn(2, 32, 5, 6)
    q, k, v = (
        conv(attention.norm(x)).flatten(2) for conv in (attention.q, attention.k, attention.v)
    )
    matrix = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / 32**0.5, dim=-1)
    attended = torch.einsum("bij,bcj->bci", matrix, v).view_as(x)
    torch.testing.assert_close(attention(x), x + attention.proj_out(attended), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_images_of_a_batch_are_independent() -> None:
    net = tiny()
    x = torch.rand(3, 3, 20, 20)
    restored, _, _, indices = net(x)
    for index in range(3):
        alone = net(x[index : index + 1])
        assert torch.equal(alone.indices[0], indices[index])
        torch.testing.assert_close(alone.restored[0], restored[index], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_channels_last_and_bfloat16() -> None:
    x = torch.rand(1, 3, 32, 24)
    expected = tiny()(x)
    net = channels_last(tiny())
    ours = net(x.contiguous(memory_format=torch.channels_last))
    assert torch.equal(ours.indices, expected.indices)
    torch.testing.assert_close(ours.restored, expected.restored, rtol=0, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x)
        decoded = net.decode(expected.codes)
    assert half.z.dtype == half.restored.dtype == torch.float32
    assert (half.z - expected.z).abs().max() < 0.05 * expected.z.abs().max()
    assert (decoded - expected.restored).abs().max() < 0.05


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ch_mult": (1, 2), "attn_resolutions": ()},
        {"ch_mult": (1, 1, 2, 2, 4), "attn_resolutions": (16,), "num_res_blocks": 2},
        {"ch_mult": (2, 1), "attn_resolutions": (256, 128), "embed_dim": 3, "n_embed": 100},
    ],
)
def test_config_is_read_from_the_shapes(options: dict[str, Any]) -> None:
    net = tiny(**options)
    twin = VQGAN(**vqgan_config(net.state_dict())).eval()
    load_strictly(twin, net.state_dict(), "twin")
    x = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(twin(x).restored, net(x).restored)
    with pytest.raises(ValueError, match=r"not the weights of a VQGAN; present: conv\.weight"):
        vqgan_config({"conv.weight": torch.zeros(1)})


def test_what_the_losses_left_in_a_checkpoint_is_dropped() -> None:
    net = tiny()
    extra = {
        "loss.discriminator.main.0.weight": torch.zeros(1),
        "loss.perceptual_loss.lin0.model.1.weight": torch.zeros(1),
    }
    checkpoint = {"epoch": 3, "state_dict": {**net.state_dict(), **extra}}
    weights = canonical_weights(checkpoint)
    assert weights.keys() == net.state_dict().keys()
    assert {"lossy.weight"} == canonical_weights({"lossy.weight": torch.zeros(1)}).keys()


@torch.inference_mode()
def test_color_order_is_swapped_exactly() -> None:
    rgb, bgr = tiny(), tiny()
    load_strictly(bgr, swap_color_order(rgb.state_dict()), "bgr")
    x = torch.rand(1, 3, 24, 16)
    ours, theirs = rgb(x), bgr(x.flip(1))
    assert torch.equal(ours.indices, theirs.indices)
    torch.testing.assert_close(ours.restored, theirs.restored.flip(1), rtol=0, atol=1e-6)
    assert not torch.allclose(ours.restored, theirs.restored)
    again = swap_color_order(bgr.state_dict())
    assert all(torch.equal(again[name], value) for name, value in rgb.state_dict().items())


def test_the_released_package_gives_the_same() -> None:
    model = pytest.importorskip(
        "taming.modules.diffusionmodules.model",
        reason="needs `pip install --no-deps taming-transformers-rom1504` and einops",
    )
    quantizer = pytest.importorskip("taming.modules.vqvae.quantize", reason="needs einops")
    net = VQGAN(ch=32, num_res_blocks=1, z_channels=32, embed_dim=24, n_embed=128).eval().double()
    nn.init.normal_(net.quantize.embedding.weight, std=0.3)
    ddconfig: dict[str, Any] = {
        "double_z": False,
        "z_channels": 32,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 2, 2, 4],
        "num_res_blocks": 1,
        "attn_resolutions": [16],
        "dropout": 0.0,
    }
    encoder, decoder = model.Encoder(**ddconfig).double(), model.Decoder(**ddconfig).double()
    quantize = quantizer.VectorQuantizer2(128, 24, beta=0.25).double()
    for ours, theirs in (
        (net.encoder, encoder),
        (net.decoder, decoder),
        (net.quantize, quantize),
    ):
        theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 64, 80, dtype=torch.float64)
    with torch.inference_mode():
        z = net.quant_conv(encoder(x * 2 - 1))
        codes, _, (_, _, indices) = quantize(z)
        restored = decoder(net.post_quant_conv(codes))
        ours = net(x)
    torch.testing.assert_close(ours.z, z, rtol=0, atol=1e-10)
    assert torch.equal(ours.indices.flatten(), indices)
    assert len(indices.unique()) > 10
    torch.testing.assert_close(ours.codes, codes, rtol=0, atol=1e-10)
    torch.testing.assert_close(from_unit(ours.restored), restored, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"ch": 48}, "ch is 48: expected a multiple of 32"),
        ({"ch_mult": ()}, r"ch_mult is \(\)"),
        ({"ch_mult": (1, 0)}, r"ch_mult is \(1, 0\)"),
        ({"num_res_blocks": 0}, "num_res_blocks is 0"),
        ({"n_embed": 0}, "n_embed is 0"),
        ({"attn_resolutions": (16,)}, "attn_resolutions holds 16: .* expected one of 256, 128, 64"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        tiny(**options)


def test_bad_input_is_named() -> None:
    net = tiny()
    with pytest.raises(ValueError, match=r"x is 3 x 16 pixels .* at least 4 x 4"):
        net.encode(torch.rand(1, 3, 3, 16))
    with pytest.raises(ValueError, match=r"x has shape \(1, 1, 16, 16\): expected RGB images"):
        net(torch.rand(1, 1, 16, 16))

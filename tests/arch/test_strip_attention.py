"""Strip attention against the papers' equations, written out with matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rescale_arch.vqir import strip_attention
from rescale_arch.vqir.strip_attention import (
    InterStripAttention,
    IntraStripAttention,
    StripAttention,
)


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

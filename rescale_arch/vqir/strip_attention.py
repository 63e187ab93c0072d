"""Strip attention: attention within and between the rows and columns of a feature map.

Paper: Stripformer: Strip Transformer for Fast Image Deblurring, ECCV 2022, arXiv 2204.04627.
The cost is proportional to H W (H + W) instead of (H W)^2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from rescale_compat.errors import RescaleError

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CHANNELS_PER_HEAD = 64
_WIDEST_HEAD = 2**16  # maximum channels of a head for the fused CUDA attention kernel
_SUMMED_AT_ONCE = 2**13  # channels of a wider head


class StripAttention(nn.Module, ABC):
    r"""A transformer block with attention along rows and columns; see the subclasses.

    ::

        x ─> norm ─> 1x1 ─┬─ half of the channels: rows ────┬─> 1x1 ─(+x)─> norm, MLP ─(+)─> PEG
                          └─ the other half: columns ───────┘

    PEG is a depth-wise 3x3 convolution plus its input, which encodes positions.

    Args:
        channels: C, even; C / 2 must be divisible by the number of heads, max(1, C // 64).

    Shape:
        (B, C, H, W) -> the same

    Raises:
        ValueError: ``channels`` is not divisible in this way.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // _CHANNELS_PER_HEAD)
        if channels % (2 * self.heads):
            raise RescaleError(
                f"channels is {channels}, whose half is not divisible by {self.heads} heads: "
                f"expected a multiple of {_CHANNELS_PER_HEAD}"
            )
        self.attention_norm = _LayerNorm(channels)
        self.conv_input = nn.Conv2d(channels, channels, 1)
        self.fuse_out = nn.Conv2d(channels, channels, 1)
        self.ffn_norm = _LayerNorm(channels)
        self.ffn = _MLP(channels)
        self.PEG = _PositionEncoding(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        normalized = self.attention_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        h, v = self.conv_input(normalized).chunk(2, dim=1)
        joined = torch.cat(
            [half.permute(0, 2, 3, 1) for half in (self._along_rows(h), self._along_columns(v))],
            dim=3,
        ).permute(0, 3, 1, 2)
        x = x + self.fuse_out(joined)
        tokens = x.permute(0, 2, 3, 1)
        x = (tokens + self.ffn(self.ffn_norm(tokens))).permute(0, 3, 1, 2)
        out: Tensor = self.PEG(x)
        return out

    @abstractmethod
    def _along_rows(self, x: Tensor) -> Tensor:
        """(B, C/2, H, W) -> the same."""

    @abstractmethod
    def _along_columns(self, x: Tensor) -> Tensor:
        """(B, C/2, H, W) -> the same."""


class IntraStripAttention(StripAttention):
    """The tokens are pixels, which attend to the pixels of the same row (column)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.qkv_local_h = nn.Linear(channels // 2, channels // 2 * 3)
        self.qkv_local_v = nn.Linear(channels // 2, channels // 2 * 3)

    def _along_rows(self, x: Tensor) -> Tensor:
        return self._within_rows(x, self.qkv_local_h)

    def _along_columns(self, x: Tensor) -> Tensor:
        return self._within_rows(x.mT, self.qkv_local_v).mT

    def _within_rows(self, x: Tensor, projection: nn.Module) -> Tensor:
        batch, _, height, _ = x.shape
        rows = x.permute(0, 2, 3, 1).flatten(0, 1)  # (B H, W, C/2)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in projection(rows).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = attended.unflatten(0, (batch, height)).permute(0, 3, 1, 2)
        return out


class InterStripAttention(StripAttention):
    """The tokens are whole rows (columns), which attend to one another."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.conv_h = nn.Conv2d(channels // 2, channels // 2 * 3, 1)
        self.conv_v = nn.Conv2d(channels // 2, channels // 2 * 3, 1)

    def _along_rows(self, x: Tensor) -> Tensor:
        return self._between_rows(self.conv_h(x))

    def _along_columns(self, x: Tensor) -> Tensor:
        return self._between_rows(self.conv_v(x).mT).mT

    def _between_rows(self, qkv: Tensor) -> Tensor:
        # A head has a part of the channels of all pixels of a row: (B, heads, H, C/2/heads W)
        q, k, v = (
            part.unflatten(1, (self.heads, -1)).transpose(2, 3).flatten(3)
            for part in qkv.chunk(3, dim=1)
        )
        attended = _attention(q, k, v)
        out: Tensor = attended.unflatten(3, (-1, qkv.shape[-1])).transpose(2, 3).flatten(1, 2)
        return out


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``scaled_dot_product_attention`` of heads of any width; each (B, heads, tokens, width).

    The matrix (tokens, tokens) is formed where heads are wide, which makes it the smaller one.
    """
    width = q.shape[-1]
    if width <= _WIDEST_HEAD:
        return F.scaled_dot_product_attention(q, k, v)
    dtype = torch.promote_types(q.dtype, torch.float32)  # like the accumulators of the kernels
    with torch.autocast(q.device.type, enabled=False):
        scores = q.new_zeros((*q.shape[:-1], k.shape[-2]), dtype=dtype)
        for q_part, k_part in zip(
            q.split(_SUMMED_AT_ONCE, -1), k.split(_SUMMED_AT_ONCE, -1), strict=True
        ):
            scores = scores + q_part.to(dtype) @ k_part.to(dtype).mT
        attended: Tensor = (scores * width**-0.5).softmax(-1).to(v.dtype) @ v
    return attended


class _LayerNorm(nn.LayerNorm):
    """Layer norm that keeps the dtype of its input, unlike PyTorch's under autocast on CUDA."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        with torch.autocast(input.device.type, enabled=False):
            return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


class _MLP(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class _PositionEncoding(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.PEG = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.PEG(x) + x
        return out

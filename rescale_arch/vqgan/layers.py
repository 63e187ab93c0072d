"""The layers of VQGAN: residual blocks, attention, resampling, normalization."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_GROUPS = 32
"""Groups of every group norm; widths are multiples of it."""


class ResidualBlock(nn.Module):
    """norm - swish - conv, twice, plus input.

    Args:
        before: channels of the input.
        width: channels of the output.
    """

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.norm1 = group_norm(before)
        self.conv1 = nn.Conv2d(before, width, 3, 1, 1)
        self.norm2 = group_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.nin_shortcut = nn.Conv2d(before, width, 1) if before != width else None

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, before, H, W) -> (B, width, H, W)."""
        # Nested and in place: naming the steps would keep one more full-size map in memory.
        out: Tensor = self.conv2(swish(self.norm2(self.conv1(swish(self.norm1(x))))))
        return out.add_(x if self.nin_shortcut is None else self.nin_shortcut(x))


class Attention(nn.Module):
    """Single-head self-attention over all positions, plus input; the matrix is never stored.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        batch, channels, height, width = x.shape
        normalized = self.norm(x)
        q, k, v = (
            conv(normalized).permute(0, 2, 3, 1).reshape(batch, 1, height * width, channels)
            for conv in (self.q, self.k, self.v)
        )
        attended = F.scaled_dot_product_attention(q, k, v).reshape(batch, height, width, channels)
        out: Tensor = self.proj_out(attended.permute(0, 3, 1, 2))
        return out.add_(x)


class Downsample(nn.Module):
    """Convolution with stride 2, after zero padding by one column right and one row below."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> (B, C, H/2, W/2)."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Nearest-neighbor upsampling and a 3x3 convolution, without forming the upsampled features.

    The 3x3 inputs of an output pixel are copies of only 2x2 different pixels. Adding up the weights
    of the copies gives four 2x2 kernels, one for each of the four output pixels of an input pixel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> (B, C, 2 H, 2 W)."""
        height, width = x.shape[-2:]
        rows = []
        for i, kernels in enumerate(_merged(self.conv.weight, 2)):
            row = [
                F.conv2d(x, kernel, self.conv.bias, padding=1)[..., i : i + height, j : j + width]
                for j, kernel in enumerate(_merged(kernels, 3))
            ]
            rows.append(torch.stack([part.permute(0, 2, 3, 1) for part in row], 3).flatten(2, 3))
        return torch.stack(rows, 2).flatten(1, 2).permute(0, 3, 1, 2)


def _merged(kernels: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Merges three taps along ``axis`` into two, for the first and second copy of a pixel."""
    before, here, after = kernels.unbind(axis)
    return torch.stack((before, here + after), axis), torch.stack((before + here, after), axis)


def conv_outside_autocast(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Applies ``conv`` without autocast, for values that are compared with codes or rounded.

    bfloat16, with 8 bits of precision, is too coarse for both.
    """
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = conv(x.to(conv.weight.dtype))
    return out


class GroupNorm(nn.GroupNorm):
    """Group norm that keeps the dtype of its input under autocast.

    Autocast on CUDA would compute it in float32 and leave float32 maps behind, the largest of the
    network. The kernels sum up in float32 whatever the dtype of the input is.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        with torch.autocast(input.device.type, enabled=False):
            return F.group_norm(input, self.num_groups, weight, bias, self.eps)


def group_norm(channels: int) -> nn.GroupNorm:
    """The group norm of VQGAN for ``channels`` channels."""
    return GroupNorm(NORM_GROUPS, channels, eps=1e-6)


def swish(x: Tensor) -> Tensor:
    """In place: ``x`` is the output of a normalization, whose gradient does not need it."""
    return F.silu(x, inplace=True)

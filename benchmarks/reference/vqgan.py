"""VQGAN as in its formulas (arXiv 2012.09841).

Attention matrices are stored, the encoder keeps the activations of all layers as the original
implementation does, and the nearest code is determined from the full distance matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class VectorQuantizer(nn.Module):
    """Replaces every vector by the nearest code."""

    def __init__(self, n_embed: int, embed_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_embed, embed_dim)

    def forward(self, z: Tensor) -> Tensor:
        """Shape: (B, C, h, w) -> the same."""
        vectors = z.permute(0, 2, 3, 1)
        book = self.embedding.weight
        distances = (
            vectors.square().sum(-1, keepdim=True) - 2 * vectors @ book.T + book.square().sum(1)
        )
        codes: Tensor = self.embedding(distances.argmin(-1))
        return codes.permute(0, 3, 1, 2)


class Level(nn.Module):
    """The blocks of one resolution, and the resampling to the next."""

    def __init__(self, before: int, width: int, blocks: int, attends: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(before if index == 0 else width, width) for index in range(blocks)
        )
        self.attn = nn.ModuleList(Attention(width) for _ in range(blocks if attends else 0))
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None


class Encoder(nn.Module):
    """Image to features: (B, 3, H, W) -> (B, z_channels, H/16, W/16)."""

    def __init__(self, widths: Sequence[int], blocks: int, z_channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        before = widths[0]
        self.down = nn.ModuleList()
        for index, width in enumerate(widths):
            last = index == len(widths) - 1
            level = Level(before, width, blocks, attends=last)
            if not last:
                level.downsample = Downsample(width)
            self.down.append(level)
            before = width
        self.mid = Middle(before)
        self.norm_out = norm(before)
        self.conv_out = nn.Conv2d(before, z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: see the class."""
        activations = [self.conv_in(x)]
        for level in self.down:
            assert isinstance(level, Level)
            for index, block in enumerate(level.block):
                x = block(activations[-1])
                if len(level.attn):
                    x = level.attn[index](x)
                activations.append(x)
            if level.downsample is not None:
                activations.append(level.downsample(activations[-1]))
        out: Tensor = self.conv_out(swish(self.norm_out(self.mid(activations[-1]))))
        return out


class Decoder(nn.Module):
    """Features to the image and the features of the last three levels, the smallest first."""

    def __init__(self, widths: Sequence[int], blocks: int, z_channels: int) -> None:
        super().__init__()
        before = widths[-1]
        self.conv_in = nn.Conv2d(z_channels, before, 3, padding=1)
        self.mid = Middle(before)
        levels: list[Level] = []
        for index in reversed(range(len(widths))):
            level = Level(before, widths[index], blocks + 1, attends=index == len(widths) - 1)
            before = widths[index]
            if index > 0:
                level.upsample = Upsample(before)
            levels.insert(0, level)
        self.up = nn.ModuleList(levels)
        self.norm_out = norm(before)
        self.conv_out = nn.Conv2d(before, 3, 3, padding=1)

    def forward(self, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Shape: (B, z_channels, h, w) -> (B, 3, 16 h, 16 w) and the features."""
        x = self.mid(self.conv_in(z))
        features = []
        for level in reversed(self.up):
            assert isinstance(level, Level)
            for index, block in enumerate(level.block):
                x = block(x)
                if len(level.attn):
                    x = level.attn[index](x)
            features.append(x)
            if level.upsample is not None:
                x = level.upsample(x)
        return self.conv_out(swish(self.norm_out(x))), features[-3:]


class Middle(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(width, width)
        self.attn_1 = Attention(width)
        self.block_2 = ResidualBlock(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class ResidualBlock(nn.Module):
    """norm - swish - conv, twice, plus input."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.norm1 = norm(before)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1)
        self.norm2 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        if before != width:
            self.nin_shortcut = nn.Conv2d(before, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, before, H, W) -> (B, width, H, W)."""
        h = self.conv1(swish(self.norm1(x)))
        h = self.conv2(swish(self.norm2(h)))
        if hasattr(self, "nin_shortcut"):
            x = self.nin_shortcut(x)
        out: Tensor = x + h
        return out


class Attention(nn.Module):
    """Self-attention over all positions, plus input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        h = self.norm(x)
        q, k, v = (conv(h).flatten(2) for conv in (self.q, self.k, self.v))
        weights = torch.softmax(q.transpose(1, 2) @ k * x.shape[1] ** -0.5, dim=-1)
        out: Tensor = x + self.proj_out((v @ weights.transpose(1, 2)).view_as(x))
        return out


class Downsample(nn.Module):
    """Stride 2, with zeros on the right and below."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> (B, C, H/2, W/2)."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Nearest neighbor and a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> (B, C, 2 H, 2 W)."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


def norm(width: int) -> nn.GroupNorm:
    """Group norm of 32 groups."""
    return nn.GroupNorm(32, width, eps=1e-6)


def swish(x: Tensor) -> Tensor:
    """``x sigmoid(x)``."""
    return x * torch.sigmoid(x)

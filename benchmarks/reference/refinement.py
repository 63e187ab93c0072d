"""VQIR's refinement module as in its formulas (IEEE TCSVT 2024; strip attention: ECCV 2022)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.reference.vqgan import ResidualBlock, Upsample


class Refinement(nn.Module):
    """Decoder features of three levels, the smallest first, to the image roughly in [-1, 1]."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        full, half, quarter = widths
        self.refine = nn.ModuleList([RefinedLevel(quarter, half), RefinedLevel(half, full)])
        self.refine_out = nn.Sequential(
            ResidualBlock(full, full), ResidualBlock(full, full), nn.Conv2d(full, 3, 3, padding=1)
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Shape: features -> (B, 3, H, W)."""
        x, *finer = features
        for level, feature in zip(self.refine, finer, strict=True):
            assert isinstance(level, RefinedLevel)
            refined = level.rfb(x)
            level.img_out(refined)  # the image of this level, which is used in training
            x = feature * torch.sigmoid(level.attn_out(refined))
        out: Tensor = self.refine_out(x)
        return out


class RefinedLevel(nn.Module):
    """Three pairs of strip attention, an image and the attention map of the next level."""

    def __init__(self, width: int, finer: int) -> None:
        super().__init__()
        self.rfb = nn.Sequential(*(strips(width) for _ in range(3) for strips in (Intra, Inter)))
        self.img_out = nn.Conv2d(width, 3, 3, padding=1)
        self.attn_out = nn.Sequential(nn.Conv2d(width, finer, 1), Upsample(finer))


class Strips(nn.Module, ABC):
    """Strip attention (Stripformer, ECCV 2022): half of the channels by rows, half by columns."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // 64)
        self.attention_norm = nn.LayerNorm(width)
        self.conv_input = nn.Conv2d(width, width, 1)
        self.fuse_out = nn.Conv2d(width, width, 1)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn = MLP(width)
        self.PEG = PositionEncoding(width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        normalized = self.attention_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        horizontal, vertical = self.conv_input(normalized).chunk(2, 1)
        rows = self.rows(horizontal, "h")
        columns = self.rows(vertical.transpose(2, 3), "v").transpose(2, 3)
        x = x + self.fuse_out(torch.cat((rows, columns), 1))
        tokens = x.permute(0, 2, 3, 1)
        x = (tokens + self.ffn(self.ffn_norm(tokens))).permute(0, 3, 1, 2)
        out: Tensor = self.PEG(x)
        return out

    @abstractmethod
    def rows(self, x: Tensor, which: str) -> Tensor:
        """Attention along rows: (B, C/2, H, W) -> the same."""


class Intra(Strips):
    """Pixels attend to the pixels of their row."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.qkv_local_h = nn.Linear(width // 2, width // 2 * 3)
        self.qkv_local_v = nn.Linear(width // 2, width // 2 * 3)

    def rows(self, x: Tensor, which: str) -> Tensor:
        """See the base class."""
        projection = self.qkv_local_h if which == "h" else self.qkv_local_v
        batch, channels, height, width = x.shape
        q, k, v = (
            part.view(batch, height, width, self.heads, -1).transpose(2, 3)
            for part in projection(x.permute(0, 2, 3, 1)).chunk(3, -1)
        )
        tokens = attention(q, k, v).transpose(2, 3)
        return tokens.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class Inter(Strips):
    """Whole rows attend to one another; their values are ordered channel by channel."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.conv_h = nn.Conv2d(width // 2, width // 2 * 3, 1)
        self.conv_v = nn.Conv2d(width // 2, width // 2 * 3, 1)

    def rows(self, x: Tensor, which: str) -> Tensor:
        """See the base class."""
        projection = self.conv_h if which == "h" else self.conv_v
        batch, channels, height, width = x.shape
        q, k, v = (
            part.transpose(1, 2).reshape(batch, height, self.heads, -1).transpose(1, 2)
            for part in projection(x).chunk(3, 1)
        )
        tokens = attention(q, k, v).transpose(1, 2)
        return tokens.reshape(batch, height, channels, width).transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Plain attention: (.., tokens, n) -> the same."""
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    return torch.softmax(scores, -1) @ v


class MLP(nn.Module):
    """C -> 4 C -> C with GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (.., C) -> the same."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class PositionEncoding(nn.Module):
    """A depth-wise convolution plus its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.PEG = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        out: Tensor = self.PEG(x) + x
        return out

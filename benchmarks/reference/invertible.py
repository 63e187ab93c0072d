"""VQIR's invertible module as in its formulas (IEEE TCSVT 2024).

The matrices of 1x1 convolutions are inverted in every call.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FeatureRecovery(nn.Module):
    """Codes to an LR image roughly in [-1, 1]; ``reverse`` is the opposite direction."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        width = channels
        steps: list[nn.Module] = [AffineCoupling(width) for _ in range(3)]

        def halve(width: int) -> list[nn.Module]:
            half = width // 2
            hidden = half if factor == 32 else half // 2
            return [
                Projection(width, half),
                InvertibleConv1x1(half),
                SpatialAttention(half, hidden),
            ]

        def rounds(count: int) -> None:
            nonlocal width
            for _ in range(count):
                steps.extend(halve(width))
                width //= 2
                steps.extend(AffineCoupling(width) for _ in range(3))

        rounds(4)
        if factor == 32:
            steps.append(Haar(width))
            width *= 4
            steps.append(InvertibleConv1x1(width))
            steps.extend(AffineCoupling(width) for _ in range(3))
            rounds(2)
        self.operations = nn.ModuleList(steps)
        self.inpfeat_extraction = nn.ModuleList([*halve(width), Projection(width // 2, 3)])

    def forward(self, x: Tensor) -> Tensor:
        """Codes to LR image."""
        for step in (*self.operations, *self.inpfeat_extraction):
            x = step(x)
        return x

    def reverse(self, y: Tensor) -> Tensor:
        """LR image to codes."""
        for step in reversed((*self.operations, *self.inpfeat_extraction)):
            y = step.reverse(y)
        return y


class AffineCoupling(nn.Module):
    """y1 = x1 e(G2(x2)) + H2(x2), y2 = x2 e(G1(y1)) + H1(y1); e(g) = exp(2 sigmoid(g) - 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.G1, self.G2, self.H1, self.H2 = (CouplingNet(channels // 2) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        x1, x2 = x.chunk(2, 1)
        y1 = x1 * torch.exp(2 * torch.sigmoid(self.G2(x2)) - 1) + self.H2(x2)
        y2 = x2 * torch.exp(2 * torch.sigmoid(self.G1(y1)) - 1) + self.H1(y1)
        return torch.cat((y1, y2), 1)

    def reverse(self, y: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        y1, y2 = y.chunk(2, 1)
        x2 = (y2 - self.H1(y1)) / torch.exp(2 * torch.sigmoid(self.G1(y1)) - 1)
        x1 = (y1 - self.H2(x2)) / torch.exp(2 * torch.sigmoid(self.G2(x2)) - 1)
        return torch.cat((x1, x2), 1)


class CouplingNet(nn.Module):
    """3x3, 1x1 and 3x3 convolutions with leaky ReLU between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 1)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        out: Tensor = self.conv3(F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x), 0.2)), 0.2))
        return out


class InvertibleConv1x1(nn.Module):
    """Multiplies every pixel by a matrix, in reverse by its inverse."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        return F.conv2d(x, self.weight[:, :, None, None])

    def reverse(self, y: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        inverse = torch.inverse(self.weight.double()).to(y.dtype)
        return F.conv2d(y, inverse[:, :, None, None])


class Projection(nn.Module):
    """A 1x1 convolution to fewer channels, and another one in reverse."""

    def __init__(self, channels: int, kept: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, kept, 1)
        self.conv2 = nn.Conv2d(kept, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> (B, kept, H, W)."""
        out: Tensor = self.conv1(x)
        return out

    def reverse(self, y: Tensor) -> Tensor:
        """Shape: (B, kept, H, W) -> (B, C, H, W)."""
        out: Tensor = self.conv2(y)
        return out


class SpatialAttention(nn.Module):
    """``a(x) sigmoid(b(x)) + x``, with separate weights for the two directions."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.forw_att = AttentionBlock(channels, hidden)
        self.back_att = AttentionBlock(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        out: Tensor = self.forw_att(x)
        return out

    def reverse(self, y: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        out: Tensor = self.back_att(y)
        return out


class AttentionBlock(nn.Module):
    """a: three residual units; b: three more and a 1x1 convolution."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv_a = nn.Sequential(*(ResidualUnit(channels, hidden) for _ in range(3)))
        self.conv_b = nn.Sequential(
            *(ResidualUnit(channels, hidden) for _ in range(3)), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        out: Tensor = self.conv_a(x) * torch.sigmoid(self.conv_b(x)) + x
        return out


class ResidualUnit(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, plus input, ReLU."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(), nn.Conv2d(hidden, channels, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        return F.relu(self.conv(x) + x)


class Haar(nn.Module):
    """The four 2x2 patterns of every channel, over 4; grouped by pattern, then channel."""

    haar_weights: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        signs = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
        patterns = signs.float().view(4, 1, 2, 2)
        self.register_buffer("haar_weights", patterns.repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> (B, 4 C, H/2, W/2)."""
        a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
        return torch.cat((a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d), 1) / 4

    def reverse(self, y: Tensor) -> Tensor:
        """Shape: (B, 4 C, H/2, W/2) -> (B, C, H, W)."""
        p, q, r, s = y.chunk(4, 1)
        above = torch.stack((p + q + r + s, p - q + r - s), -1).flatten(-2)
        below = torch.stack((p + q - r - s, p - q - r + s), -1).flatten(-2)
        return torch.stack((above, below), -2).flatten(-3, -2)

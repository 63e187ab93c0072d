"""The operations of VQIR's invertible feature recovery module (IEEE TCSVT 2024).

Each has a forward direction, towards the LR image, and a reverse direction. AffineCoupling,
InvertibleConv1x1 and Haar are exactly invertible. Projection and SpatialAttention are not; they
learn to estimate their input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Operation(nn.Module, ABC):
    """An operation with a reverse direction, which computes or estimates the input.

    Shape:
        forward (B, C, H, W) -> (B, C', H', W'), reverse the opposite
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The direction towards the LR image."""

    @abstractmethod
    def reverse(self, y: Tensor) -> Tensor:
        """The direction from the LR image."""


class AffineCoupling(Operation):
    r"""Affine coupling of the two halves of the channels; ``reverse`` is its exact inverse.

    ::

        x1 ──> * e(G2(x2)) ──> + H2(x2) ─────────┬────────> y1       e(g) = exp(2 sigmoid(g) - 1)
                    ^             ^              │
        x2 ─────────┴─────────────┴──> * e(G1(y1)) ──> + H1(y1) ──> y2

    Initialized as the identity.

    Args:
        channels: C, even.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.G1, self.G2, self.H1, self.H2 = (_CouplingNet(half) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(x1, x2) -> (y1, y2)."""
        x1, x2 = x.chunk(2, dim=1)
        y1 = x1 * torch.exp(_log_scale(self.G2(x2))) + self.H2(x2)
        y2 = x2 * torch.exp(_log_scale(self.G1(y1))) + self.H1(y1)
        return torch.cat((y1, y2), dim=1)

    def reverse(self, y: Tensor) -> Tensor:
        """(y1, y2) -> (x1, x2)."""
        y1, y2 = y.chunk(2, dim=1)
        x2 = (y2 - self.H1(y1)) * torch.exp(-_log_scale(self.G1(y1)))
        x1 = (y1 - self.H2(x2)) * torch.exp(-_log_scale(self.G2(x2)))
        return torch.cat((x1, x2), dim=1)


class _CouplingNet(nn.Module):
    """Three convolutions, initialized so that the output is zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.conv2 = nn.Conv2d(channels, channels, 1)
        self.conv3 = nn.Conv2d(channels, channels, 3, 1, 1)
        for conv, gain in ((self.conv1, 0.1), (self.conv2, 0.1), (self.conv3, 0.0)):
            nn.init.xavier_normal_(conv.weight, gain)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv1(x), 0.2)
        out: Tensor = self.conv3(F.leaky_relu(self.conv2(x), 0.2))
        return out


def _log_scale(x: Tensor) -> Tensor:
    """In (-1, 1), so that a coupling scales by 1/e to e."""
    return 2 * torch.sigmoid(x) - 1


class InvertibleConv1x1(Operation):
    """Invertible 1x1 convolution (Glow, NeurIPS 2018), initialized as a random orthogonal matrix.

    The inverse is computed in float64 in every call: the matrix is small, and a cached inverse
    could be stale.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))

    def forward(self, x: Tensor) -> Tensor:
        """Multiplies every pixel by ``weight``."""
        return F.conv2d(x, self.weight[:, :, None, None])

    def reverse(self, y: Tensor) -> Tensor:
        """Multiplies every pixel by the inverse of ``weight``.

        Raises:
            torch.linalg.LinAlgError: ``weight`` is singular (on a CPU). On a GPU, where the check
                would synchronize with the device, the result is not finite instead.
        """
        weight = self.weight
        inverse = torch.linalg.inv_ex(weight.double(), check_errors=not weight.is_cuda).inverse
        return F.conv2d(y, inverse.to(weight.dtype)[:, :, None, None])


class Projection(Operation):
    """Reduces the number of channels by a 1x1 convolution; another one estimates the input.

    Args:
        channels: C.
        kept: C', channels of the forward result.
    """

    def __init__(self, channels: int, kept: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, kept, 1)
        self.conv2 = nn.Conv2d(kept, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H, W)."""
        out: Tensor = self.conv1(x)
        return out

    def reverse(self, y: Tensor) -> Tensor:
        """(B, C', H, W) -> (B, C, H, W)."""
        out: Tensor = self.conv2(y)
        return out


class SpatialAttention(Operation):
    """Spatial attention, with separate weights for the two directions.

    Args:
        channels: C.
        hidden: channels inside the residual units.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.forw_att = _AttentionBlock(channels, hidden)
        self.back_att = _AttentionBlock(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        out: Tensor = self.forw_att(x)
        return out

    def reverse(self, y: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        out: Tensor = self.back_att(y)
        return out


class _AttentionBlock(nn.Module):
    """``a(x) * sigmoid(b(x)) + x``: the simplified attention of arXiv 2001.01568 (CVPR 2020)."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv_a = nn.Sequential(*(_ResidualUnit(channels, hidden) for _ in range(3)))
        self.conv_b = nn.Sequential(
            *(_ResidualUnit(channels, hidden) for _ in range(3)), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv_a(x) * torch.sigmoid(self.conv_b(x)) + x
        return out


class _ResidualUnit(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(True),
            nn.Conv2d(hidden, hidden, 3, 1, 1),
            nn.ReLU(True),
            nn.Conv2d(hidden, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + x)


class Haar(Operation):
    """Haar transform: half the sides, four times the channels; ``reverse`` is the exact inverse.

    Args:
        channels: C, channels of the input.

    Shape:
        forward (B, C, H, W) -> (B, 4 C, H/2, W/2), even H and W; channels are
        grouped by wavelet pattern
    """

    haar_weights: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        patterns = torch.tensor(
            [
                [[1.0, 1.0], [1.0, 1.0]],
                [[1.0, -1.0], [1.0, -1.0]],
                [[1.0, 1.0], [-1.0, -1.0]],
                [[1.0, -1.0], [-1.0, 1.0]],
            ]
        )
        self.register_buffer("haar_weights", patterns[:, None].repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Image to wavelet coefficients."""
        bands = F.conv2d(x, self.haar_weights / 4, stride=2, groups=self.channels)
        by_pattern: Tensor = bands.unflatten(1, (self.channels, 4)).transpose(1, 2).flatten(1, 2)
        return by_pattern

    def reverse(self, y: Tensor) -> Tensor:
        """Wavelet coefficients to image."""
        bands = y.unflatten(1, (4, self.channels)).transpose(1, 2).flatten(1, 2)
        return F.conv_transpose2d(bands, self.haar_weights, stride=2, groups=self.channels)

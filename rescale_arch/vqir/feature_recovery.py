"""VQIR's invertible feature recovery module (IFRM; IEEE TCSVT 2024)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from rescale_arch.vqir.invertible import (
    AffineCoupling,
    Haar,
    InvertibleConv1x1,
    Operation,
    Projection,
    SpatialAttention,
)

Factor = Literal[16, 32]


class FeatureRecovery(nn.Module):
    """IFRM: maps codes to an LR image, and in reverse an LR image to an estimate of the codes.

    Args:
        channels: C, channels of a code; a multiple of 32.
        factor: 16 keeps the resolution of the code map, 32 halves it.

    Shape:
        (B, C, H/16, W/16) -> (B, 3, H/factor, W/factor), roughly in [-1, 1];
        the reverse direction is the opposite
    """

    def __init__(self, channels: int, factor: Factor) -> None:
        super().__init__()

        def couplings(width: int) -> list[Operation]:
            return [AffineCoupling(width) for _ in range(3)]

        def halve(width: int) -> list[Operation]:
            half = width // 2
            hidden = half if factor == 32 else max(1, half // 2)
            return [
                Projection(width, half),
                InvertibleConv1x1(half),
                SpatialAttention(half, hidden),
            ]

        operations = couplings(channels)
        width = channels
        for _ in range(4):
            operations += halve(width)
            width //= 2
            operations += couplings(width)
        if factor == 32:
            operations += [Haar(width), InvertibleConv1x1(4 * width), *couplings(4 * width)]
            width *= 4
            for _ in range(2):
                operations += halve(width)
                width //= 2
                operations += couplings(width)
        self.operations = nn.ModuleList(operations)
        self.inpfeat_extraction = nn.ModuleList([*halve(width), Projection(width // 2, 3)])

    def forward(self, x: Tensor) -> Tensor:
        """Codes to LR image."""
        for operation in self._all():
            x = operation(x)
        return x

    def reverse(self, y: Tensor) -> Tensor:
        """LR image to estimated codes."""
        for operation in reversed(self._all()):
            y = operation.reverse(y)
        return y

    def _all(self) -> list[Operation]:
        both = (*self.operations, *self.inpfeat_extraction)
        return [operation for operation in both if isinstance(operation, Operation)]

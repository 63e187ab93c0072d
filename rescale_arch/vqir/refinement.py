"""VQIR's multi-scale refinement module (MSRM; IEEE TCSVT 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from rescale_arch.vqgan.layers import ResidualBlock, Upsample, conv_outside_autocast
from rescale_arch.vqir.strip_attention import InterStripAttention, IntraStripAttention

_PAIRS = 3  # of intra-strip and inter-strip attention per level


class Refinement(nn.Module):
    """MSRM: computes images at three sizes from the decoder's last three levels of features.

    Args:
        widths: channels of the features at full, half and quarter size.

    Shape:
        three feature maps, the smallest first -> three images (B, 3, ..), the largest first,
        roughly in [-1, 1]
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        full, half, quarter = widths
        self.refine = nn.ModuleList([_RefinedLevel(quarter, half), _RefinedLevel(half, full)])
        self.refine_out = nn.Sequential(
            ResidualBlock(full, full), ResidualBlock(full, full), nn.Conv2d(full, 3, 3, 1, 1)
        )

    def forward(self, features: Iterator[Tensor]) -> list[Tensor]:
        """Consumes ``features`` one by one, so that they need not be in memory at once."""
        images: list[Tensor] = []
        x = next(features)
        for level in self.refine:
            assert isinstance(level, _RefinedLevel)
            refined = level.rfb(x)
            images.insert(0, conv_outside_autocast(level.img_out, refined))
            x = next(features) * level.attention(refined)
        next(features, None)  # ends the generator, which would keep the last level
        *blocks, last = self.refine_out
        for block in blocks:
            x = block(x)
        assert isinstance(last, nn.Conv2d)
        images.insert(0, conv_outside_autocast(last, x))
        return images


class _RefinedLevel(nn.Module):
    """One level: refined features (``rfb``), an image, and an attention map for the next level."""

    def __init__(self, width: int, finer: int) -> None:
        super().__init__()
        self.rfb = nn.Sequential(
            *(
                strips(width)
                for _ in range(_PAIRS)
                for strips in (IntraStripAttention, InterStripAttention)
            )
        )
        self.img_out = nn.Conv2d(width, 3, 3, 1, 1)
        self.attn_out = nn.Sequential(nn.Conv2d(width, finer, 1), Upsample(finer))

    def attention(self, refined: Tensor) -> Tensor:
        """The map by which the features of the next, finer level are multiplied."""
        attention: Tensor = self.attn_out(refined)
        return attention.sigmoid_()

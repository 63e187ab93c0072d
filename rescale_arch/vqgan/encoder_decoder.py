"""Encoder and decoder of VQGAN."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from rescale_arch.vqgan.layers import (
    Attention,
    Downsample,
    ResidualBlock,
    Upsample,
    conv_outside_autocast,
    group_norm,
    swish,
)


class Encoder(nn.Module):
    """Image in [-1, 1] to features: (B, 3, H, W) -> (B, z_channels, H/f, W/f).

    Args:
        widths: channels of each level.
        attends: for each level, whether it has attention.
        num_res_blocks: residual blocks per level.
        first: channels after the first convolution.
        z_channels: channels of the output.
    """

    def __init__(
        self,
        widths: Sequence[int],
        attends: Sequence[bool],
        num_res_blocks: int,
        first: int,
        z_channels: int,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, first, 3, 1, 1)
        self.down = nn.ModuleList()
        before = first
        for level, (width, attention) in enumerate(zip(widths, attends, strict=True)):
            down = _Level(before, width, num_res_blocks, attention)
            if level < len(widths) - 1:
                down.downsample = Downsample(width)
            self.down.append(down)
            before = width
        self.mid = _middle(before)
        self.norm_out = group_norm(before)
        self.conv_out = nn.Conv2d(before, z_channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keeps only the input of the current layer in memory."""
        x = self.conv_in(x)
        for down in self.down:
            assert isinstance(down, _Level)
            for layer in down.layers():
                x = layer(x)
            if down.downsample is not None:
                x = down.downsample(x)
        out: Tensor = self.conv_out(swish(self.norm_out(self.mid(x))))
        return out


class Decoder(nn.Module):
    """Features to an image roughly in [-1, 1]: (B, z_channels, h, w) -> (B, 3, f h, f w).

    For the arguments see :class:`Encoder`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        attends: Sequence[bool],
        num_res_blocks: int,
        z_channels: int,
    ) -> None:
        super().__init__()
        before = widths[-1]
        self.conv_in = nn.Conv2d(z_channels, before, 3, 1, 1)
        self.mid = _middle(before)
        ups = []
        for level in reversed(range(len(widths))):
            up = _Level(before, widths[level], num_res_blocks + 1, attends[level])
            before = widths[level]
            if level > 0:
                up.upsample = Upsample(before)
            ups.append(up)
        self.up = nn.ModuleList(reversed(ups))
        self.norm_out = group_norm(before)
        self.conv_out = nn.Conv2d(before, 3, 3, 1, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Decodes features to an image."""
        features = self.features(z)
        for _ in range(len(self.up) - 1):
            next(features)  # discarded
        return self.image(next(features))

    def features(self, z: Tensor) -> Iterator[Tensor]:
        """Yields the features of each level before its upsampling, the smallest first."""
        x = self.mid(self.conv_in(z))
        for up in reversed(self.up):
            assert isinstance(up, _Level)
            for layer in up.layers():
                x = layer(x)
            yield x
            if up.upsample is not None:
                x = up.upsample(x)

    def image(self, features: Tensor) -> Tensor:
        """The image from the features of the last level."""
        return conv_outside_autocast(self.conv_out, swish(self.norm_out(features)))


class _Level(nn.Module):
    """Residual blocks of one resolution, optionally each followed by attention.

    ``downsample`` or ``upsample`` leads to the next level.
    """

    def __init__(self, before: int, width: int, num_res_blocks: int, attention: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(width if index else before, width) for index in range(num_res_blocks)
        )
        self.attn = nn.ModuleList(Attention(width) for _ in range(num_res_blocks * attention))
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def layers(self) -> Iterator[nn.Module]:
        """Yields all layers but the resampling, so that the caller need not keep their inputs."""
        for index, block in enumerate(self.block):
            yield block
            if self.attn:
                yield self.attn[index]


def _middle(channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            block_1=ResidualBlock(channels, channels),
            attn_1=Attention(channels),
            block_2=ResidualBlock(channels, channels),
        )
    )

"""AIDN's trunk run over a picture in strips of rows, without gradients.

Layer by layer, a network at full resolution is bound by memory: every map is larger than any cache.
In strips, all layers follow each other while their data is in the cache, and each one keeps the few
rows that its next strip needs, so nothing is computed twice and the result is that of the whole.
What is in memory depends on the width of the picture alone.

Strips are (B, rows, W, C): rows are contiguous, and permuted to (B, C, rows, W) they are what
PyTorch calls channels last. A stage takes a strip and whether it is the last one, and returns the
rows that are complete by then, possibly none: ``lag`` tells how many rows it is behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_weights

if TYPE_CHECKING:
    from rescale_arch.aidn_arch import RescalingTrunk, ResidualBlock
    from rescale_arch.scale_adaption import ScaleAdaption

Pair = tuple[float, float]

# A strip of features in bytes, on a CPU and on a GPU: less runs the convolutions on too few rows,
# more leaves the cache.
_STRIP_BYTES = (2 << 20, 128 << 20)
_LEAST_ROWS = 8


def strip_rows(width: int, weight: Tensor) -> int:
    """How many rows of features of ``width`` make a strip, for a convolution with ``weight``."""
    row_bytes = width * weight.shape[1] * weight.element_size()
    return max(_LEAST_ROWS, _STRIP_BYTES[weight.is_cuda] // row_bytes)


def compute_dtype(x: Tensor) -> torch.dtype:
    """What convolutions compute in: the dtype of ``x``, or autocast's where that is on."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


class Stage(Protocol):
    """A layer, or several, that takes a picture in strips."""

    lag: int

    def __call__(self, rows: Tensor, last: bool) -> Tensor:
        """Shape: (B, n, W, C) -> (B, n', W', C')."""


class ConvRows:
    """A 3x3 convolution, padded with zeros.

    Args:
        weight: (C', C, 3, 3).
        bias: (C'), or None.
        dtype: what it computes in, and returns.
        relu: whether a ReLU follows.
    """

    lag = 1

    def __init__(
        self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, relu: bool = False
    ) -> None:
        self.weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.bias = None if bias is None else bias.to(dtype)
        self.relu = relu
        self.held: Tensor | None = None
        self.seen = 0

    @classmethod
    def of(cls, conv: nn.Module, dtype: torch.dtype, relu: bool = False) -> ConvRows:
        """The stage that does what ``conv`` does."""
        assert isinstance(conv, nn.Conv2d)
        return cls(conv.weight, conv.bias, dtype, relu)

    def __call__(self, rows: Tensor, last: bool) -> Tensor:
        """See `Stage`."""
        return self.convolve(self.join(rows, last))

    def join(self, rows: Tensor, last: bool) -> Tensor:
        """A copy of ``rows``, behind the two before them or the picture's edge, in the dtype."""
        self.seen += rows.shape[1]
        rows = rows.to(self.weight.dtype)
        edge = rows.new_zeros(rows.shape[0], 1, *rows.shape[2:])
        before = edge if self.held is None else self.held
        joined = torch.cat([before, rows, *([edge] if last else [])], dim=1)
        self.held = joined[:, -2:].clone()
        return joined

    def convolve(self, joined: Tensor) -> Tensor:
        """Convolves all rows but the first and the last."""
        if joined.shape[1] < 3:
            return joined.new_empty(joined.shape[0], 0, joined.shape[2], self.weight.shape[0])
        out = F.conv2d(joined.permute(0, 3, 1, 2), self.weight, self.bias, padding=(0, 1))
        if self.relu:
            out.relu_()
        return out.permute(0, 2, 3, 1)


class BlockRows:
    """A residual block."""

    lag = 2

    def __init__(self, block: ResidualBlock, dtype: torch.dtype) -> None:
        first, _, second = block.body.children()
        self.first = ConvRows.of(first, dtype, relu=True)
        self.second = ConvRows.of(second, dtype)
        self.res_scale = block.res_scale

    def __call__(self, rows: Tensor, last: bool) -> Tensor:
        """See `Stage`."""
        edge = 1 if self.first.seen < 2 else 0
        joined = self.first.join(rows, last)
        branch = self.second(self.first.convolve(joined), last)
        # The branch is two rows behind, and so is what the rows were joined to.
        own = joined[:, edge : edge + branch.shape[1]]
        return own.add_(branch, alpha=self.res_scale)


class AdaptionRows:
    """A scale adaption: ``x + A(x, t) * M(x)``."""

    def __init__(self, adaption: ScaleAdaption, inverse: Tensor, dtype: torch.dtype) -> None:
        self.adapt = ConvRows(adaption.adapt.kernel(inverse), None, dtype)
        self.mask = [
            ConvRows(weight, bias, dtype, relu=weight.shape[0] > 1)
            for weight, bias in _folded(adaption.mask)
        ]
        self.lag = sum(stage.lag for stage in self.mask)
        self.input, self.adapted = Delayed(), Delayed()

    def __call__(self, rows: Tensor, last: bool) -> Tensor:
        """See `Stage`."""
        self.input.put(rows)
        self.adapted.put(self.adapt(rows, last))
        mask = rows
        for stage in self.mask:
            mask = stage(mask, last)
        count = mask.shape[1]
        return self.input.take(count) + self.adapted.take(count).mul_(mask.sigmoid_())


class TrunkRows:
    """The trunk of one direction: from the image to the features before the resampling.

    Args:
        trunk: in evaluation mode.
        ratio: output over input side of that direction, (vertical, horizontal).
        dtype: what all but the first convolution and the last sum compute in.
    """

    def __init__(self, trunk: RescalingTrunk, ratio: Pair, dtype: torch.dtype) -> None:
        head = trunk.head[0]
        *blocks, last = trunk.body
        assert isinstance(head, nn.Conv2d)
        self.shift = trunk.sub_mean
        self.head = ConvRows.of(head, head.weight.dtype)
        self.stages: list[Stage] = []
        for index, block in enumerate(blocks, start=1):
            self.stages.append(BlockRows(cast("ResidualBlock", block), dtype))
            if trunk.sa_adapt and index % trunk.adapt_interval == 0:
                adaption = cast("ScaleAdaption", trunk.sa_adapt[index // trunk.adapt_interval - 1])
                inverse = inverse_ratio(ratio, head.weight)
                self.stages.append(AdaptionRows(adaption, inverse, dtype))
        self.stages.append(ConvRows.of(last, dtype))
        self.skip = Delayed()
        self.lag = self.head.lag + sum(stage.lag for stage in self.stages)

    def __call__(self, rows: Tensor, last: bool) -> Tensor:
        """Shape: (B, n, W, 3) -> (B, n', W, C)."""
        shifted = self.shift(rows.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        features = self.head(shifted, last)
        self.skip.put(features)
        for stage in self.stages:
            features = stage(features, last)
        return self.skip.take(features.shape[1]).add(features)


class ShuffleRows:
    """``nn.PixelShuffle``."""

    lag = 0

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, rows: Tensor, last: bool) -> Tensor:
        """See `Stage`."""
        step = self.step
        batch, height, width, channels = rows.shape
        channels //= step * step
        pixels = rows.reshape(batch, height, width, channels, step, step).permute(0, 1, 4, 2, 5, 3)
        return pixels.reshape(batch, height * step, width * step, channels)


class UnshuffleRows:
    """``nn.PixelUnshuffle``."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.lag = step - 1
        self.held = Delayed()

    def __call__(self, rows: Tensor, last: bool) -> Tensor:
        """See `Stage`."""
        self.held.put(rows)
        step = self.step
        batch, _, width, channels = rows.shape
        height, width = len(self.held) // step, width // step
        whole = self.held.take(height * step)
        pixels = whole.reshape(batch, height, step, width, step, channels)
        return pixels.permute(0, 1, 3, 5, 2, 4).reshape(
            batch, height, width, channels * step * step
        )


class Delayed:
    """Rows that wait for the branch that they meet again."""

    def __init__(self) -> None:
        self.parts: deque[Tensor] = deque()

    def put(self, rows: Tensor) -> None:
        """Appends rows."""
        self.parts.append(rows)

    def __len__(self) -> int:
        return sum(part.shape[1] for part in self.parts)

    def take(self, count: int) -> Tensor:
        """Removes and returns the first ``count`` rows."""
        taken: list[Tensor] = []
        while count or not taken:
            part = self.parts.popleft()
            taken.append(part[:, :count])
            if part.shape[1] > count:
                self.parts.appendleft(part[:, count:])
            count -= taken[-1].shape[1]
        return taken[0] if len(taken) == 1 else torch.cat(taken, dim=1)


def inverse_ratio(ratio: Pair, like: Tensor) -> Tensor:
    """(1 / t_vertical, 1 / t_horizontal), made on the device: a copy from the host would wait."""
    return torch.cat([like.new_full((1,), 1 / factor) for factor in ratio])


def _folded(layers: nn.Sequential) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Weight and bias of every convolution, with the batch norm behind it folded in."""
    for conv, norm in zip(layers, list(layers)[1:], strict=False):
        if isinstance(conv, nn.Conv2d):
            assert isinstance(norm, _BatchNorm)  # SyncBatchNorm is one, too
            assert norm.running_mean is not None
            assert norm.running_var is not None
            yield fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps,
                norm.weight, norm.bias,
            )  # fmt: skip

"""Streaming evaluation of AIDN's trunk: an image is processed in strips of rows, without gradients.

Computed layer by layer, a network at full resolution is limited by memory bandwidth, since every
feature map is larger than the cache. In streaming, all layers process a strip while it is in the
cache, and each layer keeps the few rows that it needs for the next strip. Nothing is computed
twice, the result equals that of the whole image, and memory depends only on the image's width.

Strips have the shape (B, rows, W, C): rows are contiguous, and the permutation to (B, C, rows, W)
is in PyTorch's channels-last format. A layer receives a strip and whether it is the last one, and
returns the rows that are complete by then, possibly none; ``lag`` is the number of rows that its
output is behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fuse_conv_bn_weights

from rescale_arch.aidn.conditional_resampling import inverse_ratio
from rescale_arch.aidn.scale_adaption import ScaleAdaption
from rescale_arch.aidn.trunk import RescalingTrunk, ResidualBlock
from rescale_arch.regions import Read, Span

Pair = tuple[float, float]

# Size of a strip of features in bytes, on a CPU and on a GPU: with smaller strips, convolutions
# have too few rows; larger strips do not fit into the cache.
_STRIP_BYTES = (2 << 20, 128 << 20)
_LEAST_ROWS = 8


def strip_rows(width: int, weight: Tensor) -> int:
    """Number of rows of a strip of features with ``width``, for a convolution with ``weight``."""
    row_bytes = width * weight.shape[1] * weight.element_size()
    return max(_LEAST_ROWS, _STRIP_BYTES[weight.is_cuda] // row_bytes)


class StreamingLayer(Protocol):
    """One or several layers that process an image in strips."""

    lag: int

    def __call__(self, rows: Tensor, last: bool) -> Tensor:
        """Shape: (B, n, W, C) -> (B, n', W', C')."""


class StreamingConv:
    """A 3x3 convolution, padded with zeros.

    Args:
        weight: (C', C, 3, 3).
        bias: (C'), or None.
        dtype: dtype of the computation and of the output.
        relu: whether to apply a ReLU to the output.
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
    def of(cls, conv: nn.Module, dtype: torch.dtype, relu: bool = False) -> StreamingConv:
        """The streaming equivalent of ``conv``."""
        assert isinstance(conv, nn.Conv2d)
        return cls(conv.weight, conv.bias, dtype, relu)

    def __call__(self, rows: Tensor, last: bool) -> Tensor:
        """See `StreamingLayer`."""
        return self.convolve(self.join(rows, last))

    def join(self, rows: Tensor, last: bool) -> Tensor:
        """``rows`` in the layer's dtype, preceded by the two rows before them or by the border."""
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


class StreamingResidualBlock:
    """A residual block."""

    lag = 2

    def __init__(self, block: ResidualBlock, dtype: torch.dtype) -> None:
        first, _, second = block.body.children()
        self.first = StreamingConv.of(first, dtype, relu=True)
        self.second = StreamingConv.of(second, dtype)
        self.res_scale = block.res_scale

    def __call__(self, rows: Tensor, last: bool) -> Tensor:
        """See `StreamingLayer`."""
        edge = 1 if self.first.seen < 2 else 0
        joined = self.first.join(rows, last)
        branch = self.second(self.first.convolve(joined), last)
        # The branch is two rows behind, and so are the rows in ``joined``.
        own = joined[:, edge : edge + branch.shape[1]]
        return own.add_(branch, alpha=self.res_scale)


class StreamingScaleAdaption:
    """A scale adaption: ``x + A(x, t) * M(x)``."""

    def __init__(self, adaption: ScaleAdaption, inverse: Tensor, dtype: torch.dtype) -> None:
        self.adapt = StreamingConv(adaption.adapt.kernel(inverse), None, dtype)
        self.mask = [
            StreamingConv(weight, bias, dtype, relu=weight.shape[0] > 1)
            for weight, bias in _folded(adaption.mask)
        ]
        self.lag = sum(layer.lag for layer in self.mask)
        self.input, self.adapted = RowBuffer(), RowBuffer()

    def __call__(self, rows: Tensor, last: bool) -> Tensor:
        """See `StreamingLayer`."""
        self.input.put(rows)
        self.adapted.put(self.adapt(rows, last))
        mask = rows
        for layer in self.mask:
            mask = layer(mask, last)
        count = mask.shape[1]
        return self.input.take(count) + self.adapted.take(count).mul_(mask.sigmoid_())


class StreamingTrunk:
    """The trunk of one direction: from the image to the features before the resampling.

    Its ``lag`` is in rows of features.

    Args:
        trunk: the trunk, in evaluation mode.
        ratio: output over feature side of that direction, (vertical, horizontal).
        dtype: dtype of all layers except the first convolution and the last sum.
    """

    def __init__(self, trunk: RescalingTrunk, ratio: Pair, dtype: torch.dtype) -> None:
        head = trunk.head[0]
        *blocks, last = trunk.body
        assert isinstance(head, nn.Conv2d)
        self.shift = trunk.sub_mean
        self.unshuffle = StreamingPixelUnshuffle(trunk.unshuffle) if trunk.unshuffle > 1 else None
        self.head = StreamingConv.of(head, head.weight.dtype)
        self.layers: list[StreamingLayer] = []
        for index, block in enumerate(blocks, start=1):
            assert isinstance(block, ResidualBlock)
            self.layers.append(StreamingResidualBlock(block, dtype))
            if trunk.sa_adapt and index % trunk.adapt_interval == 0:
                adaption = trunk.sa_adapt[index // trunk.adapt_interval - 1]
                assert isinstance(adaption, ScaleAdaption)
                inverse = inverse_ratio(ratio, head.weight)
                self.layers.append(StreamingScaleAdaption(adaption, inverse, dtype))
        self.layers.append(StreamingConv.of(last, dtype))
        self.skip = RowBuffer()
        self.lag = self.head.lag + sum(layer.lag for layer in self.layers)

    def __call__(self, rows: Tensor, last: bool) -> Tensor:
        """Shape: (B, n, W, 3) -> (B, n', W, C); with an unshuffle, n and W are multiples of it."""
        shifted = self.shift(rows.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if self.unshuffle is not None:
            shifted = self.unshuffle(shifted, last)
        features = self.head(shifted, last)
        self.skip.put(features)
        for layer in self.layers:
            features = layer(features, last)
        return self.skip.take(features.shape[1]).add(features)


class StreamingPixelShuffle:
    """``nn.PixelShuffle``."""

    lag = 0

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, rows: Tensor, last: bool) -> Tensor:
        """See `StreamingLayer`."""
        step = self.step
        batch, height, width, channels = rows.shape
        channels //= step * step
        pixels = rows.reshape(batch, height, width, channels, step, step).permute(0, 1, 4, 2, 5, 3)
        return pixels.reshape(batch, height * step, width * step, channels)


class StreamingPixelUnshuffle:
    """``nn.PixelUnshuffle``."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.lag = step - 1
        self.held = RowBuffer()

    def __call__(self, rows: Tensor, last: bool) -> Tensor:
        """See `StreamingLayer`."""
        self.held.put(rows)
        step = self.step
        batch, _, width, channels = rows.shape
        height, width = len(self.held) // step, width // step
        whole = self.held.take(height * step)
        pixels = whole.reshape(batch, height, step, width, step, channels)
        return pixels.permute(0, 1, 3, 5, 2, 4).reshape(
            batch, height, width, channels * step * step
        )


class RowBuffer:
    """A queue of rows that are to be combined with those of a slower branch."""

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


def stream(
    layers: Sequence[StreamingLayer],
    read: Read,
    rows: Span,
    columns: Span,
    weight: Tensor,
    unit: int = 1,
) -> Iterator[Tensor]:
    """Reads a region of the input strip by strip and applies ``layers``.

    ``rows`` and ``columns`` are in units of ``unit`` input pixels.
    """
    step = strip_rows(columns[1] - columns[0], weight)
    for top in range(rows[0], rows[1], step):
        bottom = min(top + step, rows[1])
        region = (unit * at for at in (top, columns[0], bottom, columns[1]))
        strip = read(*region).permute(0, 2, 3, 1)
        for layer in layers:
            strip = layer(strip, bottom == rows[1])
        yield strip


def _folded(layers: nn.Sequential) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Weight and bias of every convolution, with the following batch norm folded in."""
    for conv, norm in zip(layers, list(layers)[1:], strict=False):
        if isinstance(conv, nn.Conv2d):
            assert isinstance(norm, _BatchNorm)  # also a base class of SyncBatchNorm
            assert norm.running_mean is not None
            assert norm.running_var is not None
            yield fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps,
                norm.weight, norm.bias,
            )  # fmt: skip

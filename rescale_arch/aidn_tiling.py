"""AIDN in bands of columns: pictures of any size in little memory, the result that of the whole.

A band runs down the picture in strips of rows (see `rescale_arch.row_stream`), so its height costs
nothing. To its sides it reads as far as the network sees: the trunk's convolutions, whose reach is
counted, and the learnt offsets of the resampling, whose reach is looked at. Where they reach beyond
the features at hand, these are computed anew with a wider margin.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rescale_arch.resampling_rows import ResamplingRows, Span
from rescale_arch.row_stream import (
    ConvRows,
    ShuffleRows,
    Stage,
    TrunkRows,
    UnshuffleRows,
    compute_dtype,
    strip_rows,
)
from rescale_arch.scales import Scale, Size, lr_size

if TYPE_CHECKING:
    from rescale_arch.aidn_arch import AIDN, RescalingTrunk

Pair = tuple[float, float]
Read = Callable[[int, int, int, int], Tensor]
"""``read(top, left, bottom, right)``: a region of the input, (B, 3, h, w) in [0, 1]."""
Write = Callable[[int, int, Tensor], None]
"""``write(top, left, pixels)``: takes a region of the output, (B, 3, h, w)."""

_MARGIN = 4  # pixels of features beside those that an output pixel lies on, for offsets
_SUB_PIXEL_REACH = 3  # LR pixels that the layers behind a fixed-scale trunk see to a side


def downscale_tiles(
    net: AIDN, size: Size, scale: Scale | None, read: Read, write: Write, tile: int
) -> None:
    """Downscales a picture that is never in memory as a whole.

    The result is that of ``net.downscale``, up to rounding.

    Args:
        net: in evaluation mode.
        size: (H, W) of the HR picture.
        scale: as for ``net.downscale``.
        read: gives a region of the HR picture, on the device of ``net``.
        write: takes finished regions of the LR picture, not clamped; every pixel once.
        tile: width of a band in HR pixels. Memory grows with it, and so does speed: a band also
            computes some 55 columns to either side of it.

    Raises:
        ValueError: as ``net.downscale``; or ``net`` is in training mode, or ``tile`` below 1.
    """
    net.check_size(size)
    factors = net.factors(scale)
    small = lr_size(size, factors)
    if net.fixed_scale is not None:
        read = _mirrored(read, size, net.fixed_scale)
        size = small[0] * net.fixed_scale, small[1] * net.fixed_scale
    ratio = 1 / factors[0], 1 / factors[1]
    for columns in _bands(net, small[1], tile, factors[1]):
        render(net.down_net, ratio, size, small, columns, read, write)


def upscale_tiles(
    net: AIDN, size: Size, scale: Scale | None, read: Read, write: Write, tile: int
) -> None:
    """Restores a picture that is never in memory as a whole.

    The result is that of ``net.upscale``, up to rounding.

    Args:
        net: in evaluation mode.
        size: (H, W) of the HR picture.
        scale: as for ``net.upscale``.
        read: gives a region of the LR picture, on the device of ``net``.
        write: takes finished regions of the HR picture, not clamped; every pixel once.
        tile: width of a band in HR pixels.

    Raises:
        ValueError: as :func:`downscale_tiles`.
    """
    net.check_size(size)
    factors = net.factors(scale)
    small = lr_size(size, factors)
    for columns in _bands(net, size[1], tile, 1):
        render(net.up_net, factors, small, size, columns, read, write)


@torch.no_grad()
def render(
    trunk: RescalingTrunk,
    ratio: Pair,
    in_size: Size,
    out_size: Size,
    columns: Span,
    read: Read,
    write: Write,
) -> None:
    """Computes some columns of the output of one direction, from the top to the bottom.

    Args:
        trunk: the direction, in evaluation mode.
        ratio: output over input side, (vertical, horizontal).
        in_size: (height, width) of the input.
        out_size: (height, width) of the output.
        columns: output columns [first, end).
        read: see `Read`.
        write: see `Write`.
    """
    weight = trunk.last_conv.weight
    dtype = compute_dtype(weight)
    # strips say themselves what they are computed in
    with torch.autocast(weight.device.type, enabled=False):
        if trunk.sa_sample is None:
            outputs = _sub_pixel_rows(trunk, ratio, in_size, columns, read, dtype)
        else:
            outputs = _resampled_rows(trunk, ratio, in_size, out_size, columns, read, dtype)
        done = 0
        for rows in outputs:
            rows = rows[:, : out_size[0] - done]
            if rows.shape[1]:
                write(done, columns[0], trunk.add_mean(rows.permute(0, 3, 1, 2)))
            done += rows.shape[1]


def _resampled_rows(
    trunk: RescalingTrunk,
    ratio: Pair,
    in_size: Size,
    out_size: Size,
    columns: Span,
    read: Read,
    dtype: torch.dtype,
) -> Iterator[Tensor]:
    """The output of a network for any scale, without the mean colour."""
    weight = trunk.last_conv.weight
    last = ConvRows.of(trunk.last_conv, weight.dtype)
    # The last convolution sees a column more to either side.
    sampled = max(columns[0] - 1, 0), min(columns[1] + 1, out_size[1])
    inner = columns[0] - sampled[0], columns[1] - sampled[0]
    window = _Window(trunk, ratio, in_size, sampled, read, dtype)
    height = out_size[0]
    step = strip_rows(sampled[1] - sampled[0], weight)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        features = window.resample((top, bottom))
        yield last(features, bottom == height)[:, :, inner[0] : inner[1]]


def _sub_pixel_rows(
    trunk: RescalingTrunk,
    ratio: Pair,
    in_size: Size,
    columns: Span,
    read: Read,
    dtype: torch.dtype,
) -> Iterator[Tensor]:
    """The output of a network with a fixed scale, without the mean colour."""
    features = TrunkRows(trunk, ratio, dtype)
    stages: list[Stage] = [features]
    for layer in trunk.tail[0].children():
        if isinstance(layer, nn.PixelShuffle):
            stages.append(ShuffleRows(layer.upscale_factor))
        elif isinstance(layer, nn.PixelUnshuffle):
            stages.append(UnshuffleRows(layer.downscale_factor))
        else:
            stages.append(ConvRows.of(layer, dtype))
    weight = trunk.last_conv.weight
    stages.append(ConvRows.of(trunk.last_conv, weight.dtype))
    # Output columns begin and end where LR pixels do: every `unit` input columns.
    unit = max(round(1 / ratio[1]), 1)
    reach = math.ceil(features.lag / unit) + _SUB_PIXEL_REACH
    left = max(math.floor(columns[0] / ratio[1] / unit) - reach, 0) * unit
    right = min((math.ceil(columns[1] / ratio[1] / unit) + reach) * unit, in_size[1])
    first = round(left * ratio[1])
    for rows in _sent_through(stages, read, (0, in_size[0]), (left, right), weight):
        yield rows[:, :, columns[0] - first : columns[1] - first]


class _Window:
    """The trunk's features around the output rows that are being resampled.

    Args:
        trunk: the direction.
        ratio: output over input side, (vertical, horizontal).
        size: (height, width) of the features.
        sampled: output columns [first, end) that are to be resampled.
        read: see `Read`.
        dtype: what is computed in.
    """

    def __init__(
        self,
        trunk: RescalingTrunk,
        ratio: Pair,
        size: Size,
        sampled: Span,
        read: Read,
        dtype: torch.dtype,
    ) -> None:
        assert trunk.sa_sample is not None
        self.trunk, self.ratio, self.size = trunk, ratio, size
        self.sampled, self.read, self.dtype = sampled, read, dtype
        self.resampling = ResamplingRows(trunk.sa_sample, ratio, dtype)
        self.margin = _MARGIN
        self._start(0)

    def resample(self, rows: Span) -> Tensor:
        """Output rows [first, end), resampled: (B, n, w', C)."""
        while True:
            top, bottom = self._around(0, rows)
            origin = top, self.columns[0]
            placed = self.resampling.place(self._features(top, bottom), origin, rows, self.sampled)
            row_span, column_span = placed.extent()
            lacking = max(
                _lacking(row_span, (top, bottom), self.size[0]),
                _lacking(column_span, self.columns, self.size[1]),
            )
            if lacking == 0:
                return self.resampling.sample(placed)
            self.margin += max(lacking, self.margin)
            if self._around(1, self.sampled) != self.columns:
                self._start(top)

    def _around(self, axis: int, outputs: Span) -> Span:
        """The feature pixels that output pixels lie on, and a margin for their offsets."""
        first, last = ((at + 0.5) / self.ratio[axis] - 0.5 for at in (outputs[0], outputs[1] - 1))
        return (
            max(math.floor(first) - self.margin, 0),
            min(math.floor(last) + 2 + self.margin, self.size[axis]),
        )

    def _start(self, top: int) -> None:
        """Begins to compute features, at the row ``top``."""
        stream = TrunkRows(self.trunk, self.ratio, self.dtype)
        self.columns = self._around(1, self.sampled)
        first = max(top - stream.lag, 0)
        left = max(self.columns[0] - stream.lag, 0)
        right = min(self.columns[1] + stream.lag, self.size[1])
        inner = self.columns[0] - left, self.columns[1] - left
        computed = _sent_through(
            [stream], self.read, (first, self.size[0]), (left, right), self.trunk.last_conv.weight
        )
        self.new = (rows[:, :, inner[0] : inner[1]] for rows in computed)
        self.parts: deque[Tensor] = deque()
        self.top = self.bottom = first  # the rows at hand
        self.valid = top

    def _features(self, top: int, bottom: int) -> Tensor:
        """Feature rows [top, bottom). Those above are forgotten."""
        if top < max(self.top, self.valid):
            self._start(top)
        while self.bottom < bottom:
            self.parts.append(next(self.new))
            self.bottom += self.parts[-1].shape[1]
        while self.parts and self.top + self.parts[0].shape[1] <= top:
            self.top += self.parts.popleft().shape[1]
        wanted = []
        at = self.top
        for part in self.parts:
            wanted.append(part[:, max(top - at, 0) : max(bottom - at, 0)])
            at += part.shape[1]
        return torch.cat(wanted, dim=1)


def _lacking(sampled: Span, at_hand: Span, length: int) -> int:
    """How many pixels a window is short of. Beyond the picture there are only zeros."""
    first, end = max(sampled[0], 0), min(sampled[1], length)
    return max(at_hand[0] - first, end - at_hand[1], 0) if first < end else 0


def _sent_through(
    stages: Sequence[Stage], read: Read, rows: Span, columns: Span, weight: Tensor
) -> Iterator[Tensor]:
    """Reads a region of the input strip by strip and sends it through ``stages``."""
    step = strip_rows(columns[1] - columns[0], weight)
    for top in range(rows[0], rows[1], step):
        bottom = min(top + step, rows[1])
        strip = read(top, columns[0], bottom, columns[1]).permute(0, 2, 3, 1)
        for stage in stages:
            strip = stage(strip, bottom == rows[1])
        yield strip


def _bands(net: AIDN, width: int, tile: int, factor: float) -> Iterator[Span]:
    """Spans of output columns, each about ``tile`` pixels wide in the HR picture."""
    if net.training:
        raise ValueError("the network is in training mode: tiles need batch statistics fixed")
    if tile < 1:
        raise ValueError(f"tile is {tile}: at least 1 is needed")
    step = max(int(tile / factor), 1)
    for left in range(0, width, step):
        yield left, min(left + step, width)


def _mirrored(read: Read, size: Size, factor: int) -> Read:
    """``read`` of a picture whose sides are filled up to multiples of ``factor`` by mirroring."""

    def padded(top: int, left: int, bottom: int, right: int) -> Tensor:
        height, width = size
        # What is mirrored has to be in the region that is read.
        first_row, first_column = min(top, height - factor), min(left, width - factor)
        region = read(first_row, first_column, min(bottom, height), min(right, width))
        below, beside = max(bottom - height, 0), max(right - width, 0)
        region = F.pad(region, (0, beside, 0, below), mode="reflect")
        return region[..., top - first_row :, left - first_column :]

    return padded

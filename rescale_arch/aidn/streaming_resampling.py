"""AIDN's conditional resampling for a part of the output, without gradients.

The result is that of :class:`~rescale_arch.aidn.conditional_resampling.ConditionalResampling`, but
only the features around that part are needed. Feature maps have the layout of strips (see
`rescale_arch.aidn.streaming`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rescale_arch.aidn.conditional_resampling import ConditionalResampling, positions
from rescale_arch.regions import Span

Pair = tuple[float, float]


class Position(NamedTuple):
    """Positions as the sum of an integer and an offset, kept separate to avoid rounding the sum.

    Attributes:
        pixel: integers; broadcasts with ``offset``.
        offset: in pixels.
    """

    pixel: Tensor
    offset: Tensor

    def moved(self, offset: Tensor) -> Position:
        """The positions shifted by ``offset`` pixels."""
        return Position(self.pixel, self.offset + offset)


@dataclass(frozen=True)
class SamplingPlan:
    """Positions at which a part of the output samples the features a second time.

    Attributes:
        window: features (B, n, w, C), in single precision at least.
        origin: (row, column) of the first pixel of ``window`` in the whole feature map.
        rows: positions in ``window``, (B, n', w').
        columns: likewise.
        routing: (B, n', w', E), in the dtype of the computation.
    """

    window: Tensor
    origin: tuple[int, int]
    rows: Position
    columns: Position
    routing: Tensor

    def extent(self) -> tuple[Span, Span]:
        """Rows and columns [first, end) that are sampled; may exceed the feature map."""
        ends = [(at.pixel + at.offset.floor()).aminmax() for at in (self.rows, self.columns)]
        low_row, high_row, low_column, high_column = (
            int(value) for value in torch.stack([*ends[0], *ends[1]]).tolist()
        )
        row, column = self.origin
        return (low_row + row, high_row + row + 2), (low_column + column, high_column + column + 2)


class StreamingResampling:
    """A conditional resampling at one ratio.

    Args:
        crm: the module with the weights.
        ratio: output over input side, (vertical, horizontal).
        dtype: dtype of the convolutions. Positions and sampling use at least single precision,
            as in the module.
    """

    def __init__(self, crm: ConditionalResampling, ratio: Pair, dtype: torch.dtype) -> None:
        first, _, second, _ = crm.body
        assert isinstance(first, nn.Conv2d)
        assert isinstance(second, nn.Conv2d)
        assert first.bias is not None
        route = crm.routing[0]
        assert isinstance(route, nn.Conv2d)
        num_expert, hidden, num_feat = crm.weight_compress.shape[:3]
        conditions = first.weight[:, :4, 0, 0]
        self.ratio = ratio
        self.dtype = dtype
        self.first = first.weight[:, 4:].to(dtype)
        self.first_bias = first.bias + conditions[:, 0] / ratio[0] + conditions[:, 1] / ratio[1]
        self.row_weight, self.column_weight = conditions[:, 2], conditions[:, 3]
        self.second, self.second_bias = _cast(second, dtype)
        self.offset, self.offset_bias = _cast(crm.offset, dtype)
        self.route, self.route_bias = _cast(route, dtype)
        self.compress = crm.weight_compress.reshape(-1, num_feat, 1, 1).to(dtype)
        self.expand = crm.weight_expand.transpose(0, 1).reshape(num_feat, -1, 1, 1).to(dtype)
        # Channels are (expert, hidden). Repeating over one and summing over the other is many times
        # faster as a convolution than as elementwise operations on five dimensions.
        one = torch.eye(num_expert, dtype=dtype, device=first.weight.device)
        self.repeat = one.repeat_interleave(hidden, 0)[:, :, None, None]
        each = torch.eye(hidden, dtype=dtype, device=first.weight.device)
        self.sum = each.repeat(num_expert, num_expert)[:, :, None, None]

    def plan(
        self, window: Tensor, origin: tuple[int, int], rows: Span, columns: Span
    ) -> SamplingPlan:
        """Samples features around output pixels, and predicts where to sample again.

        Args:
            window: features (B, n, w, C) around them.
            origin: (row, column) of the first pixel of ``window`` in the whole feature map.
            rows: output rows [first, end).
            columns: output columns [first, end).
        """
        # not in half precision, whose 8 to 11 bits cannot distinguish the pixels of a long side
        window = window.to(torch.promote_types(window.dtype, torch.float32))
        row, row_phase = _positions(rows, self.ratio[0], origin[0], window)
        column, column_phase = _positions(columns, self.ratio[1], origin[1], window)
        at_row = Position(*(part[None, :, None] for part in row))
        at_column = Position(*(part[None, None, :] for part in column))
        f0 = sample_bilinear(window, at_row, at_column)
        column_bias = self.first_bias + column_phase[:, None] * self.column_weight
        out = _pointwise(f0.to(self.dtype), self.first)
        out += column_bias.to(self.dtype)
        out += (row_phase[:, None, None] * self.row_weight).to(self.dtype)
        out = _pointwise(out.relu_(), self.second, self.second_bias).relu_()
        # If an offset is NaN, the routing is NaN as well, so nothing is hidden here.
        offset = _pointwise(out, self.offset, self.offset_bias).to(window.dtype).nan_to_num_()
        routing = _pointwise(out, self.route, self.route_bias).sigmoid_()
        return SamplingPlan(
            window, origin, at_row.moved(offset[..., 1]), at_column.moved(offset[..., 0]), routing
        )

    def sample(self, plan: SamplingPlan) -> Tensor:
        """Samples as planned and filters: the resampled features (B, n', w', C)."""
        f1 = sample_bilinear(plan.window, plan.rows, plan.columns)
        routing = _pointwise(plan.routing, self.repeat)
        products = _pointwise(f1.to(self.dtype), self.compress).mul_(routing)
        compressed = _pointwise(products, self.sum).mul_(routing)
        return f1.add_(_pointwise(compressed, self.expand).to(f1.dtype))


def _positions(outputs: Span, ratio: float, origin: int, like: Tensor) -> tuple[Position, Tensor]:
    """Positions of output samples relative to the input pixel ``origin``, and their phases."""
    at, phase = positions(outputs, ratio, like.device)
    pixel = at.floor()
    return Position((pixel - origin).to(like.dtype), (at - pixel).to(like.dtype)), phase.to(
        like.dtype
    )


def sample_bilinear(features: Tensor, rows: Position, columns: Position) -> Tensor:
    """Samples bilinearly, with zeros outside.

    Many times faster on a CPU than ``grid_sample``, since the channels of a pixel are contiguous.

    Args:
        features: (B, h, w, C).
        rows: broadcast with ``columns`` to (B or 1, h', w').
        columns: likewise.

    Returns:
        (B, h', w', C).
    """
    batch, height, width, channels = features.shape
    row, row_weight = _taps(rows, height)
    column, column_weight = _taps(columns, width)
    index = row[..., :, None] * width + column[..., None, :]
    weight = row_weight[..., :, None] * column_weight[..., None, :]
    if batch > 1:
        first = torch.arange(batch, dtype=index.dtype, device=index.device) * (height * width)
        index = index + first[:, None, None, None, None]
        weight = weight.expand(index.shape)
    out: Tensor = F.embedding_bag(
        index.reshape(-1, 4),
        features.reshape(-1, channels),
        per_sample_weights=weight.reshape(-1, 4),
        mode="sum",
    )
    return out.view(*index.shape[:3], channels)


def _taps(position: Position, length: int) -> tuple[Tensor, Tensor]:
    """The two pixels around a position, and their weights: (..., 2) each."""
    low = position.offset.floor()
    fraction = position.offset - low
    # Positions are clamped to two pixels outside, where samples are zero, to avoid overflow.
    low = (position.pixel + low).clamp(-2, length + 1)
    pixel = torch.stack((low, low + 1), dim=-1)
    weight = torch.stack((1 - fraction, fraction), dim=-1)
    weight *= (pixel >= 0) & (pixel < length)
    return pixel.clamp_(0, length - 1).to(torch.int32), weight


def _cast(conv: nn.Conv2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    assert conv.bias is not None
    return conv.weight.to(dtype), conv.bias.to(dtype)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A 1x1 convolution of (B, n, w, C)."""
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias).permute(0, 2, 3, 1)

"""AIDN's conditional resampling module (CRM; arXiv 2201.12576).

The same class is used in both directions: output size and ratio are arguments.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rescale_arch.scales import Size


def init_experts(pool: Tensor) -> None:
    """Initializes every expert of a (E, out, in, k, k) pool like the weight of an ``nn.Conv2d``.

    For the stacked tensor, PyTorch would compute a fan-in of out * k * k * in, which is wrong.
    """
    for expert in pool:
        nn.init.kaiming_uniform_(expert, a=math.sqrt(5))


class Sampling(NamedTuple):
    """Everything about an output that depends on its ratio and size, as tensors.

    In single precision at least: half precision cannot distinguish the pixels of a long side.
    """

    inverse_ratio: Tensor
    """(2,), 1/t: input over output side, (vertical, horizontal)."""
    rows: Tensor
    """(h',), positions of the output rows in pixels of the input; 0 is the center of the first."""
    row_phases: Tensor
    """(h',), positions within a pixel, about -0.5 to 0.5."""
    columns: Tensor
    """(w',), as ``rows``."""
    column_phases: Tensor
    """(w',), as ``row_phases``."""

    @classmethod
    def of(cls, ratio: tuple[float, float], size: Size, like: Tensor) -> Self:
        """The sampling of an output.

        Args:
            ratio: t, output over input side, as (vertical, horizontal). Positions are computed from
                it, not from the ratio of the sizes, which are rounded.
            size: (h', w') of the output.
            like: a tensor on the device of the results.
        """
        return cls.of_window(ratio, (0, 0, *size), (0, 0), like)

    @classmethod
    def of_window(
        cls,
        ratio: tuple[float, float],
        window: tuple[int, int, int, int],
        corner: tuple[int, int],
        like: Tensor,
    ) -> Self:
        """The sampling of a window of an output from a part of the input.

        Args:
            ratio: see :meth:`of`.
            window: (top, left, bottom, right) in the output.
            corner: (top, left) of the part in the input.
            like: see :meth:`of`.
        """
        dtype = torch.promote_types(like.dtype, torch.float32)
        rows, row_phases = positions((window[0], window[2]), ratio[0], like.device)
        columns, column_phases = positions((window[1], window[3]), ratio[1], like.device)
        axes = (rows - corner[0], row_phases, columns - corner[1], column_phases)
        inverse = inverse_ratio(ratio, rows.new_empty(0, dtype=dtype))
        return cls(inverse, *(axis.to(dtype) for axis in axes))


class ConditionalResampling(nn.Module):
    r"""Resamples features to any size, with offsets and filters conditioned on position and scale.

    For an output pixel p::

        position p / t ─> bilinear f0 ─> embedding ─┬─> offset ─> bilinear f1 ─┬───────────(+)─> out
        1/t, sub-pixel phase ───────────────^       └─> routing r ─> W_x(p) W_c(p) f1 ──────^

    ``W_c(p) = sum_e r_e(p) W_c[e]`` compresses C to C/8 channels and ``W_x(p)`` expands them again.
    Both are linear in r, so no per-pixel matrices are needed: a 1x1 convolution computes the
    products of all experts (E * C/8 channels), which are weighted by r and summed. The expansion
    does the same in reverse order.

    Args:
        num_feat: C, a multiple of 8.
        num_expert: E.

    Shape:
        (B, C, h, w), sampling of (h', w') -> (B, C, h', w')
    """

    def __init__(self, num_feat: int, num_expert: int) -> None:
        super().__init__()
        hidden = num_feat // 8
        self.body = nn.Sequential(
            nn.Conv2d(num_feat + 4, num_feat, 1),
            nn.ReLU(True),
            nn.Conv2d(num_feat, num_feat, 1),
            nn.ReLU(True),
        )
        self.offset = nn.Conv2d(num_feat, 2, 1)
        self.routing = nn.Sequential(nn.Conv2d(num_feat, num_expert, 1), nn.Sigmoid())
        self.weight_compress = nn.Parameter(torch.empty(num_expert, hidden, num_feat, 1, 1))
        self.weight_expand = nn.Parameter(torch.empty(num_expert, num_feat, hidden, 1, 1))
        init_experts(self.weight_compress)
        init_experts(self.weight_expand)

    def forward(self, x: Tensor, sampling: Sampling) -> Tensor:
        """Resamples ``x`` to the positions of ``sampling``."""
        rows, columns = sampling.rows[:, None], sampling.columns[None, :]
        embedding = self._embed(_bilinear(x, rows, columns), sampling)
        offset = self.offset(embedding).to(rows.dtype)  # pixels of x; channel 0 is horizontal
        f1 = _bilinear(x, rows + offset[:, 1], columns + offset[:, 0])
        return self._filter(f1, self.routing(embedding))

    def _embed(self, f0: Tensor, sampling: Sampling) -> Tensor:
        """``body`` on the channels [1/t_v, 1/t_h, r_y, r_x, f0].

        The first four vary along at most one axis, so their part of the first convolution is
        computed as a bias, a column and a row instead of full maps.
        """
        first, *rest = self.body
        assert isinstance(first, nn.Conv2d)
        assert first.bias is not None
        weight = first.weight[:, :, 0, 0]
        bias = first.bias + (weight[:, :2] * sampling.inverse_ratio).sum(1).to(weight.dtype)
        row_phases = sampling.row_phases.to(weight.dtype)
        column_phases = sampling.column_phases.to(weight.dtype)
        out = F.conv2d(f0, first.weight[:, 4:], bias)
        out = out + (weight[:, 2, None] * row_phases).to(out.dtype)[:, :, None]
        out = out + (weight[:, 3, None] * column_phases).to(out.dtype)[:, None, :]
        for layer in rest:
            out = layer(out)
        return out

    def _filter(self, f1: Tensor, routing: Tensor) -> Tensor:
        """``f1 + W_x(p) W_c(p) f1``."""
        num_expert, hidden, num_feat = self.weight_compress.shape[:3]
        compress = self.weight_compress.reshape(num_expert * hidden, num_feat, 1, 1)
        expand = self.weight_expand.transpose(0, 1).reshape(num_feat, num_expert * hidden, 1, 1)
        routing = routing.unsqueeze(2)
        products = F.conv2d(f1, compress).unflatten(1, (num_expert, hidden))
        products = products * routing
        # autocast on CUDA would return float32, and the following product with it
        compressed = products.sum(1, keepdim=True, dtype=products.dtype)
        return f1 + F.conv2d((compressed * routing).flatten(1, 2), expand)


def inverse_ratio(ratio: tuple[float, float], like: Tensor) -> Tensor:
    """(1 / t_vertical, 1 / t_horizontal), created on the device to avoid a blocking copy."""
    return torch.cat([like.new_full((1,), 1 / factor) for factor in ratio])


def positions(
    outputs: tuple[int, int], ratio: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Positions of output samples in input pixels, and their phase within a pixel.

    Computed in float64: in single precision, the error would be 1e-3 pixels at the end of an 8K
    side. The tolerance of 1e-3 assigns positions that rounding put slightly below an integer to the
    correct pixel.

    Args:
        outputs: samples [first, end).
        ratio: t, output over input side.
        device: device of the results.
    """
    at = (torch.arange(*outputs, dtype=torch.float64, device=device) + 0.5) / ratio
    return at - 0.5, at - torch.floor(at + 1e-3) - 0.5


def _bilinear(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Samples ``x`` (B, C, h, w) at pixel positions that broadcast to (h', w') or (B, h', w')."""
    height, width = x.shape[-2:]
    rows, columns = torch.broadcast_tensors(
        (2 * rows + 1) / height - 1, (2 * columns + 1) / width - 1
    )
    grid = torch.stack((columns, rows), dim=-1)
    if grid.dim() == 3:
        grid = grid.expand(x.shape[0], -1, -1, -1)
    # not in half precision, whose 8 to 11 bits cannot distinguish the pixels of a long side
    # align_corners=True would select cuDNN's kernel, which does not compile with dynamic shapes
    sampled = F.grid_sample(x.to(grid.dtype), grid, padding_mode="zeros", align_corners=False)
    return sampled.to(x.dtype)

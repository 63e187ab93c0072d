"""Bicubic resampling as in MATLAB's ``imresize``, batched and differentiable.

Used for reference LR images (AIDN) and for training targets at 1/2 and 1/4 size (VQIR).
Differs from ``torch.nn.functional.interpolate(antialias=True)`` in the ratio (the true factor
instead of the ratio of the sizes) and at the border (reflection instead of renormalization).
"""

from __future__ import annotations

import math
from functools import lru_cache

from rescale_compat.errors import RescaleError

import torch
from torch import Tensor

from rescale_arch.scales import Scale, Size, as_pair, scaled_size

# Long sides are resampled in blocks of this many output samples: the weight matrix of a block is
# nearly dense, while that of a whole 8K side would be sparse.
_BLOCK = 64


def imresize(x: Tensor, size: Size, scale: Scale | None = None) -> Tensor:
    """Resamples ``x`` to ``size`` with the cubic kernel (a = -0.5), antialiased when shrinking.

    Args:
        x: (..., H, W), any floating dtype, any range.
        size: output size (h, w).
        scale: output over input side, a float or a pair (vertical, horizontal); by default the
            ratio of the sizes. If the sizes are rounded, pass the true factor: ``1 / s`` for an LR
            image of size ``lr_size((H, W), s)``, and ``s`` for the inverse.

    Returns:
        (..., h, w) in the dtype and on the device of ``x``, not clamped.

    Shape:
        (..., H, W) -> (..., h, w)

    Raises:
        ValueError: a side of ``size`` or a scale is not positive.
    """
    height, width = x.shape[-2:]
    if min(size) < 1:
        raise RescaleError(f"size {size} has a side below 1 pixel")
    if scale is None:
        scale = (size[0] / height, size[1] / width)
    vertical, horizontal = as_pair(scale)
    if not (vertical > 0 and horizontal > 0):
        raise RescaleError(f"scale {scale} is not positive")
    # autocast would round the products to half precision, too coarse for a reference
    with torch.autocast(x.device.type, enabled=False):
        return _resample_axes(x, size, vertical, horizontal)


def bicubic_lr(hr: Tensor, scale: Scale) -> Tensor:
    """The bicubic LR image, not rounded and without gradient: the reference for LR images.

    Args:
        hr: (B, 3, H, W).
        scale: the true factor, or a pair (vertical, horizontal).

    Shape:
        (B, 3, H, W) -> (B, 3, ceil(H / vertical), ceil(W / horizontal))
    """
    vertical, horizontal = as_pair(scale)
    size = scaled_size((hr.shape[-2], hr.shape[-1]), (vertical, horizontal))
    with torch.no_grad():
        return imresize(hr, size, (1 / vertical, 1 / horizontal))


def _resample_axes(x: Tensor, size: Size, vertical: float, horizontal: float) -> Tensor:
    # The axis with the smaller factor goes first, which leaves fewer samples for the other.
    if vertical <= horizontal:
        x = _resample(x.mT, size[0], vertical).mT
        return _resample(x, size[1], horizontal)
    x = _resample(x, size[1], horizontal)
    return _resample(x.mT, size[0], vertical).mT


def _resample(x: Tensor, length: int, scale: float) -> Tensor:
    """Resamples the last axis of ``x`` to ``length`` samples."""
    blocks = _blocks(x.shape[-1], length, scale, x.dtype, x.device)
    parts = [x[..., start : start + weights.shape[0]] @ weights for start, weights in blocks]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


@lru_cache(maxsize=64)
def _blocks(
    in_length: int, out_length: int, scale: float, dtype: torch.dtype, device: torch.device
) -> tuple[tuple[int, Tensor], ...]:
    """The resampling matrix as blocks: (first input sample, weights (inputs, outputs))."""
    blocks = []
    for first in range(0, out_length, _BLOCK):
        outputs = first, min(first + _BLOCK, out_length)
        start, matrix = resampling_matrix(in_length, outputs, scale)
        # the cache must not contain inference tensors, which autograd cannot save
        with torch.inference_mode(False):
            blocks.append((start, matrix.to(dtype=dtype, device=device)))
    return tuple(blocks)


def resampling_matrix(in_length: int, outputs: tuple[int, int], scale: float) -> tuple[int, Tensor]:
    """The weights of a range of output samples along an axis; see :func:`imresize`.

    Args:
        in_length: length of the input.
        outputs: output samples [first, end).
        scale: output over input side.

    Returns:
        The first input sample that the outputs depend on, and the weights in float64,
        (number of input samples, number of outputs).
    """
    index, weight = _contributions(in_length, outputs, scale)
    start, stop = int(index.min()), int(index.max()) + 1
    matrix = torch.zeros(stop - start, index.shape[0], dtype=torch.float64)
    columns = torch.arange(index.shape[0])[:, None].expand_as(index)
    # accumulate: at a border, several taps are reflected onto the same sample
    matrix.index_put_((index - start, columns), weight, accumulate=True)
    return start, matrix


def _contributions(in_length: int, outputs: tuple[int, int], scale: float) -> tuple[Tensor, Tensor]:
    """Indices of input samples and their weights, (outputs, taps) each; weights in float64."""
    stretch = max(1.0, 1.0 / scale)  # antialiasing: the kernel is widened by the factor
    support = 4.0 * stretch
    taps = math.ceil(support) + 2
    center = (torch.arange(*outputs, dtype=torch.float64) + 0.5) / scale - 0.5
    left = torch.floor(center - support / 2)
    index = left[:, None] + torch.arange(taps, dtype=torch.float64)
    weight = _cubic((center[:, None] - index) / stretch)
    weight = weight / weight.sum(dim=1, keepdim=True)
    # reflected border: .. 1 0 | 0 1 .. n-1 | n-1 n-2 ..
    index = index.long() % (2 * in_length)
    index = torch.minimum(index, 2 * in_length - 1 - index)
    return index, weight


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -0.5 (IEEE TASSP 1981)."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))

"""AIDN in bands of columns: images of any size in little memory, without changing the result.

A band is processed from top to bottom in strips of rows (`rescale_arch.aidn.streaming`), so memory
does not depend on its height. On both sides, it also reads the columns in the network's receptive
field: that of the trunk follows from its convolutions, that of the resampling depends on the
learned offsets and is determined while running (`rescale_arch.aidn.feature_window`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from rescale_compat.errors import RescaleError

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rescale_arch.aidn.feature_window import FeatureWindow
from rescale_arch.aidn.streaming import (
    Pair,
    StreamingConv,
    StreamingLayer,
    StreamingPixelShuffle,
    StreamingPixelUnshuffle,
    StreamingTrunk,
    stream,
    strip_rows,
)
from rescale_arch.aidn.trunk import RescalingTrunk, compute_dtype
from rescale_arch.regions import Read, Span, Write
from rescale_arch.scales import Size

_SUB_PIXEL_REACH = 3  # LR pixels on each side that the layers after a fixed-scale trunk depend on


def rescale_in_bands(
    trunk: RescalingTrunk,
    ratio: Pair,
    in_size: Size,
    out_size: Size,
    band: int,
    read: Read,
    write: Write,
) -> None:
    """Rescales an image in one direction, band by band; the result equals that of ``trunk``.

    Args:
        trunk: the direction, in evaluation mode.
        ratio: output over input side, (vertical, horizontal).
        in_size: (height, width) of the input.
        out_size: (height, width) of the output.
        band: width of a band in output pixels. A wider band needs more memory but is faster, since
            the columns in the receptive field on both sides of a band are computed as well.
        read: see `Read`.
        write: see `Write`; receives every output pixel once.

    Raises:
        ValueError: ``trunk`` is in training mode.
    """
    if trunk.training:
        raise RescaleError("the network is in training mode: tiles need fixed batch statistics")
    for left in range(0, out_size[1], band):
        columns = left, min(left + band, out_size[1])
        rescale_columns(trunk, ratio, in_size, out_size, columns, read, write)


@torch.no_grad()
def rescale_columns(
    trunk: RescalingTrunk,
    ratio: Pair,
    in_size: Size,
    out_size: Size,
    columns: Span,
    read: Read,
    write: Write,
) -> None:
    """Computes a range of columns of the output of one direction, from top to bottom.

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
    # Layers cast their inputs themselves; the first and last are computed in the weights' dtype.
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
    """The output of a network for any scale, before the mean color is added."""
    weight = trunk.last_conv.weight
    last = StreamingConv.of(trunk.last_conv, weight.dtype)
    # The last convolution needs one more column on each side.
    sampled = max(columns[0] - 1, 0), min(columns[1] + 1, out_size[1])
    inner = columns[0] - sampled[0], columns[1] - sampled[0]
    unit = trunk.unshuffle
    features = -(-in_size[0] // unit), -(-in_size[1] // unit)
    if unit > 1:
        read = mirrored(read, in_size, unit)
    window = FeatureWindow(trunk, trunk.feature_ratio(ratio), features, sampled, read, dtype)
    height = out_size[0]
    step = strip_rows(sampled[1] - sampled[0], weight)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        resampled = window.resample((top, bottom))
        yield last(resampled, bottom == height)[:, :, inner[0] : inner[1]]


def _sub_pixel_rows(
    trunk: RescalingTrunk,
    ratio: Pair,
    in_size: Size,
    columns: Span,
    read: Read,
    dtype: torch.dtype,
) -> Iterator[Tensor]:
    """The output of a network with a fixed scale, before the mean color is added."""
    features = StreamingTrunk(trunk, ratio, dtype)
    layers: list[StreamingLayer] = [features]
    for layer in trunk.tail[0].children():
        if isinstance(layer, nn.PixelShuffle):
            layers.append(StreamingPixelShuffle(layer.upscale_factor))
        elif isinstance(layer, nn.PixelUnshuffle):
            layers.append(StreamingPixelUnshuffle(layer.downscale_factor))
        else:
            layers.append(StreamingConv.of(layer, dtype))
    weight = trunk.last_conv.weight
    layers.append(StreamingConv.of(trunk.last_conv, weight.dtype))
    # Output columns are aligned with LR pixels: every `unit` input columns.
    unit = max(round(1 / ratio[1]), 1)
    reach = math.ceil(features.lag / unit) + _SUB_PIXEL_REACH
    left = max(math.floor(columns[0] / ratio[1] / unit) - reach, 0) * unit
    right = min((math.ceil(columns[1] / ratio[1] / unit) + reach) * unit, in_size[1])
    first = round(left * ratio[1])
    for rows in stream(layers, read, (0, in_size[0]), (left, right), weight):
        yield rows[:, :, columns[0] - first : columns[1] - first]


def mirrored(read: Read, size: Size, factor: int) -> Read:
    """``read`` for an image that is padded by reflection to multiples of ``factor``."""

    def padded(top: int, left: int, bottom: int, right: int) -> Tensor:
        height, width = size
        # The pixels that are reflected have to be in the region that is read.
        first_row, first_column = min(top, height - factor), min(left, width - factor)
        region = read(first_row, first_column, min(bottom, height), min(right, width))
        pad_bottom, pad_right = max(bottom - height, 0), max(right - width, 0)
        region = F.pad(region, (0, pad_right, 0, pad_bottom), mode="reflect")
        return region[..., top - first_row :, left - first_column :]

    return padded

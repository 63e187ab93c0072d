"""Valid arguments of AIDN's constructor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from rescale_compat.errors import RescaleError

from rescale_arch.rounding import QUANTIZATIONS, Quantization

FixedScale = Literal[2, 3, 4]
_MAX_UNSHUFFLE = 4


def check_arguments(
    widths: Mapping[str, int],
    counts: Mapping[str, int],
    fixed_scale: FixedScale | None,
    quantization: Quantization | None,
    jpeg_quality: int | None,
    down_unshuffle: int,
) -> None:
    """Checks constructor arguments; see :class:`~rescale_arch.AIDN`.

    Args:
        widths: name -> number of channels.
        counts: name -> number of blocks or experts.
        fixed_scale: see there.
        quantization: see there.
        jpeg_quality: see there.
        down_unshuffle: see there.

    Raises:
        ValueError: an argument is out of range.
    """
    for name, value in widths.items():
        if value < 8 or value % 8:
            raise RescaleError(f"{name} is {value}: expected a multiple of 8")
    for name, value in counts.items():
        if value < 1:
            raise RescaleError(f"{name} is {value}: expected at least 1")
    if fixed_scale is not None and fixed_scale not in get_args(FixedScale):
        raise RescaleError(f"fixed_scale is {fixed_scale!r}: expected one of 2, 3, 4, None")
    if quantization is not None and quantization not in QUANTIZATIONS:
        raise RescaleError(
            f"quantization is {quantization!r}: expected one of {', '.join(QUANTIZATIONS)}, None"
        )
    if jpeg_quality is not None and not 1 <= jpeg_quality <= 100:
        raise RescaleError(f"jpeg_quality is {jpeg_quality}: expected 1 to 100, None")
    if not 1 <= down_unshuffle <= _MAX_UNSHUFFLE:
        raise RescaleError(f"down_unshuffle is {down_unshuffle}: expected 1 to {_MAX_UNSHUFFLE}")
    if down_unshuffle > 1 and fixed_scale is not None:
        raise RescaleError(
            f"down_unshuffle is {down_unshuffle}: a network with fixed_scale needs 1"
        )

"""Scale factors and the resulting sizes.

A scale is HR side over LR side, as a float or as a pair (vertical, horizontal).
"""

from __future__ import annotations

import math
from numbers import Real

from rescale_compat.errors import RescaleError

Scale = float | tuple[float, float]
Size = tuple[int, int]

MAX_SCALE = 4.0
"""The largest factor that AIDN supports."""

# ``side * (1 / scale)`` and ``side / scale`` are slightly above an integer in about one of 500
# cases (23 * (1 / 2.3) > 10), and ``scale = H / h`` must result in ``h``.
_TOLERANCE = 1e-9


def scale_pair(scale: Scale) -> tuple[float, float]:
    """Returns ``scale`` as (vertical, horizontal) after checking it.

    Args:
        scale: one factor for both axes, or a pair (vertical, horizontal). Each factor lies in
            [1, 4] and at least one exceeds 1; 1 leaves an axis unchanged.

    Raises:
        ValueError: a factor is out of range, not finite or not a number, or both are 1.
    """
    try:
        vertical, horizontal = (float(factor) for factor in as_pair(scale))
    except (TypeError, ValueError):
        raise RescaleError(f"scale {scale!r} is neither a number nor a pair of numbers") from None
    for factor in (vertical, horizontal):
        if not 1.0 <= factor <= MAX_SCALE:  # also false for NaN
            raise RescaleError(
                f"scale {factor:g} is out of range: expected 1 < scale <= {MAX_SCALE:g}"
            )
    if vertical == horizontal == 1.0:
        raise RescaleError(f"scale 1 changes nothing: expected 1 < scale <= {MAX_SCALE:g}")
    return vertical, horizontal


def as_pair(scale: Scale) -> tuple[float, float]:
    """Returns ``scale`` as (vertical, horizontal) without checks; accepts NumPy numbers."""
    return (scale, scale) if isinstance(scale, int | float | Real) else scale


def fixed_scale_pair(scale: Scale | None, factor: float) -> tuple[float, float]:
    """``factor`` as (vertical, horizontal), for a network with this factor only.

    Raises:
        ValueError: ``scale`` is neither None nor ``factor``.
    """
    if scale is not None and tuple(as_pair(scale)) != (factor, factor):
        raise RescaleError(f"scale is {scale}: this network rescales by {factor:g} only")
    return float(factor), float(factor)


def lr_size(size: Size, scale: Scale) -> Size:
    """The size (h, w) of the LR image for an HR image of ``size`` (H, W).

    Each side is ``ceil(side / scale)``, with a tolerance of 1e-9 for the division's rounding.

    Raises:
        ValueError: see :func:`scale_pair`.
    """
    return scaled_size(size, scale_pair(scale))


def scaled_size(size: Size, scale: tuple[float, float]) -> Size:
    """``ceil(side / factor)`` of both sides, with a tolerance of 1e-9; any positive factors."""
    return (
        math.ceil(size[0] / scale[0] - _TOLERANCE),
        math.ceil(size[1] / scale[1] - _TOLERANCE),
    )

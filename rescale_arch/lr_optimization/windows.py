"""The windows in which a large LR image is optimized."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from rescale_arch.architecture import Search
from rescale_arch.scales import Size

Region = tuple[int, int, int, int]
"""(top, left, bottom, right)."""


@dataclass(frozen=True)
class Window:
    """A part of the LR image that is optimized at a time.

    Attributes:
        core: LR pixels that are optimized.
        seen: LR pixels that are passed to the network.
        restored: HR pixels that are compared with the original.
    """

    core: Region
    seen: Region
    restored: Region


def divide(
    small: Size, size: Size, factors: tuple[float, float], search: Search, block: int
) -> Iterator[Window]:
    """Divides an LR image of size ``small`` into windows of similar size, in row-major order.

    Their corners are multiples of ``block``.
    """
    # restored pixels are bounded, too, since most features are of their size
    sides = [max(1, min(search.side, int(search.hr_side / factor))) for factor in factors]
    rows, columns = (_cuts(length, side, block) for length, side in zip(small, sides, strict=True))
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            # overlap: pixels next to ones that still change would not match them
            end = min(bottom + search.ring, small[0]), min(right + search.ring, small[1])
            core = top, left, *end
            ring = _grown(core, search.ring, small)
            seen = _grown(ring, search.context, small, block)
            yield Window(core, seen, _hr(ring, small, size, factors))


def _cuts(length: int, side: int, block: int) -> list[int]:
    """The start of every part of an axis, and the end of the last."""
    count = -(-length // max(side, block))
    starts = [length * index // count // block * block for index in range(count)]
    return [*dict.fromkeys(starts), length]


def _grown(region: Region, by: int, size: Size, block: int = 1) -> Region:
    top, left = (max(edge - by, 0) // block * block for edge in region[:2])
    bottom, right = (
        min(-(-(edge + by) // block) * block, length)
        for edge, length in zip(region[2:], size, strict=True)
    )
    return top, left, bottom, right


def relative(region: Region, whole: Region) -> Region:
    """``region`` in coordinates of the part ``whole``."""
    top, left = whole[:2]
    return region[0] - top, region[1] - left, region[2] - top, region[3] - left


def _hr(region: Region, small: Size, size: Size, factors: tuple[float, float]) -> Region:
    """The HR region that corresponds to an LR region; the whole image to the whole."""

    def edge(at: int, axis: int) -> int:
        return size[axis] if at == small[axis] else min(round(at * factors[axis]), size[axis])

    top, left, bottom, right = region
    return edge(top, 0), edge(left, 1), edge(bottom, 0), edge(right, 1)


def cut(image: Tensor, region: Region) -> Tensor:
    """A view of ``region`` of (..., H, W)."""
    top, left, bottom, right = region
    return image[..., top:bottom, left:right]

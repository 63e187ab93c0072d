"""VQIR in overlapping tiles: images of any size in bounded memory.

Group norm and attention depend on the whole tile, so the result differs slightly from that of the
whole image. Overlapping tiles are blended with weights that decrease linearly towards their edges:
there are no visible seams, and the edges, which lack context, have little weight.

Statistics of group norm that all tiles share, from a first pass over them, were measured: twice the
computation, and hardly better round trips (see ``docs/weights.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from rescale_compat.errors import RescaleError

import torch
from torch import Tensor

from rescale_arch.regions import Write
from rescale_arch.scales import Size

_MARGIN = 64  # overlap of a tile on each side that has a neighbour, in HR pixels


class TileGrid:
    """Divides an image into tiles of similar size, with corners at multiples of the factor.

    Args:
        factor: factor of the network.
        size: (H, W) of the image.
        tile: maximum side of a tile.
    """

    def __init__(self, factor: int, size: Size, tile: int) -> None:
        if min(size) < factor:
            raise RescaleError(f"size {tuple(size)} has a side below {factor} pixels")
        if tile < 1:
            raise RescaleError(f"tile is {tile}: a number of pixels from 1 is needed")
        # A tile is at least twice as wide as the margin, even if it is cut in two, so at most two
        # windows of an axis overlap at any point.
        tile = max(-(-tile // factor), 4) * factor
        self.margin = min(_MARGIN, tile // 4 // factor * factor)
        self.factor = factor
        self.rows, self.columns = (_cuts(side, tile, factor) for side in size)

    def lr_window(self, top: int, left: int, bottom: int, right: int) -> tuple[int, int, int, int]:
        """The LR region that corresponds to a window of the HR image."""
        factor = self.factor
        return top // factor, left // factor, -(-bottom // factor), -(-right // factor)

    @staticmethod
    def window_size(top: int, left: int, bottom: int, right: int) -> Size:
        """(height, width) of a window."""
        return bottom - top, right - left


def _cuts(side: int, tile: int, factor: int) -> list[int]:
    """The start of every tile and the end of the last one."""
    count = -(-side // tile)
    return [side * index // count // factor * factor for index in range(count)] + [side]


def _windows(cuts: Sequence[int], margin: int) -> Iterator[tuple[int, int]]:
    """The tiles along an axis, including the margins by which they overlap."""
    for first, end in pairwise(cuts):
        yield max(first - margin, 0), min(end + margin, cuts[-1])


@torch.no_grad()
def blend_tiles(
    grid: TileGrid,
    reductions: Sequence[int],
    writes: Sequence[Write],
    compute: Callable[..., Sequence[Tensor]],
) -> None:
    """Computes tile by tile, and writes regions as soon as no other tile contributes to them.

    Args:
        grid: the tiles.
        reductions: for every output, its reduction relative to the image.
        writes: for every output, the function that stores its regions.
        compute: returns the outputs for a window (top, left, bottom, right) of the image.
    """
    outputs = [
        _Output(write, grid.margin // reduction, reduction)
        for write, reduction in zip(writes, reductions, strict=True)
    ]
    last_row, last_column = grid.rows[-1], grid.columns[-1]
    for top, bottom in _windows(grid.rows, grid.margin):
        for left, right in _windows(grid.columns, grid.margin):
            results = compute(top, left, bottom, right)
            for output, result in zip(outputs, results, strict=True):
                output.add(result, top, left, bottom == last_row, right == last_column)


class _Output:
    """Blends the tiles of an output, in row-major order; keeps regions that are not finished.

    Args:
        write: receives finished regions.
        margin: half the width of an overlap.
        reduction: reduction of the output relative to the image.
    """

    def __init__(self, write: Write, margin: int, reduction: int) -> None:
        self.write = write
        self.overlap = 2 * margin
        self.reduction = reduction
        self._right: Tensor | None = None  # edge of the previous tile
        self._above: list[Tensor] = []  # edges of the row above, from left to right
        self._below: list[Tensor] = []  # edges of this row

    def add(self, tile: Tensor, top: int, left: int, is_last_row: bool, is_last: bool) -> None:
        """Adds the next tile, whose corner is at ``top``, ``left`` of the image."""
        tile, self._right = self._joined(tile, self._right if left else None, 3, is_last)
        tile, below = self._joined(tile, self._above.pop(0) if top else None, 2, is_last_row)
        if below is not None:
            self._below.append(below)
        if is_last:
            self._above, self._below = self._below, []
        self.write(top // self.reduction, left // self.reduction, tile)

    def _joined(
        self, tile: Tensor, before: Tensor | None, axis: int, is_last: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Blends the beginning of ``tile`` with ``before``, and keeps its end for the next one."""
        if before is not None:
            head, rest = tile.tensor_split((self.overlap,), axis)
            weights = torch.arange(0.5, self.overlap, dtype=tile.dtype, device=tile.device)
            weights = (weights / self.overlap).view((-1, 1) if axis == 2 else (1, -1))
            tile = torch.cat((torch.lerp(before, head, weights), rest), axis)
        if is_last:
            return tile, None
        done, end = tile.tensor_split((tile.shape[axis] - self.overlap,), axis)
        return done, end.clone()  # not a view, which would keep the tile in memory

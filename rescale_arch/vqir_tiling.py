"""VQIR in overlapping tiles: pictures of any size in bounded memory.

Group norm and attention see the whole of what they are given, so the result is not quite that of
the whole picture. Where tiles overlap, their results are blended, each fading out linearly towards
its edge: there are no steps, and what an edge sees too little of hardly counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from rescale_arch.scales import Size
from rescale_arch.vqir_arch import VQIR

Read = Callable[[int, int, int, int], Tensor]
"""``read(top, left, bottom, right)``: a region of the input, (1, 3, h, w) in [0, 1]."""
Write = Callable[[int, int, Tensor], None]
"""``write(top, left, pixels)``: takes a region of the output, (1, 3, h, w)."""

_MARGIN = 64  # HR pixels that a tile is wider by, to every side that has a neighbour
_LEVELS = (1, 2, 4)


def downscale_tiles(net: VQIR, size: Size, read: Read, write: Write, tile: int) -> None:
    """Downscales a picture that is never in memory as a whole.

    LR images are blended before they are rounded.

    Args:
        net: in evaluation mode.
        size: (H, W) of the HR picture.
        read: gives a region of the HR picture, on the device of ``net``.
        write: takes finished regions of the LR picture, not clamped; every pixel once.
        tile: side of a tile in HR pixels, without what it overlaps others by (up to 64 pixels to
            each side, less with small tiles). Becomes a multiple of the factor, at least four
            times it.

    Raises:
        ValueError: a side of ``size`` is below the factor, or ``tile`` below 1.
    """
    grid = _Grid(net.factor, size, tile)
    _blend(grid, [net.factor], [write], lambda *window: [net.downscale(read(*window))])


def upscale_tiles(net: VQIR, size: Size, read: Read, write: Write, tile: int) -> None:
    """Restores a picture that is never in memory as a whole.

    Args:
        net: in evaluation mode.
        size: (H, W) of the HR picture.
        read: gives a region of the LR picture, rounded, on the device of ``net``.
        write: takes finished regions of the HR picture, not clamped; every pixel once.
        tile: as for :func:`downscale_tiles`.

    Raises:
        ValueError: as :func:`downscale_tiles`.
    """
    grid = _Grid(net.factor, size, tile)

    def restore(*window: int) -> list[Tensor]:
        return [net.upscale(_lr(net, read, window), size=_size(window))]

    _blend(grid, [1], [write], restore)


def levels_tiles(net: VQIR, size: Size, read: Read, writes: Sequence[Write], tile: int) -> None:
    """Restores a picture at full, half and quarter size; see :meth:`VQIR.levels`.

    Args:
        net: of stage 2, in evaluation mode.
        size: (H, W) of the HR picture.
        read: gives a region of the LR picture, rounded, on the device of ``net``.
        writes: take finished regions of the three pictures, the largest first.
        tile: as for :func:`downscale_tiles`.

    Raises:
        ValueError: as :func:`downscale_tiles`, or ``net`` is of stage 1.
    """
    grid = _Grid(net.factor, size, tile)

    def restore(*window: int) -> list[Tensor]:
        return list(net.levels(_lr(net, read, window), size=_size(window)))

    _blend(grid, _LEVELS, writes, restore)


def _lr(net: VQIR, read: Read, window: Sequence[int]) -> Tensor:
    top, left, bottom, right = window
    factor = net.factor
    return read(top // factor, left // factor, -(-bottom // factor), -(-right // factor))


def _size(window: Sequence[int]) -> Size:
    top, left, bottom, right = window
    return bottom - top, right - left


class _Grid:
    """Cuts a picture into tiles of about equal size, whose corners are on multiples of the factor.

    Args:
        factor: of the network.
        size: (H, W) of the picture.
        tile: largest side of a tile.
    """

    def __init__(self, factor: int, size: Size, tile: int) -> None:
        if min(size) < factor:
            raise ValueError(f"size {tuple(size)} has a side below {factor} pixels")
        if tile < 1:
            raise ValueError(f"tile is {tile}: a number of pixels from 1 is needed")
        # No point is in more than two windows of an axis: a tile has twice the margin at least,
        # also if it is cut in two.
        tile = max(-(-tile // factor), 4) * factor
        self.margin = min(_MARGIN, tile // 4 // factor * factor)
        self.rows, self.columns = (_cuts(side, tile, factor) for side in size)


def _cuts(side: int, tile: int, factor: int) -> list[int]:
    """Where tiles begin, and where the last one ends."""
    count = -(-side // tile)
    return [side * index // count // factor * factor for index in range(count)] + [side]


def _windows(cuts: Sequence[int], margin: int) -> Iterator[tuple[int, int]]:
    """The tiles of an axis, with the margins that they overlap by."""
    for first, end in pairwise(cuts):
        yield max(first - margin, 0), min(end + margin, cuts[-1])


@torch.no_grad()
def _blend(
    grid: _Grid,
    reductions: Sequence[int],
    writes: Sequence[Write],
    compute: Callable[..., Sequence[Tensor]],
) -> None:
    """Computes tile by tile, and writes what no further tile contributes to.

    Args:
        grid: the tiles.
        reductions: for every output, how much smaller than the picture it is.
        writes: for every output, what takes it.
        compute: gives the outputs of a window (top, left, bottom, right) of the picture.
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
    """Blends the tiles of an output, which come row by row; keeps what is not finished.

    Args:
        write: takes what is finished.
        margin: half the width of an overlap.
        reduction: how much smaller than the picture the output is.
    """

    def __init__(self, write: Write, margin: int, reduction: int) -> None:
        self.write = write
        self.overlap = 2 * margin
        self.reduction = reduction
        self._right: Tensor | None = None  # of the tile before
        self._above: list[Tensor] = []  # of the row of tiles above, from left to right
        self._below: list[Tensor] = []  # of this row

    def add(self, tile: Tensor, top: int, left: int, is_last_row: bool, is_last: bool) -> None:
        """Takes the next tile, whose corner is at ``top``, ``left`` of the picture."""
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

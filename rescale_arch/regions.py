"""Reading and writing regions of images that are too large to be in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from rescale_arch.scales import Size

Span = tuple[int, int]
"""[first, end) of rows or columns."""
Read = Callable[[int, int, int, int], Tensor]
"""``read(top, left, bottom, right)`` returns a region of the input, (B, 3, h, w) in [0, 1]."""
Write = Callable[[int, int, Tensor], None]
"""``write(top, left, pixels)`` stores a region of the output, (B, 3, h, w)."""


def reader(image: Tensor) -> Read:
    """Returns a function that reads regions of ``image`` (B, 3, H, W)."""

    def read(top: int, left: int, bottom: int, right: int) -> Tensor:
        return image[..., top:bottom, left:right]

    return read


def writer(image: Tensor) -> Write:
    """Returns a function that writes regions to ``image`` (B, 3, H, W)."""

    def write(top: int, left: int, pixels: Tensor) -> None:
        height, width = pixels.shape[-2:]
        image[..., top : top + height, left : left + width] = pixels

    return write


def collect(work: Callable[..., None], source: Tensor, *sizes: Size) -> list[Tensor]:
    """Runs a function that reads and writes regions on tensors of whole images.

    Args:
        work: called with a `Read` and one `Write` for each of ``sizes``.
        source: (B, 3, h, w), from which regions are read.
        sizes: (H, W) of the results.

    Returns:
        A tensor (B, 3, H, W) for each of ``sizes``, in the dtype of ``source``.
    """
    results = [source.new_empty(*source.shape[:2], *size) for size in sizes]
    work(reader(source), *map(writer, results))
    return results

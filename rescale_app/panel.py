"""Images for visual comparison: labeled side-by-side panels and error maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rescale_compat.errors import RescaleError

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from rescale_app.quality import Comparison

Pixels = NDArray[np.uint8]

ERROR_GAIN = 8
"""Factor of the absolute errors in error maps: an error of 32 levels has full brightness."""

_MARGIN = 6
_BACKGROUND = (255, 255, 255)
_INK = (0, 0, 0)


def error_map(reference: Pixels, other: Pixels, gain: float = ERROR_GAIN) -> Pixels:
    """The absolute error of every sample, times ``gain``, clipped to 255.

    Args:
        reference: uint8, any shape.
        other: uint8, the same shape.
        gain: factor that makes small errors visible.

    Returns:
        uint8 of the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != other.shape:
        raise RescaleError(f"images differ in shape: {reference.shape} and {other.shape}")
    error = np.abs(reference.astype(np.float32) - other) * gain
    levels: Pixels = np.minimum(error, 255).round().astype(np.uint8)
    return levels


def enlarge(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Enlarges (h, w, 3) to ``size`` (H, W) by repeating pixels, so that each stays visible."""
    image = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(image)


def side_by_side(images: Sequence[tuple[str, Pixels]], columns: int) -> Pixels:
    """Arranges labeled images in a grid, row by row.

    Args:
        images: (label, (H, W, 3) uint8 RGB) each; sizes may differ.
        columns: number of images in a row.

    Returns:
        (H', W', 3) uint8 RGB: the grid on white, each label above its image.

    Raises:
        ValueError: there are no images, or ``columns`` below 1.
    """
    if not images or columns < 1:
        raise RescaleError(
            f"{len(images)} images in {columns} columns: a panel needs at least one of each"
        )
    widest = max(pixels.shape[1] for _, pixels in images)
    highest = max(pixels.shape[0] for _, pixels in images)
    # The font grows with the image: panels of 8K images are viewed zoomed out.
    font: Any = ImageFont.load_default(size=max(12, widest // 40))
    boxes = [font.getbbox(label) for label, _ in images]
    label_height = int(max(box[3] for box in boxes)) + _MARGIN
    cell_width = max(widest, int(max(box[2] for box in boxes)) + 1) + _MARGIN
    cell_height = highest + label_height + _MARGIN
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    size = (columns * cell_width + _MARGIN, rows * cell_height + _MARGIN)
    panel = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(panel)
    for index, (label, pixels) in enumerate(images):
        row, column = divmod(index, columns)
        left, top = _MARGIN + column * cell_width, _MARGIN + row * cell_height
        draw.text((left, top), label, fill=_INK, font=font)
        panel.paste(Image.fromarray(pixels), (left, top + label_height))
    return np.asarray(panel)


def comparison_panel(comparison: Comparison) -> Pixels:
    """The images of a round trip, side by side with those of bicubic interpolation.

    First row: the original, restored by the network, restored by bicubic. Second row: the LR image
    enlarged by repeating pixels, and the error maps of the two above.
    """
    hr, size = comparison.hr, comparison.hr.shape[:2]
    lr = comparison.lr
    network = lr.info.network.upper()
    return side_by_side(
        [
            (f"HR {size[1]}x{size[0]}", hr),
            (f"{network} {comparison.quality.psnr_y:.2f} dB (Y)", comparison.restored),
            (f"bicubic {comparison.bicubic_quality.psnr_y:.2f} dB (Y)", comparison.bicubic),
            (
                f"LR {lr.pixels.shape[1]}x{lr.pixels.shape[0]}, pixels repeated",
                enlarge(lr.pixels, (size[0], size[1])),
            ),
            (f"{network} error x{ERROR_GAIN}", error_map(hr, comparison.restored)),
            (f"bicubic error x{ERROR_GAIN}", error_map(hr, comparison.bicubic)),
        ],
        columns=3,
    )

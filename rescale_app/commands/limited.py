"""``rescale down --max-bytes``: LR files within a number of bytes, and a table of the cost."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rescale_compat.errors import RescaleError

from rescale_app.commands.files import Result, Source, over_background
from rescale_app.commands.networks import load_rescaler
from rescale_app.distributed import Ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rescale_app.limits import StoredLR
    from rescale_app.lr_image import LRImage
    from rescale_app.quality import Quality
    from rescale_app.rescaler import Rescaler
    from rescale_data.side_data import SideData


@dataclass(frozen=True)
class _Choice:
    """The choice for an image; ``quality`` is None if it is too small for the metrics."""

    name: str
    size: tuple[int, int]
    stored: StoredLR
    quality: Quality | None


class LimitedFiles:
    """Chooses scales and qualities, and records the choices for a table.

    Args:
        rescaler: the network for the kind of file that is tried first: lossy for JPEG, otherwise
            lossless.
        lossy_weights: included weights for lossy WebP; None: use ``rescaler`` for both.
        args: the command's arguments.
        ranks: the processes that share the work.
        suffix: suffix of the files.
    """

    def __init__(
        self,
        rescaler: Rescaler,
        lossy_weights: str | None,
        args: argparse.Namespace,
        ranks: Ranks,
        suffix: str,
    ) -> None:
        self._rescaler = rescaler
        self._lossy_weights = lossy_weights
        self._lossy: Rescaler | None = None
        self._args = args
        self._ranks = ranks
        self._suffix = suffix
        self._choices: list[_Choice] = []

    def convert(self, source: Source) -> Result:
        """Downscales an image and encodes it within the limit."""
        from rescale_app.limits import smallest_within
        from rescale_app.lr_image import UNCHANGED

        pixels, side_data = over_background(source.pixels, source.side_data, self._args)

        def downscale(lossless: bool, scale: float | tuple[float, float]) -> LRImage:
            return self._downscaled(self._network(lossless), pixels, side_data, scale)

        lowest, highest = self._scales(pixels)
        limit = self._args.max_bytes
        stored = smallest_within(
            downscale,
            self._suffix,
            limit,
            lowest,
            highest,
            lambda scale: self._bicubic_bytes(pixels, side_data, scale),
        )
        self._choices.append(self._choice(source, pixels, stored))
        lr = stored.lr
        assert lr.side_data is not None
        remark = "already fits, size unchanged" if lr.info.scale == UNCHANGED else ""
        return Result(
            lr.pixels, lr.side_data, source.losses, lr.info, remark, quality=stored.quality
        )

    def table(self) -> str:
        """A table with the choice and the resulting quality for each image."""
        from rescale_app.lr_image import scale_text

        if not self._choices:
            return ""
        width = max(len("image"), *(len(choice.name) for choice in self._choices))
        lines = [
            f"{'image':<{width}}{'size':>12}{'LR size':>12}{'scale':>8}{'quality':>10}"
            f"{'bytes':>12}{'PSNR Y':>8}{'SSIM Y':>8}"
        ]
        for choice in self._choices:
            stored, lr = choice.stored, choice.stored.lr
            level = "lossless" if stored.quality is None else str(stored.quality)
            vertical, horizontal = (round(factor, 3) for factor in lr.info.scale)
            figures = choice.quality
            lines.append(
                f"{choice.name:<{width}}{f'{choice.size[1]}x{choice.size[0]}':>12}"
                f"{f'{lr.pixels.shape[1]}x{lr.pixels.shape[0]}':>12}"
                f"{scale_text((vertical, horizontal)):>8}{level:>10}{len(stored.content):>12,}"
                + (
                    f"{'-':>8}{'-':>8}"
                    if figures is None
                    else f"{figures.psnr_y:>8.2f}{figures.ssim_y:>8.4f}"
                )
            )
        return "\n".join(lines)

    def _network(self, lossless: bool) -> Rescaler:
        if lossless or self._lossy_weights is None:
            return self._rescaler
        if self._lossy is None:
            self._lossy = load_rescaler(self._args, self._ranks, self._lossy_weights)
        return self._lossy

    def _scales(self, pixels: NDArray[Any]) -> tuple[Any, Any]:
        """The smallest and the largest scale to try, the same if it is fixed."""
        from rescale_app.lr_image import scale_for_size

        args, rescaler = self._args, self._rescaler
        size = (pixels.shape[0], pixels.shape[1])
        fixed = rescaler.architecture.fixed_scale or args.scale
        if fixed is None and args.size is not None:
            fixed = scale_for_size(size, args.size, rescaler.max_scale)
        if fixed is not None:
            return fixed, fixed
        lowest = 1.0 if args.fit is None else max(1.0, max(size) / args.fit)
        if lowest > rescaler.max_scale:
            least = rescaler.network.lr_size(size, rescaler.max_scale)
            raise RescaleError(
                f"cannot fit {size[1]}x{size[0]} into {args.fit}: the factor is at most "
                f"{rescaler.max_scale:g}, which gives {least[1]}x{least[0]}"
            )
        return lowest, rescaler.max_scale

    def _downscaled(
        self,
        rescaler: Rescaler,
        pixels: NDArray[Any],
        side_data: SideData,
        scale: float | tuple[float, float],
    ) -> LRImage:
        from rescale_app import side_data as sides

        if self._args.size is not None:
            lr = rescaler.downscale(pixels, size=self._args.size)
        elif scale == 1:
            lr = rescaler.downscale(pixels, size=pixels.shape[:2])
        else:
            lr = rescaler.downscale(pixels, scale)
        lr_size = (lr.pixels.shape[0], lr.pixels.shape[1])
        return replace(lr, side_data=sides.downscaled(side_data, lr_size, lr.info.scale))

    def _bicubic_bytes(self, pixels: NDArray[Any], side_data: SideData, scale: float) -> int:
        """Size of the bicubic LR image's file; that of a network is slightly larger."""
        from rescale_app import side_data as sides
        from rescale_app.limits import LOWEST_QUALITY
        from rescale_data.encoding import encode_image

        size = (pixels.shape[0], pixels.shape[1])
        lr_size = size if scale == 1 else self._rescaler.network.lr_size(size, scale)
        lr = self._rescaler.bicubic(pixels, lr_size, 1 / scale)
        quality = None if self._suffix == ".png" else LOWEST_QUALITY
        carried = sides.downscaled(side_data, lr_size, scale)
        return len(encode_image(lr, self._suffix, quality=quality, side_data=carried))

    def _choice(self, source: Source, pixels: NDArray[Any], stored: StoredLR) -> _Choice:
        from rescale_app.arrays import eight_bit
        from rescale_app.quality import SSIM_WINDOW, image_quality
        from rescale_data.decoding import decode_image

        size, border = (pixels.shape[0], pixels.shape[1]), math.ceil(max(stored.lr.info.scale))
        quality = None
        if min(size) >= SSIM_WINDOW + 2 * border:
            decoded = decode_image(stored.content, str(source.target))
            lr = replace(stored.lr, pixels=decoded, side_data=None)
            restored = self._network(stored.lossless).upscale(lr)
            quality = image_quality(eight_bit(pixels), restored, border)
        return _Choice(source.path.name, size, stored, quality)

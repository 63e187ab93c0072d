"""JPEG of random quality in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from rescale_compat.errors import RescaleError

import numpy as np
import torch
from torch import Tensor

from rescale_arch.aidn.differentiable_jpeg import Chroma, DifferentiableJPEG, check_jpeg
from rescale_data.cores import usable_cores
from rescale_data.lossy import through_jpeg
from rescale_data.unit_range import to_unit_range

# Further entropy for the generator, so that its draws do not depend on those of the scales.
_STREAM = 1


@dataclass(frozen=True)
class JPEGSetting:
    """Quality, 1 to 100, and chroma, 420 or 444."""

    quality: int
    chroma: Chroma

    def __str__(self) -> str:
        """For messages."""
        return f"JPEG {self.quality} {':'.join(str(self.chroma))}"


class RandomJPEG:
    """A JPEG of one quality and chroma per iteration, each drawn with equal probability.

    The draw is a function of (seed, iteration) only: the same on every rank of a distributed run
    and after resuming.

    Args:
        quality: lowest and highest quality, 1 to 100.
        chroma: the samplings of chroma: 420 at half resolution in both directions (4:2:0), 444 at
            full resolution.
        real: true: images are compressed by libjpeg, on the CPU, and gradients are those of the
            differentiable JPEG of the same quality and chroma (straight-through estimator). false:
            the differentiable JPEG alone.
        seed: see above.

    Raises:
        ValueError: a quality or chroma is out of range, or there is none.
    """

    def __init__(
        self,
        quality: tuple[int, int] = (60, 95),
        chroma: Sequence[Chroma] = (420, 444),
        real: bool = True,
        seed: int = 0,
    ) -> None:
        if len(quality) != 2 or not 1 <= quality[0] <= quality[1] <= 100:
            raise RescaleError(
                f"jpeg quality {list(quality)}: valid are the lowest and the highest, from 1 to 100"
            )
        if not chroma:
            raise RescaleError("jpeg chroma []: at least one of 420, 444 is needed")
        for one in chroma:
            check_jpeg(quality[0], one)
        self._quality = quality
        self._chroma = tuple(chroma)
        self._real = real
        self._seed = seed
        self._soft = DifferentiableJPEG()
        self._threads = ThreadPoolExecutor(usable_cores(), "jpeg")  # started when used

    def setting(self, iteration: int) -> JPEGSetting:
        """Returns quality and chroma of ``iteration``, counted from 1."""
        generator = np.random.default_rng((self._seed, iteration, _STREAM))
        low, high = self._quality
        quality = int(generator.integers(low, high, endpoint=True))
        return JPEGSetting(quality, self._chroma[generator.integers(len(self._chroma))])

    def channel(self, setting: JPEGSetting) -> Callable[[Tensor], Tensor]:
        """Returns the JPEG as a function of images, (B, 3, H, W) in [0, 1], with a gradient."""
        return partial(self._compressed, setting)

    def _compressed(self, setting: JPEGSetting, x: Tensor) -> Tensor:
        if not self._real:
            return self._soft(x, setting.quality, setting.chroma)
        # The copy waits for a GPU; launched after it, the differentiable JPEG is computed there
        # while the CPU compresses.
        pixels = _to_pixels(x)
        soft = self._soft(x, setting.quality, setting.chroma)
        jpeg = partial(through_jpeg, quality=setting.quality, chroma=setting.chroma)
        real = torch.from_numpy(np.stack(list(self._threads.map(jpeg, pixels))))
        if x.is_cuda:
            real = real.pin_memory()
        real = to_unit_range(real.to(x.device, non_blocking=True)).permute(0, 3, 1, 2)
        # The values are those of `real` exactly, and not finite where `x` is not.
        return real.to(soft.dtype) + (soft - soft.detach())


def _to_pixels(x: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [0, 1] -> (B, H, W, 3) uint8."""
    rounded = x.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()

"""JPEG of random quality in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rescale_compat.errors import RescaleError

import numpy as np
from torch import Tensor

from rescale_arch.aidn.differentiable_jpeg import Chroma, check_jpeg
from rescale_model.jpeg import JPEG, JPEGSetting

# Further entropy for the generator, so that its draws do not depend on those of the scales.
_STREAM = 1


class RandomJPEG:
    """A JPEG of one quality and chroma per iteration, each drawn with equal probability.

    The draw is a function of (seed, iteration) only: the same on every rank of a distributed run
    and after resuming.

    Args:
        quality: lowest and highest quality, 1 to 100.
        chroma: chroma subsampling to choose from: 420 (4:2:0, half resolution in both
            directions), 444 (full resolution).
        real: true: images are compressed by libjpeg, on the CPU, with the gradients of the
            differentiable JPEG (straight-through estimator). false: the differentiable JPEG is
            used for both.
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
                f"jpeg quality {list(quality)}: expected the lowest and the highest, from 1 to 100"
            )
        if not chroma:
            raise RescaleError("jpeg chroma []: expected at least one of 420, 444")
        for one in chroma:
            check_jpeg(quality[0], one)
        self._quality = quality
        self._chroma = tuple(chroma)
        self._jpeg = JPEG(real)
        self._seed = seed

    def setting(self, iteration: int) -> JPEGSetting:
        """Returns quality and chroma of ``iteration``, counted from 1."""
        generator = np.random.default_rng((self._seed, iteration, _STREAM))
        low, high = self._quality
        quality = int(generator.integers(low, high, endpoint=True))
        return JPEGSetting(quality, self._chroma[generator.integers(len(self._chroma))])

    def channel(self, setting: JPEGSetting) -> Callable[[Tensor], Tensor]:
        """Returns the JPEG as a function of images, (B, 3, H, W) in [0, 1], with a gradient."""
        return self._jpeg.channel(setting)

"""JPEG compression of tensors: the values of libjpeg, with a gradient."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from rescale_arch.aidn.differentiable_jpeg import Chroma, DifferentiableJPEG
from rescale_data.cores import usable_cores
from rescale_data.lossy import through_jpeg
from rescale_data.unit_range import to_unit_range


@dataclass(frozen=True)
class JPEGSetting:
    """Quality, 1 to 100, and chroma, 420 or 444."""

    quality: int
    chroma: Chroma = 420

    def __str__(self) -> str:
        """For messages."""
        return f"JPEG {self.quality} {':'.join(str(self.chroma))}"


class JPEG:
    """Compresses and decompresses images.

    Args:
        real: whether images are compressed by libjpeg, on the CPU, with the gradients of the
            differentiable JPEG (straight-through estimator); otherwise, the differentiable JPEG is
            used for both.
    """

    def __init__(self, real: bool = True) -> None:
        self._real = real
        self._soft = DifferentiableJPEG()
        self._threads = ThreadPoolExecutor(usable_cores(), "jpeg")  # threads start when needed

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
        # Exactly the values of `real`, but not finite where `x` is not.
        return real.to(soft.dtype) + (soft - soft.detach())


def _to_pixels(x: Tensor) -> np.ndarray:
    """(B, 3, H, W) in [0, 1] -> (B, H, W, 3) uint8."""
    rounded = x.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()

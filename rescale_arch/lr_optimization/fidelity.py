"""LR fidelity: the distance of an LR image from the bicubic one, and bounds on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rescale_arch.bicubic import resampling_matrix
from rescale_arch.lr_optimization.windows import Region
from rescale_arch.regions import Read
from rescale_arch.rounding import quantize
from rescale_arch.scales import Size

_LOSS = 0.15, 0.2  # dB of LR fidelity: radius of the ball, and tolerance for stored images
_Y = 65.481, 128.553, 24.966  # BT.601


@dataclass(frozen=True)
class FidelityBall:
    """LR images with at least about the fidelity, RGB and Y, of a given one.

    Attributes:
        guide: its center, the bicubic LR image.
        square: mean square distance of the given image.
        luma: the same for the component along Y.
    """

    guide: Tensor
    square: Tensor
    luma: Tensor

    @classmethod
    def around(cls, guide: Tensor, stored: Tensor) -> FidelityBall:
        """The ball with ``stored`` on its surface."""
        difference = stored - guide
        return cls(guide, difference.square().mean(), _along_y(difference).square().mean())

    def contains(self, stored: Tensor) -> bool:
        """Whether the fidelity of ``stored`` is sufficient."""
        inside = FidelityBall.around(self.guide, stored)
        most = 10 ** (_LOSS[1] / 10)
        return bool((inside.square <= most * self.square) & (inside.luma <= most * self.luma))

    def projected(self, x: Tensor, stored: Tensor) -> Tensor:
        """``x``, moved towards the center if ``stored``, its stored version, is too far away."""
        inside = FidelityBall.around(self.guide, stored)
        most = 10 ** (_LOSS[0] / 10)
        shrink_luma = _ratio(most * self.luma, inside.luma)
        square = inside.square - (1 - shrink_luma.square()) * inside.luma
        difference = x - self.guide
        difference = difference - (1 - shrink_luma) * _along_y(difference)
        return self.guide + difference * _ratio(most * self.square, square)


def _ratio(most: Tensor, square: Tensor) -> Tensor:
    """The factor, at most 1, that limits a mean square to ``most``."""
    return (most / square.clamp_min(1e-30)).sqrt().clamp_max(1)


def _along_y(difference: Tensor) -> Tensor:
    """The component of (1, 3, h, w) that changes Y; the rest is orthogonal to it."""
    weights = difference.new_tensor(_Y).view(1, 3, 1, 1)
    weights = weights / weights.norm()
    component: Tensor = (difference * weights).sum(1, keepdim=True) * weights
    return component


def bicubic_window(read: Read, size: Size, factors: tuple[float, float], region: Region) -> Tensor:
    """A region of the bicubic LR image in 8 bits, from a part of the HR image."""
    top, left, bottom, right = region
    first_row, rows = resampling_matrix(size[0], (top, bottom), 1 / factors[0])
    first_column, columns = resampling_matrix(size[1], (left, right), 1 / factors[1])
    hr = read(first_row, first_column, first_row + rows.shape[0], first_column + columns.shape[0])
    with torch.autocast(hr.device.type, enabled=False):
        return quantize(rows.T.to(hr) @ hr @ columns.to(hr))

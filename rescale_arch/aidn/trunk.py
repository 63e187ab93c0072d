"""AIDN's two directions, layer by layer: a trunk, followed by a resampling."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rescale_arch.aidn.conditional_resampling import ConditionalResampling, Sampling
from rescale_arch.aidn.scale_adaption import ScaleAdaption
from rescale_arch.images import pad_to_multiple

_RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K


class RescalingTrunk(nn.Module):
    """One direction of AIDN.

    With ``resampling``, the network supports any ratio; ``sub_pixel`` is the fixed-scale variant.
    With ``unshuffle`` above 1, features are computed at a fraction of the input's resolution: the
    input is padded by reflection to multiples of ``unshuffle``, each block of ``unshuffle`` x
    ``unshuffle`` pixels becomes one pixel of the first convolution's input (space to depth), and
    the resampling starts from that grid. Sample positions stay exact.

    Shape:
        (B, 3, H, W), sampling of (h', w') -> (B, 3, h', w')
    """

    def __init__(
        self,
        num_feat: int,
        num_block: int,
        res_scale: float,
        sub_pixel: nn.Module | None = None,
        *,
        adaptions: nn.ModuleList | None = None,
        adapt_interval: int = 1,
        resampling: ConditionalResampling | None = None,
        unshuffle: int = 1,
    ) -> None:
        super().__init__()
        self.adapt_interval = adapt_interval
        self.unshuffle = unshuffle
        self.sub_mean = _MeanShift(-1)
        self.add_mean = _MeanShift(1)
        self.head = nn.Sequential(nn.Conv2d(3 * unshuffle**2, num_feat, 3, 1, 1))
        self.body = nn.ModuleList(ResidualBlock(num_feat, res_scale) for _ in range(num_block))
        self.body.append(nn.Conv2d(num_feat, num_feat, 3, 1, 1))
        self.sa_adapt = adaptions
        self.sa_sample = resampling
        self.tail = nn.Sequential(sub_pixel or nn.Identity(), nn.Conv2d(num_feat, 3, 3, 1, 1))

    @classmethod
    def any_scale(
        cls,
        num_feat: int,
        num_block: int,
        res_scale: float,
        adapt_interval: int,
        num_adapt_expert: int,
        num_crm_expert: int,
        unshuffle: int = 1,
    ) -> RescalingTrunk:
        """A direction for any ratio; for the arguments see :class:`~rescale_arch.AIDN`."""
        return cls(
            num_feat,
            num_block,
            res_scale,
            adaptions=nn.ModuleList(
                ScaleAdaption(num_feat, num_adapt_expert)
                for _ in range(num_block // adapt_interval)
            ),
            adapt_interval=adapt_interval,
            resampling=ConditionalResampling(num_feat, num_crm_expert),
            unshuffle=unshuffle,
        )

    def forward(self, x: Tensor, sampling: Sampling) -> Tensor:
        """Rescales ``x``; the fixed-scale variant ignores ``sampling``.

        ``sampling`` is in pixels of the features; see :meth:`feature_ratio`.
        """
        # The first and last convolutions are excluded from autocast: bfloat16 is too coarse for
        # images with 8 bits.
        with torch.autocast(x.device.type, enabled=False):
            shifted = self.sub_mean(x)
            if self.unshuffle > 1:
                padded = pad_to_multiple(shifted, self.unshuffle)
                shifted = F.pixel_unshuffle(padded, self.unshuffle)
            head = self.head(shifted)
        features = head.to(compute_dtype(x))  # the sums of the blocks stay in half precision, too
        *blocks, last = self.body
        inverse = sampling.inverse_ratio.to(x.dtype)
        for index, block in enumerate(blocks, start=1):
            features = block(features)
            if self.sa_adapt and index % self.adapt_interval == 0:
                features = self.sa_adapt[index // self.adapt_interval - 1](features, inverse)
        features = last(features) + head
        if self.sa_sample is not None:
            features = self.sa_sample(features, sampling)
        sub_pixel, last = self.tail
        features = sub_pixel(features)
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = self.add_mean(last(features.to(x.dtype)))
        return out

    def feature_ratio(self, ratio: tuple[float, float]) -> tuple[float, float]:
        """Output over feature side, for a ratio of output over input side."""
        return ratio[0] * self.unshuffle, ratio[1] * self.unshuffle

    @property
    def last_conv(self) -> nn.Conv2d:
        """The convolution from features to the image."""
        conv = self.tail[1]
        assert isinstance(conv, nn.Conv2d)
        return conv


class ResidualBlock(nn.Module):
    """conv - ReLU - conv, scaled, plus input: EDSR's block without batch norm (CVPRW 2017)."""

    def __init__(self, num_feat: int, res_scale: float) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.body = nn.Sequential(
            nn.Conv2d(num_feat, num_feat, 3, 1, 1),
            nn.ReLU(True),
            nn.Conv2d(num_feat, num_feat, 3, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        return torch.add(x, self.body(x), alpha=self.res_scale)


class _MeanShift(nn.Conv2d):
    """Adds ``sign`` times the mean color; a convolution, as in the released weights."""

    def __init__(self, sign: int) -> None:
        super().__init__(3, 3, 1)
        assert self.bias is not None
        self.requires_grad_(False)
        self.weight.copy_(torch.eye(3)[:, :, None, None])
        self.bias.copy_(sign * torch.tensor(_RGB_MEAN))


def sub_pixel_up(num_feat: int, scale: int) -> nn.Sequential:
    """Sub-pixel convolutions that upscale by 2, 3 or 4 (ESPCN, CVPR 2016)."""
    step, count = _steps(scale)
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.Conv2d(num_feat, step * step * num_feat, 3, 1, 1), nn.PixelShuffle(step)]
    return nn.Sequential(*layers)


def sub_pixel_down(num_feat: int, scale: int) -> nn.Sequential:
    """Space-to-depth and convolutions that downscale by 2, 3 or 4."""
    step, count = _steps(scale)
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.PixelUnshuffle(step), nn.Conv2d(step * step * num_feat, num_feat, 3, 1, 1)]
    return nn.Sequential(*layers)


def _steps(scale: int) -> tuple[int, int]:
    """The factor of a step, and the number of steps."""
    return (3, 1) if scale == 3 else (2, scale.bit_length() - 1)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of convolutions: that of ``x``, or autocast's if it is enabled."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype

"""AIDN: arbitrary-scale invertible image downscaling.

Paper: Scale-Arbitrary Invertible Image Downscaling, IEEE TIP 2023, arXiv 2201.12576.
Written from the paper; the state-dict entries keep the names of the authors' release, whose weights
load as they are. Beyond the paper: a factor of its own for each axis, and fixed-scale networks for
sides that are no multiple of the factor.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rescale_arch.aidn_tiling import render
from rescale_arch.conditional_resampling import ConditionalResampling
from rescale_arch.differentiable_jpeg import DifferentiableJPEG
from rescale_arch.rounding import QUANTIZATIONS, Quantization, quantize
from rescale_arch.row_stream import compute_dtype, inverse_ratio
from rescale_arch.scale_adaption import ScaleAdaption
from rescale_arch.scales import Scale, Size, lr_size, scale_pair

FixedScale = Literal[2, 3, 4]
MIN_SIDE = 8
_RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K


class AIDN(nn.Module):
    r"""Downscales an image by any factor in (1, 4] and restores it from the small image.

    ::

        hr ──> down_net(·, 1/s) ──> lr ──> quantise [──> JPEG] ──> up_net(·, s) ──> restored
                                    └── the LR guide loss sees this, unclamped

        each net:  mean shift ─> head ─┬─> n residual blocks, after every K ─> conv ─(+)
                                       │   of them a scale adaption                ^  │
                                       └───────────────────────────────────────────┘  │
                                 mean shift <─ conv <─ conditional resampling (CRM) <─┘

    The defaults are the paper's network (3,775,362 parameters).

    Args:
        num_feat: C, channels of the trunk; a multiple of 8.
        num_block: n, residual blocks of each net.
        adapt_interval: K, blocks per scale adaption.
        num_adapt_expert: experts of a scale adaption.
        num_crm_expert: experts of the conditional resampling.
        res_scale: factor of the residual branches.
        fixed_scale: None for any factor; 2, 3 or 4 for the variant that the paper pre-trains at x4:
            no scale adaption, sub-pixel convolution in place of the CRM.
        quantization: gradient of the 8-bit rounding, ``'round_soft'`` or ``'ste'`` (see
            :func:`rescale_arch.rounding.quantize`); None leaves the LR image in floating point.
        jpeg_quality: 1..100 puts a differentiable JPEG of that quality behind the rounding (AIDN+,
            quality 90); needs BasicSR. None: no JPEG.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> net = AIDN().eval()
        >>> lr = net.downscale(hr, 2.5)                          # doctest: +SKIP
        >>> restored = net.upscale(quantize(lr), 2.5, size=hr.shape[-2:])  # doctest: +SKIP
    """

    def __init__(
        self,
        num_feat: int = 64,
        num_block: int = 16,
        adapt_interval: int = 4,
        num_adapt_expert: int = 4,
        num_crm_expert: int = 8,
        res_scale: float = 1.0,
        fixed_scale: FixedScale | None = None,
        quantization: Quantization | None = "round_soft",
        jpeg_quality: int | None = None,
    ) -> None:
        super().__init__()
        if num_feat < 8 or num_feat % 8:
            raise ValueError(f"num_feat is {num_feat}: valid are multiples of 8")
        counts = {
            "num_block": num_block,
            "adapt_interval": adapt_interval,
            "num_adapt_expert": num_adapt_expert,
            "num_crm_expert": num_crm_expert,
        }
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} is {value}: at least 1 is needed")
        if fixed_scale is not None and fixed_scale not in get_args(FixedScale):
            raise ValueError(f"fixed_scale is {fixed_scale!r}: valid are 2, 3, 4, None")
        if quantization is not None and quantization not in QUANTIZATIONS:
            raise ValueError(
                f"quantization is {quantization!r}: valid are {', '.join(QUANTIZATIONS)}, None"
            )
        if jpeg_quality is not None and not 1 <= jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality is {jpeg_quality}: valid are 1 to 100, None")
        self.fixed_scale = fixed_scale
        self.quantization = quantization
        self.jpeg_quality = jpeg_quality
        self._jpeg = None if jpeg_quality is None else DifferentiableJPEG(jpeg_quality)

        def subnet(shrinks: bool) -> RescalingTrunk:
            if fixed_scale is None:
                return RescalingTrunk(
                    num_feat,
                    num_block,
                    res_scale,
                    adaptions=nn.ModuleList(
                        ScaleAdaption(num_feat, num_adapt_expert)
                        for _ in range(num_block // adapt_interval)
                    ),
                    adapt_interval=adapt_interval,
                    resampling=ConditionalResampling(num_feat, num_crm_expert),
                )
            shuffle = _sub_pixel_down if shrinks else _sub_pixel_up
            return RescalingTrunk(num_feat, num_block, res_scale, shuffle(num_feat, fixed_scale))

        self.down_net = subnet(shrinks=True)
        self.up_net = subnet(shrinks=False)

    def downscale(self, hr: Tensor, scale: Scale | None = None) -> Tensor:
        """Downscales ``hr`` by ``scale``.

        Args:
            hr: RGB in [0, 1].
            scale: factor in (1, 4], or a pair (vertical, horizontal) of factors in [1, 4]. May be
                left out with ``fixed_scale``.

        Returns:
            The LR image before quantisation: around [0, 1], not clamped.

        Shape:
            (B, 3, H, W) -> (B, 3, h, w), (h, w) = ``lr_size((H, W), scale)``

        Raises:
            ValueError: ``hr`` is no batch of RGB images of 8 x 8 pixels or more, or ``scale`` is
                out of range.
        """
        _check_image(hr, "hr", MIN_SIDE)
        vertical, horizontal = self.factors(scale)
        size = lr_size((hr.shape[-2], hr.shape[-1]), (vertical, horizontal))
        if self.fixed_scale is not None:
            bottom = size[0] * self.fixed_scale - hr.shape[-2]
            right = size[1] * self.fixed_scale - hr.shape[-1]
            hr = F.pad(hr, (0, right, 0, bottom), mode="reflect")
        lr: Tensor = self.down_net(hr, (1 / vertical, 1 / horizontal), size)
        return lr

    def upscale(self, lr: Tensor, scale: Scale | None = None, *, size: Size) -> Tensor:
        """Restores the HR image from the (quantised) LR image.

        Args:
            lr: RGB in [0, 1], made by :meth:`downscale` with the same scale.
            scale: the factor that ``lr`` was downscaled by. The true one: the ratio of the sides is
                off by up to a pixel and costs several dB.
            size: (H, W) of the HR image.

        Returns:
            The restored image: around [0, 1], not clamped.

        Shape:
            (B, 3, h, w) -> (B, 3, H, W)

        Raises:
            ValueError: ``lr`` is no batch of RGB images, has not the size that ``size`` and
                ``scale`` ask for, or ``scale`` is out of range.
        """
        _check_image(lr, "lr", 1)
        pair = self.factors(scale)
        self.check_size(size)
        expected = lr_size(size, pair)
        if tuple(lr.shape[-2:]) != expected:
            raise ValueError(
                f"lr is {lr.shape[-2]} x {lr.shape[-1]} (height x width), but size {tuple(size)} "
                f"at scale {pair[0]:g} x {pair[1]:g} has an LR image of "
                f"{expected[0]} x {expected[1]}"
            )
        restored: Tensor = self.up_net(lr, pair, size)
        return restored[..., : size[0], : size[1]]

    def forward(self, hr: Tensor, scale: Scale | None = None) -> tuple[Tensor, Tensor]:
        """The round trip of training: (LR image before quantisation, restored image).

        Shape:
            (B, 3, H, W) -> (B, 3, h, w), (B, 3, H, W)
        """
        lr = self.downscale(hr, scale)
        stored = lr if self.quantization is None else quantize(lr, self.quantization)
        if self._jpeg is not None:
            stored = self._jpeg(stored)
        return lr, self.upscale(stored, scale, size=(hr.shape[-2], hr.shape[-1]))

    @staticmethod
    def check_size(size: Size) -> None:
        """Raises ValueError where a side of an HR image of ``size`` is below 8 pixels."""
        if min(size) < MIN_SIDE:
            raise ValueError(f"size {tuple(size)} has a side below {MIN_SIDE} pixels")

    def factors(self, scale: Scale | None) -> tuple[float, float]:
        """The factors (vertical, horizontal) that ``scale`` stands for.

        Raises:
            ValueError: ``scale`` is out of range, or missing without ``fixed_scale``.
        """
        if self.fixed_scale is None:
            if scale is None:
                raise ValueError("scale is missing: only a network with fixed_scale has a default")
            return scale_pair(scale)
        fixed = float(self.fixed_scale)
        if scale is not None and scale_pair(scale) != (fixed, fixed):
            raise ValueError(f"scale is {scale}, but this network has fixed_scale {fixed:g}")
        return fixed, fixed


class RescalingTrunk(nn.Module):
    """One direction of AIDN: the trunk that both share, then a resampling.

    With ``resampling`` the network takes any ratio; ``sub_pixel`` is the fixed-scale alternative.

    Shape:
        (B, 3, H, W), ratio t, size (h', w') -> (B, 3, h', w')
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
    ) -> None:
        super().__init__()
        self.adapt_interval = adapt_interval
        self.sub_mean = _MeanShift(-1)
        self.add_mean = _MeanShift(1)
        self.head = nn.Sequential(nn.Conv2d(3, num_feat, 3, 1, 1))
        self.body = nn.ModuleList(ResidualBlock(num_feat, res_scale) for _ in range(num_block))
        self.body.append(nn.Conv2d(num_feat, num_feat, 3, 1, 1))
        self.sa_adapt = adaptions
        self.sa_sample = resampling
        self.tail = nn.Sequential(sub_pixel or nn.Identity(), nn.Conv2d(num_feat, 3, 3, 1, 1))

    def forward(self, x: Tensor, ratio: tuple[float, float], size: Size) -> Tensor:
        """Rescales ``x`` to ``size``; ``ratio`` is output over input side, vertical first."""
        if self._runs_in_strips(x):
            return self._in_strips(x, ratio, size)
        # Under autocast the ends stay in single precision: bfloat16 tells fewer levels of a pixel
        # apart than the 8 bits that the LR image is stored with.
        with torch.autocast(x.device.type, enabled=False):
            head = self.head(self.sub_mean(x))
        features = head.to(compute_dtype(x))  # the sums of the blocks stay in half precision, too
        *blocks, last = self.body
        inverse = inverse_ratio(ratio, x)
        for index, block in enumerate(blocks, start=1):
            features = block(features)
            if self.sa_adapt and index % self.adapt_interval == 0:
                features = self.sa_adapt[index // self.adapt_interval - 1](features, inverse)
        features = last(features) + head
        if self.sa_sample is not None:
            features = self.sa_sample(features, ratio, size)
        sub_pixel, last = self.tail
        features = sub_pixel(features)
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = self.add_mean(last(features.to(x.dtype)))
        return out

    @property
    def last_conv(self) -> nn.Conv2d:
        """The convolution from features to an image."""
        conv = self.tail[1]
        assert isinstance(conv, nn.Conv2d)
        return conv

    def _runs_in_strips(self, x: Tensor) -> bool:
        """On a CPU they are several times as fast; they know no gradients and no batch norm."""
        return not (
            self.training or x.is_cuda or torch.is_grad_enabled() or torch.compiler.is_compiling()
        )

    def _in_strips(self, x: Tensor, ratio: tuple[float, float], size: Size) -> Tensor:
        out = x.new_empty(*x.shape[:2], *size)

        def read(top: int, left: int, bottom: int, right: int) -> Tensor:
            return x[:, :, top:bottom, left:right]

        def write(top: int, left: int, pixels: Tensor) -> None:
            height, width = pixels.shape[-2:]
            out[:, :, top : top + height, left : left + width] = pixels

        in_size = (x.shape[-2], x.shape[-1])
        render(self, ratio, in_size, size, (0, size[1]), read, write)
        return out


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
    """Adds ``sign`` times the mean colour; a convolution, as the released weights have one."""

    def __init__(self, sign: int) -> None:
        super().__init__(3, 3, 1)
        assert self.bias is not None
        self.requires_grad_(False)
        self.weight.copy_(torch.eye(3)[:, :, None, None])
        self.bias.copy_(sign * torch.tensor(_RGB_MEAN))


def _sub_pixel_up(num_feat: int, scale: int) -> nn.Sequential:
    step, count = (3, 1) if scale == 3 else (2, scale.bit_length() - 1)
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.Conv2d(num_feat, step * step * num_feat, 3, 1, 1), nn.PixelShuffle(step)]
    return nn.Sequential(*layers)


def _sub_pixel_down(num_feat: int, scale: int) -> nn.Sequential:
    step, count = (3, 1) if scale == 3 else (2, scale.bit_length() - 1)
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [nn.PixelUnshuffle(step), nn.Conv2d(step * step * num_feat, num_feat, 3, 1, 1)]
    return nn.Sequential(*layers)


def _check_image(x: Tensor, name: str, min_side: int) -> None:
    if x.dim() != 4 or x.shape[1] != 3:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: RGB images (B, 3, H, W) are needed")
    if min(x.shape[-2:]) < min_side:
        raise ValueError(
            f"{name} is {x.shape[-2]} x {x.shape[-1]} pixels (height x width): AIDN needs at least "
            f"{min_side} x {min_side}"
        )

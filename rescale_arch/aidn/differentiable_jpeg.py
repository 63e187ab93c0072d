"""A differentiable JPEG round trip, for AIDN+.

It computes what libjpeg does, without its rounding of samples between the steps: conversion to
YCbCr (JFIF), chroma at half or full resolution, the DCT of 8 x 8 blocks, quantization with the
tables of ITU-T T.81, annex K, scaled to a quality as libjpeg scales them, and back. The gradient of
the quantization is that of ``round(x) + (x - round(x))^3`` (Shin and Song, JPEG-resistant
adversarial images, 2017), which is added to the forward pass as well.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

from rescale_compat.errors import RescaleError

import torch
from torch import Tensor
from torch.nn import functional as F

Chroma = Literal[420, 444]
CHROMA: tuple[Chroma, ...] = get_args(Chroma)

# Tables K.1 and K.2: steps at quality 50, vertical frequencies first.
_LUMA = """
    16  11  10  16  24  40  51  61
    12  12  14  19  26  58  60  55
    14  13  16  24  40  57  69  56
    14  17  22  29  51  87  80  62
    18  22  37  56  68 109 103  77
    24  35  55  64  81 104 113  92
    49  64  78  87 103 121 120 101
    72  92  95  98 112 100 103  99
"""
_CHROMA = """
    17  18  24  47  99  99  99  99
    18  21  26  66  99  99  99  99
    24  26  56  99  99  99  99  99
    47  66  99  99  99  99  99  99
    99  99  99  99  99  99  99  99
    99  99  99  99  99  99  99  99
    99  99  99  99  99  99  99  99
    99  99  99  99  99  99  99  99
"""
_TO_YCBCR = [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
_TO_RGB = [[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]]


class _Constants(NamedTuple):
    to_ycbcr: Tensor  # (3, 3)
    to_rgb: Tensor  # (3, 3)
    dct: Tensor  # (64, 64), orthogonal: blocks as columns -> coefficients
    luma: Tensor  # (64, 1), steps at quality 50
    chroma: Tensor  # (64, 1)


class DifferentiableJPEG:
    """Compresses and decompresses images.

    Not an ``nn.Module``, so that its constants are not part of a network's state dict. They are
    copied to a device in the first call; another quality needs no further copy.
    """

    def __init__(self) -> None:
        self._on_device: dict[torch.device, _Constants] = {}

    def __call__(self, x: Tensor, quality: int, chroma: Chroma = 420) -> Tensor:
        """Computed in single precision; the result has the dtype of ``x``.

        Args:
            x: RGB in [0, 1].
            quality: 1 to 100, as in libjpeg.
            chroma: 420: chroma at half resolution in both directions (4:2:0); 444: full.

        Returns:
            The decoded image, clamped to [0, 1], not rounded to 8 bits.

        Shape:
            (B, 3, H, W) -> the same

        Raises:
            ValueError: ``quality`` or ``chroma`` is out of range.
        """
        check_jpeg(quality, chroma)
        constants = self._on_device.get(x.device)
        if constants is None:
            # The constants must not be inference tensors, which autograd cannot save.
            with torch.inference_mode(False), torch.no_grad():
                constants = _Constants(*(table.to(x.device) for table in _constants()))
            self._on_device[x.device] = constants
        with torch.autocast(x.device.type, enabled=False):
            return _coded_image(x.float(), quality, chroma, constants).to(x.dtype)


def check_jpeg(quality: int, chroma: int) -> None:
    """Raises ValueError if no JPEG files with this quality and chroma exist."""
    if not 1 <= quality <= 100:
        raise RescaleError(f"JPEG quality {quality}: expected 1 to 100")
    if chroma not in CHROMA:
        raise RescaleError(f"JPEG chroma {chroma}: expected one of {', '.join(map(str, CHROMA))}")


def scaled_table(table: Tensor, quality: int) -> Tensor:
    """Scales the steps of quality 50 to ``quality`` like libjpeg, to integers from 1 to 255."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return torch.floor((table * percent + 50) / 100).clamp(1, 255)


def _constants() -> _Constants:
    """The constants, on the CPU."""
    place = torch.arange(8, dtype=torch.float64)
    cosines = torch.cos((2 * place + 1) * place[:, None] * math.pi / 16) / 2  # (frequency, sample)
    cosines[0] /= math.sqrt(2)
    luma, chroma = (
        torch.tensor([float(step) for step in table.split()])[:, None] for table in (_LUMA, _CHROMA)
    )
    return _Constants(
        torch.tensor(_TO_YCBCR),
        torch.tensor(_TO_RGB),
        torch.kron(cosines, cosines).float(),
        luma,
        chroma,
    )


def _coded_image(x: Tensor, quality: int, chroma: Chroma, constants: _Constants) -> Tensor:
    height, width = x.shape[-2:]
    # Padded to whole blocks by repeating the border, as in encoders.
    padded = F.pad(x, (0, -width % 16, 0, -height % 16), mode="replicate")
    ycbcr = _mixed(constants.to_ycbcr, padded * 255)  # chroma around 0
    luma = _coded(ycbcr[:, :1] - 128, scaled_table(constants.luma, quality), constants.dct) + 128
    colors = ycbcr[:, 1:]
    if chroma == 420:
        colors = F.avg_pool2d(colors, 2)
    colors = _coded(colors, scaled_table(constants.chroma, quality), constants.dct)
    if chroma == 420:  # libjpeg's "fancy upsampling" is bilinear
        colors = F.interpolate(colors, scale_factor=2, mode="bilinear", align_corners=False)
    rgb = _mixed(constants.to_rgb, torch.cat([luma, colors], 1)) / 255
    return rgb.clamp(0, 1)[..., :height, :width]


def _mixed(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiplies the channels of ``x`` by a matrix."""
    return torch.einsum("ij,bjhw->bihw", matrix, x)


def _coded(x: Tensor, steps: Tensor, dct: Tensor) -> Tensor:
    """Quantizes the DCT coefficients of every channel; sides are multiples of 8."""
    size = (x.shape[-2], x.shape[-1])
    blocks = F.unfold(x.reshape(-1, 1, *size), 8, stride=8)  # (B * C, 64, number of blocks)
    levels = dct @ blocks / steps
    rounded = levels.round()
    rounded = rounded + (levels - rounded) ** 3
    return F.fold(dct.T @ (rounded * steps), size, 8, stride=8).reshape(x.shape)

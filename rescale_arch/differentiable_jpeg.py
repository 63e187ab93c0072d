"""A differentiable JPEG round trip, for AIDN+.

BasicSR's, with libjpeg's quantization tables. Its own are transposed and not rounded to whole
numbers; near quality 100 they are below 1, and at 100 zero.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_UNSCALED = 50  # the quality at which the tables are used as they are


class DifferentiableJPEG:
    """Compresses and decompresses images (4:2:0) at one quality. Needs BasicSR when it is called.

    It is no ``nn.Module``, so that a network which holds one has no constants in its state dict.

    Args:
        quality: 1..100.

    Shape:
        (B, 3, H, W), RGB in [0, 1] -> the same
    """

    def __init__(self, quality: int) -> None:
        self.quality = quality
        self._on_device: dict[torch.device, nn.Module] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Computes in single precision, and returns the dtype of ``x``."""
        jpeg = self._on_device.get(x.device)
        if jpeg is None:
            # The tables must not be inference tensors, which autograd refuses to save.
            with torch.inference_mode(False), torch.no_grad():
                jpeg = _build(self.quality).to(x.device)
            self._on_device[x.device] = jpeg
        # Whole blocks by repeating the border, as encoders do; DiffJPEG would fill with black.
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, -width % 16, 0, -height % 16), mode="replicate")
        with torch.autocast(x.device.type, enabled=False):
            decoded: Tensor = jpeg(padded.float(), quality=_UNSCALED)
        return decoded[..., :height, :width].to(x.dtype)


def _build(quality: int) -> nn.Module:
    """BasicSR's module with tables for ``quality``, to be called with `_UNSCALED`."""
    import rescale_compat  # noqa: F401  BasicSR imports on today's torchvision with it

    from basicsr.utils.diffjpeg import DiffJPEG

    # A copy, since its tables are module-level parameters, which would move to the device for
    # everyone.
    jpeg: nn.Module = deepcopy(DiffJPEG(differentiable=True)).requires_grad_(False)
    for module in jpeg.modules():
        for name, table in list(module.named_parameters(recurse=False)):
            if name in ("y_table", "c_table"):
                scaled = nn.Parameter(_scaled(table.T, quality), requires_grad=False)
                module.register_parameter(name, scaled)
    return jpeg


def _scaled(table: Tensor, quality: int) -> Tensor:
    """A quantization table (8, 8), vertical frequencies first, as libjpeg scales it."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return torch.floor((table * percent + 50) / 100).clamp(1, 255)

"""A differentiable JPEG round trip, for AIDN+.

It is BasicSR's, but with libjpeg's quantization tables. BasicSR's tables are transposed and not
rounded to integers; near quality 100 they are below 1, and at 100 zero.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_UNSCALED = 50  # the quality at which tables are used without scaling


class DifferentiableJPEG:
    """Compresses and decompresses images (4:2:0) at a fixed quality. Calling it requires BasicSR.

    Not an ``nn.Module``, so that its constants are not part of a network's state dict.

    Args:
        quality: 1..100.

    Shape:
        (B, 3, H, W), RGB in [0, 1] -> the same
    """

    def __init__(self, quality: int) -> None:
        self.quality = quality
        self._on_device: dict[torch.device, nn.Module] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """Computed in single precision; the result has the dtype of ``x``."""
        jpeg = self._on_device.get(x.device)
        if jpeg is None:
            # The tables must not be inference tensors, which autograd cannot save.
            with torch.inference_mode(False), torch.no_grad():
                jpeg = _build(self.quality).to(x.device)
            self._on_device[x.device] = jpeg
        # Padded to whole blocks by repeating the border, as in encoders; DiffJPEG would pad with
        # zeros.
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, -width % 16, 0, -height % 16), mode="replicate")
        with torch.autocast(x.device.type, enabled=False):
            decoded: Tensor = jpeg(padded.float(), quality=_UNSCALED)
        return decoded[..., :height, :width].to(x.dtype)


def _build(quality: int) -> nn.Module:
    """BasicSR's module with tables for ``quality``; call it with quality `_UNSCALED`."""
    import rescale_compat  # noqa: F401  allows BasicSR to import on current torchvision

    from basicsr.utils.diffjpeg import DiffJPEG

    # A copy, since the tables are global parameters, and moving them to a device would affect all
    # other users.
    jpeg: nn.Module = deepcopy(DiffJPEG(differentiable=True)).requires_grad_(False)
    for module in jpeg.modules():
        for name, table in list(module.named_parameters(recurse=False)):
            if name in ("y_table", "c_table"):
                scaled = nn.Parameter(_scaled(table.T, quality), requires_grad=False)
                module.register_parameter(name, scaled)
    return jpeg


def _scaled(table: Tensor, quality: int) -> Tensor:
    """Scales a quantization table (8, 8), vertical frequencies first, like libjpeg."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return torch.floor((table * percent + 50) / 100).clamp(1, 255)

"""What the benchmark compares: AIDNs, and bicubic interpolation in the same form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rescale_arch import AIDN, imresize
from rescale_arch.memory_format import channels_last
from rescale_arch.official_weights import aidn_config, canonical_weights, load_strictly
from rescale_arch.scales import Size
from rescale_data.weight_file import read_weights
from rescale_model.aidn_model import bicubic_lr

Scale = tuple[float, float]


class Bicubic(nn.Module):
    """Antialiased bicubic interpolation with the true scale both ways. Has no weights."""

    def downscale(self, hr: Tensor, scale: Scale) -> Tensor:
        """(B, 3, H, W) -> (B, 3, h, w), not clamped; scale is (vertical, horizontal)."""
        return bicubic_lr(hr, scale)

    def upscale(self, lr: Tensor, scale: Scale, *, size: Size) -> Tensor:
        """(B, 3, h, w) -> (B, 3, H, W), not clamped; size is (H, W)."""
        return imresize(lr, size, scale)


Method = AIDN | Bicubic


def load_method(weights: str | None, device: str | torch.device) -> Method:
    """The AIDN of a weights file, or bicubic for None, in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it does not hold the weights of an AIDN.
    """
    if weights is None:
        return Bicubic()
    checkpoint = read_weights(weights)
    try:
        entries = canonical_weights(checkpoint)
        net = AIDN(**(aidn_config(entries) | checkpoint.get("config", {})))
    except (TypeError, ValueError) as error:  # TypeError: a keyword that there is not
        raise ValueError(f"{weights}: {error}") from error
    load_strictly(net, entries, weights)
    net.eval().requires_grad_(False)
    channels_last(net.to(device))
    return net

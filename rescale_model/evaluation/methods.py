"""Methods for the comparison: rescaling networks, and bicubic interpolation as a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rescale_compat.errors import RescaleError

import torch
from torch import Tensor, nn

from rescale_arch import imresize
from rescale_arch.architecture import Architecture, load_network
from rescale_arch.bicubic import bicubic_lr
from rescale_arch.memory_format import channels_last
from rescale_arch.scales import Scale, Size
from rescale_data.weight_file import read_weights
from rescale_model.evaluation.effort import Effort, optimized


class Bicubic(nn.Module):
    """Antialiased bicubic interpolation with the true scale in both directions; no weights."""

    def downscale(self, hr: Tensor, scale: Scale) -> Tensor:
        """(B, 3, H, W) -> (B, 3, h, w), not clamped; scale is (vertical, horizontal)."""
        return bicubic_lr(hr, scale)

    def upscale(self, lr: Tensor, scale: Scale, *, size: Size) -> Tensor:
        """(B, 3, h, w) -> (B, 3, H, W), not clamped; size is (H, W)."""
        return imresize(lr, size, scale)


@dataclass(frozen=True)
class Method:
    """A rescaling method.

    Attributes:
        network: the network in evaluation mode, without gradients.
        architecture: its architecture; None: bicubic interpolation.
    """

    network: Any
    architecture: Architecture | None = None


def optimized_lr(
    method: Method, lr: Tensor, hr: Tensor, scale: tuple[float, float], effort: Effort
) -> Tensor:
    """Optimizes the LR image of a method with a network, untiled."""
    assert method.architecture is not None
    size = hr.shape[-2], hr.shape[-1]
    return optimized(
        method.network,
        method.architecture,
        lr,
        hr,
        scale,
        effort,
        lambda small: method.network.upscale(small, scale, size=size),
    )


def load_method(weights: str | None, device: str | torch.device) -> Method:
    """Loads the network of a weights file, or returns bicubic interpolation for None.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it does not contain the weights of a rescaling network.
    """
    if weights is None:
        return Method(Bicubic())
    loaded = load_network(read_weights(weights), weights)
    if not loaded.architecture.rescales:
        raise RescaleError(f"{weights}: weights of {loaded.title}, which does not rescale")
    return Method(channels_last(loaded.network.to(device)), loaded.architecture)

"""VQIR's two directions as functions of tensors, for other runtimes."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rescale_arch.graphs import DOWN, IMAGE_AXES, UP, Graph
from rescale_arch.vqir.invertible import InvertibleConv1x1, Operation
from rescale_arch.vqir.network import VQIR

# As in the network: their results are compared with codes or rounded.
_FULL_PRECISION = {
    DOWN: ("network.quant_conv", "network.quantize", "network.icrm"),
    UP: ("network.icrm", "network.quantize", "network.decoder.conv_out", "network.refine"),
}


def vqir_graphs(network: nn.Module) -> dict[str, Graph]:
    """The graphs ``down`` and ``up`` of a :class:`~rescale_arch.VQIR`."""
    assert isinstance(network, VQIR)
    network = _with_inverses(network).eval().requires_grad_(False)
    like = network.quant_conv.weight
    factor = network.factor
    directions = {DOWN: (_Down(network), factor), UP: (_Up(network), 1)}
    return {
        name: Graph(
            module=module.eval(),
            inputs={"image": like.new_zeros(2, 3, 4 * unit, 6 * unit)},
            axes={"image": IMAGE_AXES},
            unit=unit,
            full_precision=_FULL_PRECISION[name],
        )
        for name, (module, unit) in directions.items()
    }


class _Down(nn.Module):
    """image -> LR image, neither clamped nor rounded."""

    def __init__(self, network: VQIR) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network.downscale(image)


class _Up(nn.Module):
    """LR image -> image of a multiple of the factor, to be cropped."""

    def __init__(self, network: VQIR) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        factor = self.network.factor
        return self.network.upscale(
            image, size=(image.shape[-2] * factor, image.shape[-1] * factor)
        )


class _Inverse(Operation):
    """`InvertibleConv1x1` with a constant inverse, which other runtimes cannot compute."""

    weight: Tensor
    inverse: Tensor

    def __init__(self, conv: InvertibleConv1x1) -> None:
        super().__init__()
        weight = conv.weight.detach()
        self.register_buffer("weight", weight)
        self.register_buffer("inverse", torch.linalg.inv(weight.double()).to(weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[:, :, None, None])

    def reverse(self, y: Tensor) -> Tensor:
        return F.conv2d(y, self.inverse[:, :, None, None])


def _with_inverses(network: VQIR) -> VQIR:
    """A copy in which the inverses of all invertible convolutions are constants."""
    network = copy.deepcopy(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, InvertibleConv1x1):
                setattr(module, name, _Inverse(child))
    return network

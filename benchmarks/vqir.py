"""VQIR: speed and memory of a round trip."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks import probe
from benchmarks.reference.vqir import PlainVQIR
from rescale_arch import VQIR
from rescale_arch.memory_format import channels_last


def round_trip(
    kind: str,
    precision: str,
    size: tuple[int, int],
    network: dict[str, Any],
    device: str = "cpu",
    repeats: int = 1,
    keep: str | None = None,
) -> dict[str, float]:
    """Downscales a noise image, and restores an image from another noise image.

    For the arguments see :func:`benchmarks.aidn.round_trip`; ``size`` is a multiple of the factor,
    ``network`` has keywords of :class:`VQIR`.
    """
    torch.manual_seed(0)
    net = build(kind, network).to(device)
    hr = torch.rand(1, 3, *size, device=device)
    if kind == "ours":
        hr = hr.contiguous(memory_format=torch.channels_last)

    factor = int(network["factor"])
    stored = probe.noise((size[0] // factor, size[1] // factor), device)

    def trip(hr: Tensor) -> tuple[Tensor, Tensor]:
        height, width = hr.shape[-2:]
        lr = stored[..., : height // factor, : width // factor]
        return net.downscale(hr), net.upscale(lr, size=(height, width))

    return probe.round_trip(trip, hr, precision, repeats, keep)


def build(kind: str, network: dict[str, Any]) -> VQIR | PlainVQIR:
    """VQIR or its plain reference, with the same random weights, in evaluation mode."""
    net = VQIR(**network).eval().requires_grad_(False)
    net.quantize.embedding.weight.normal_(
        0, 0.3
    )  # close to the features, so that many codes are used
    if kind == "plain":
        copy: PlainVQIR = probe.plain_copy(PlainVQIR, net, network)
        return copy
    channels_last(net)
    return net

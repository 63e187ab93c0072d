"""VQIR: a round trip by 16 or 32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks import probe
from benchmarks.reference.vqir import PlainVQIR
from rescale_arch import VQIR
from rescale_arch.memory_format import channels_last
from rescale_arch.rounding import quantize


def round_trip(
    kind: str,
    precision: str,
    size: tuple[int, int],
    network: dict[str, Any],
    device: str = "cpu",
    repeats: int = 1,
    keep: str | None = None,
) -> dict[str, float]:
    """Downscales a picture of noise, rounds and restores it.

    For the arguments see :func:`benchmarks.aidn.round_trip`; ``size`` is a multiple of the factor,
    ``network`` has keywords of :class:`VQIR`.
    """
    torch.manual_seed(0)
    net = build(kind, network).to(device)
    hr = torch.rand(1, 3, *size, device=device)
    if kind == "ours":
        hr = hr.contiguous(memory_format=torch.channels_last)

    def trip(hr: Tensor) -> tuple[Tensor, Tensor]:
        lr = net.downscale(hr)
        return lr, net.upscale(quantize(lr), size=(hr.shape[-2], hr.shape[-1]))

    return probe.round_trip(trip, hr, precision, repeats, keep)


def build(kind: str, network: dict[str, Any]) -> VQIR | PlainVQIR:
    """VQIR, or its plain reference with the same weights; random, eval mode, without gradients."""
    net = VQIR(**network).eval().requires_grad_(False)
    net.quantize.embedding.weight.normal_(0, 0.3)  # near the features: many codes are used
    if kind == "plain":
        copy: PlainVQIR = probe.plain_copy(PlainVQIR, net, network)
        return copy
    channels_last(net)
    return net

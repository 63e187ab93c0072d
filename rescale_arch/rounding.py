"""Differentiable 8-bit rounding.

LR images are stored with 8 bits per sample, so training has to include the rounding, whose gradient
is zero almost everywhere. There are two surrogate gradients, and additive noise as an alternative.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from rescale_compat.errors import RescaleError

import torch
from torch import Tensor

Quantization = Literal["round_soft", "ste"]
QUANTIZATIONS: tuple[Quantization, ...] = ("round_soft", "ste")


class _Round(torch.autograd.Function):
    """Rounds to multiples of 1/255 in [0, 1]; ``soft`` selects the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, soft: bool) -> Tensor:
        clamped = x.clamp(0, 1)
        ctx.soft = soft
        if soft:
            ctx.save_for_backward(clamped)
        return (clamped * 255).round() / 255

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad,) = grad_outputs
        if ctx.soft:
            (clamped,) = ctx.saved_tensors
            grad = grad * (1 - 0.5 * torch.cos(2 * math.pi * clamped))
        return grad, None


def quantize(x: Tensor, surrogate: Quantization = "round_soft") -> Tensor:
    """Clamps to [0, 1] and rounds to 8 bits: ``round(255 * clamp(x)) / 255``.

    Args:
        x: image of any shape; values outside [0, 1] are clamped.
        surrogate: gradient of the backward pass. ``'ste'`` (straight-through) passes it unchanged,
            also outside [0, 1]. ``'round_soft'``, with which the released AIDN models were trained,
            multiplies it by ``1 - 0.5 cos(2 pi c)``, ``c = clamp(x, 0, 1)``, which is 0.5 at and
            outside both ends.

    Raises:
        ValueError: unknown ``surrogate``.
    """
    if surrogate not in QUANTIZATIONS:
        raise RescaleError(
            f"quantization {surrogate!r} is unknown: expected one of "
            f"{', '.join(QUANTIZATIONS)}, None"
        )
    result: Tensor = _Round.apply(x, surrogate == "round_soft")  # type: ignore[no-untyped-call]
    return result


def rounding_noise(x: Tensor) -> Tensor:
    """Additive noise that replaces the rounding in training; its gradient is exact.

    Adds a sample of U(-0.5, 0.5) levels to each value and clamps to [0, 1], as in the training of
    VQIR's first stage. Outside [0, 1], the gradient is zero.

    Args:
        x: image of any shape; values outside [0, 1] are clamped.
    """
    return (x + (torch.rand_like(x) - 0.5) / 255).clamp(0, 1)

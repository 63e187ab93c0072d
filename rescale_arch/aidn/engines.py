"""The two ways to compute a direction of AIDN: layer by layer, or in strips of rows."""

from __future__ import annotations

from typing import Literal

from rescale_compat.errors import RescaleError

import torch
from torch import Tensor

from rescale_arch.aidn.conditional_resampling import Sampling
from rescale_arch.aidn.tiling import rescale_columns
from rescale_arch.aidn.trunk import RescalingTrunk
from rescale_arch.regions import collect
from rescale_arch.scales import Size

Engine = Literal["auto", "layers", "strips"]


def rescale(
    trunk: RescalingTrunk, x: Tensor, ratio: tuple[float, float], size: Size, engine: Engine
) -> Tensor:
    """Computes one direction of AIDN.

    Args:
        trunk: the direction.
        x: (B, 3, H, W).
        ratio: output over input side, (vertical, horizontal).
        size: (h', w') of the output.
        engine: see :class:`~rescale_arch.AIDN`.

    Returns:
        (B, 3, h', w'), not clamped; with a fixed scale up to its multiple above ``size``.

    Raises:
        ValueError: ``engine`` is ``'strips'``, and ``trunk`` is in training mode or gradients are
            enabled.
    """
    if _uses_strips(engine, trunk, x):
        in_size, columns = (x.shape[-2], x.shape[-1]), (0, size[1])
        (out,) = collect(
            lambda read, write: rescale_columns(trunk, ratio, in_size, size, columns, read, write),
            x,
            size,
        )
        return out
    rescaled: Tensor = trunk(x, Sampling.of(trunk.feature_ratio(ratio), size, x))
    return rescaled


def _uses_strips(engine: Engine, trunk: RescalingTrunk, x: Tensor) -> bool:
    if engine == "auto":
        return not (
            trunk.training or x.is_cuda or torch.is_grad_enabled() or torch.compiler.is_compiling()
        )
    if engine == "strips" and (trunk.training or torch.is_grad_enabled()):
        raise RescaleError("engine 'strips' needs evaluation mode and torch.no_grad()")
    return engine == "strips"

"""VQIR's entries in the registry, one for each factor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rescale_compat.errors import RescaleError

from torch import Tensor

from rescale_arch.architecture import Architecture, Search
from rescale_arch.checkpoints import listed
from rescale_arch.vqgan.architecture import swap_color_order, vqgan_config
from rescale_arch.vqir.feature_recovery import Factor
from rescale_arch.vqir.graphs import vqir_graphs
from rescale_arch.vqir.network import VQIR


def vqir_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infers constructor keywords of :class:`~rescale_arch.VQIR` from its weights.

    Raises:
        ValueError: these are not the weights of a VQIR (those of a VQGAN are not either).
    """
    if not any(name.startswith("icrm.") for name in weights):
        raise RescaleError(f"not the weights of a VQIR; present: {listed(weights)}")
    return {
        "factor": 32 if any(name.endswith(".haar_weights") for name in weights) else 16,
        "stage": 2 if any(name.startswith("refine.") for name in weights) else 1,
        **vqgan_config(weights),
    }


def _describe(config: Mapping[str, Any]) -> str:
    return f"VQIR x{config['factor']}, stage {config['stage']}"


def _architecture(factor: Factor) -> Architecture:
    def detect(weights: Mapping[str, Tensor]) -> bool:
        is_vqir = any(name.startswith("icrm.") for name in weights)
        return is_vqir and vqir_config(weights)["factor"] == factor

    return Architecture(
        name=f"vqir{factor}",
        title=f"VQIR {factor}",
        network=VQIR,
        detect=detect,
        config=vqir_config,
        scale_limits=(float(factor), float(factor)),
        describe=_describe,
        lr_border=1,  # a border of the factor's width would leave no pixels
        max_untiled_pixels=1 << 21,
        # measured on an H100 in fp32; half of it tensors, half cuDNN's workspaces
        bytes_per_pixel=lambda config: 26 * int(config["ch"]),
        max_width=lambda config: int(config["ch"]) * max(config["ch_mult"][:2]),
        tile=1024,
        search=Search(side=16, hr_side=256, ring=1, context=3, step=3e-3),
        graphs=vqir_graphs,
        swap_color_order=swap_color_order,
    )


ARCHITECTURES = (_architecture(16), _architecture(32))

"""Tiny networks of every architecture, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from rescale_arch import AIDN, VQGAN, VQIR

AIDN_TINY: dict[str, Any] = {"num_feat": 8, "num_block": 2, "adapt_interval": 1}
VQ_TINY: dict[str, Any] = {
    "ch": 32,
    "ch_mult": (1, 1, 1, 1, 1),
    "num_res_blocks": 1,
    "z_channels": 16,
    "embed_dim": 32,
    "n_embed": 64,
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "aidn": lambda: AIDN(**AIDN_TINY),
    "aidn-plus": lambda: AIDN(**AIDN_TINY, jpeg_quality=90),
    "aidn-half": lambda: AIDN(**AIDN_TINY, down_unshuffle=2, down_num_feat=16),
    "aidn-x2": lambda: AIDN(**AIDN_TINY, fixed_scale=2),
    "aidn-x3": lambda: AIDN(**AIDN_TINY, fixed_scale=3),
    "vqgan": lambda: VQGAN(**VQ_TINY),
    "vqir-16-1": lambda: VQIR(16, 1, **VQ_TINY),
    "vqir-16-2": lambda: VQIR(16, 2, **VQ_TINY),
    "vqir-32-1": lambda: VQIR(32, 1, **VQ_TINY),
    "vqir-32-2": lambda: VQIR(32, 2, **VQ_TINY),
}
Net = TypeVar("Net", bound=nn.Module)


def scale_of(net: nn.Module) -> tuple[Any, ...]:
    """The scale argument of the network."""
    return ((2.5, 1.7),) if isinstance(net, AIDN) and net.fixed_scale is None else ()


def tiny_aidn(seed: int, **options: Any) -> AIDN:
    """An AIDN of which every entry, batch statistics included, depends on the seed."""
    torch.manual_seed(seed)
    net = AIDN(**(AIDN_TINY | options))
    for name, buffer in net.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return net


def tiny_vqir(factor: int = 16, stage: int = 1, **options: Any) -> VQIR:
    """A VQIR in eval mode, always with the same weights."""
    torch.manual_seed(0)
    net = VQIR(factor, stage, **{**VQ_TINY, **options})  # type: ignore[arg-type]
    return randomized(net).eval()


def randomized(net: Net) -> Net:
    """Makes couplings differ from the identity, and moves codes near the features."""
    for name, parameter in net.named_parameters():
        if ".conv3." in name:
            nn.init.normal_(parameter, std=0.1)
        elif name.endswith("embedding.weight"):
            nn.init.normal_(parameter, std=0.3)
    return net

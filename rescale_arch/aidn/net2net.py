"""Initializing a larger AIDN so that it computes the same function as a smaller one.

Method: Net2Net: Accelerating Learning via Knowledge Transfer, ICLR 2016, arXiv 1511.05641. Net2Net
widens a network by copying features. Here, the additional features keep their random weights, and
existing features do not depend on them yet: all features are different from the first step on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from rescale_compat.errors import RescaleError

from torch import Tensor

from rescale_arch.aidn.architecture import aidn_config
from rescale_arch.aidn.network import AIDN
from rescale_arch.checkpoints import load_strictly

_INDEXED = re.compile(r"((?:down|up)_net\.)(body|sa_adapt)\.(\d+)\.(.+)")
_RESIDUAL = ("body.2.weight", "body.2.bias", "adapt.weight_pool")
"""Last weights of residual blocks and scale adaptions: if zero, the module is an identity."""


def grow(net: AIDN, weights: Mapping[str, Tensor]) -> None:
    """Makes ``net`` compute the same as a smaller AIDN with ``weights`` (in evaluation mode).

    The blocks of the smaller network are spread evenly over those of ``net``; blocks and scale
    adaptions in between become identities. Other added weights keep their current random values.

    Args:
        net: any-scale network, at least as wide and deep, with the same numbers of experts and the
            same ``down_unshuffle``.
        weights: state dict of the smaller network; its ``res_scale`` must be that of ``net``.

    Raises:
        ValueError: ``weights`` do not belong to such a network, or one of its scale adaptions has
            no counterpart in ``net``.
    """
    small = aidn_config(weights)
    if net.fixed_scale is not None or "fixed_scale" in small:
        raise RescaleError("only an AIDN for any scale can be enlarged, this one has a fixed_scale")
    own = net.state_dict()
    large = aidn_config(own)
    for config in (small, large):
        config.setdefault("down_unshuffle", 1)
        config.setdefault("down_num_feat", config["num_feat"])
    for name in ("num_adapt_expert", "num_crm_expert", "down_unshuffle"):
        if small.get(name) != large.get(name):
            raise RescaleError(f"{name} is {large.get(name)}, but {small.get(name)} in the weights")
    for name in ("num_feat", "down_num_feat", "num_block"):
        if small[name] > large[name]:
            raise RescaleError(f"{name} is {large[name]}, less than {small[name]} in the weights")
    widths = {"down_net.": small["down_num_feat"], "up_net.": small["num_feat"]}

    few: int = small["num_block"]
    many: int = large["num_block"]

    def place(block: int) -> int:  # position of the block, counting from 1
        return round(block * many / few)

    blocks = {place(block) - 1: block - 1 for block in range(1, few + 1)}
    blocks[many] = few  # the convolution after them
    adaptions = {}
    for index in range(few // small["adapt_interval"]):
        at = place((index + 1) * small["adapt_interval"])
        if at % large["adapt_interval"]:
            raise RescaleError(
                f"adapt_interval {large['adapt_interval']} has no scale adaption after block {at}, "
                "which the weights need"
            )
        adaptions[at // large["adapt_interval"] - 1] = index

    grown = {}
    for name, fresh in own.items():
        source = name
        if match := _INDEXED.fullmatch(name):
            start, kind, number, rest = match.groups()
            origin = (blocks if kind == "body" else adaptions).get(int(number))
            if origin is None:
                grown[name] = _silenced(fresh, widths[start]) if rest in _RESIDUAL else fresh
                continue
            source = f"{start}{kind}.{origin}.{rest}"
        if source not in weights:
            raise RescaleError(f"the weights have no entry {source}")
        grown[name] = _widened(fresh, weights[source])
    load_strictly(net, grown, "the enlarged network")


def _widened(fresh: Tensor, small: Tensor) -> Tensor:
    """``small`` embedded in ``fresh``; its outputs do not depend on the added inputs."""
    if not fresh.dim():  # the step counter of batch norm
        return small
    wide = fresh.clone()
    source = _outputs_first(small)
    kept = _outputs_first(wide)[: source.shape[0]]
    kept.zero_()
    kept[tuple(slice(side) for side in source.shape)] = source.to(wide.dtype)
    return wide


def _silenced(fresh: Tensor, features: int) -> Tensor:
    silent = fresh.clone()
    _outputs_first(silent)[:features] = 0
    return silent


def _outputs_first(weight: Tensor) -> Tensor:
    """Output channels first; in pools of experts, they are the second dimension."""
    return weight.transpose(0, 1) if weight.dim() == 5 else weight

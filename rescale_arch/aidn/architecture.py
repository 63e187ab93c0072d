"""AIDN's entry in the registry, and its configuration inferred from weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rescale_compat.errors import RescaleError

from torch import Tensor

from rescale_arch.aidn.graphs import aidn_graphs
from rescale_arch.aidn.network import AIDN
from rescale_arch.architecture import Architecture, Search
from rescale_arch.checkpoints import count, listed
from rescale_arch.scales import MAX_SCALE


def aidn_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infers constructor keywords of :class:`~rescale_arch.AIDN` from the shapes of its weights.

    ``res_scale``, ``quantization`` and ``jpeg_quality`` cannot be inferred and are not included;
    for ``adapt_interval``, the most likely value is returned. Files written by this project state
    all of them.

    Raises:
        ValueError: these are not AIDN's weights.
    """
    head, up_head = (weights.get(f"{net}.head.0.weight") for net in ("down_net", "up_net"))
    blocks = count(weights, r"down_net\.body\.(\d+)\.body\.0\.weight")
    if head is None or up_head is None or blocks == 0:
        raise RescaleError(f"not the weights of an AIDN; present: {listed(weights)}")
    num_feat = up_head.shape[0]
    config: dict[str, Any] = {"num_feat": num_feat, "num_block": blocks}
    if head.shape[0] != num_feat:
        config["down_num_feat"] = head.shape[0]
    if head.shape[1] != 3:
        config["down_unshuffle"] = math.isqrt(head.shape[1] // 3)
    compress = weights.get("down_net.sa_sample.weight_compress")
    if compress is None:
        config["fixed_scale"] = _fixed_scale(weights, num_feat)
        return config
    config["num_crm_expert"] = compress.shape[0]
    adaptions = count(weights, r"down_net\.sa_adapt\.(\d+)\.adapt\.weight_pool")
    config["adapt_interval"] = _adapt_interval(blocks, adaptions)
    if adaptions:
        config["num_adapt_expert"] = weights["down_net.sa_adapt.0.adapt.weight_pool"].shape[0]
    return config


def _adapt_interval(blocks: int, adaptions: int) -> int:
    """K; weights determine only ``blocks // K``. The paper's value of 4 is preferred."""
    if blocks // 4 == adaptions:
        return 4
    return blocks // adaptions if adaptions else blocks + 1


def _fixed_scale(weights: Mapping[str, Tensor], num_feat: int) -> int:
    convs = count(weights, r"up_net\.tail\.0\.(\d+)\.weight")
    first = weights.get("up_net.tail.0.0.weight")
    scale = {(4, 1): 2, (4, 2): 4, (9, 1): 3}.get(
        (first.shape[0] // num_feat if first is not None else 0, convs)
    )
    if scale is None:
        raise RescaleError(f"not the weights of an AIDN; present: {listed(weights)}")
    return scale


def _widths(config: Mapping[str, Any]) -> tuple[int, int]:
    """The channels of ``down_net`` and ``up_net``."""
    up = int(config["num_feat"])
    return int(config.get("down_num_feat") or up), up


def _bytes_per_pixel(config: Mapping[str, Any]) -> int:
    """Measured in fp32: 33 times C close to scale 1, 26 times from 2.5 on.

    After an unshuffle, only the resampling can have features of the HR image's size: 27 times C
    close to scale 1, where the LR image is almost as large.
    """
    down, up = _widths(config)
    return max((33 if config.get("down_unshuffle", 1) == 1 else 27) * down, 33 * up)


def _describe(config: Mapping[str, Any]) -> str:
    return "AIDN+" if config.get("jpeg_quality") else "AIDN"


ARCHITECTURE = Architecture(
    name="aidn",
    title="AIDN",
    network=AIDN,
    detect=lambda weights: "down_net.head.0.weight" in weights,
    config=aidn_config,
    scale_limits=(1.0, MAX_SCALE),
    describe=_describe,
    max_untiled_pixels=1 << 20,
    bytes_per_pixel=_bytes_per_pixel,
    max_width=lambda config: max(_widths(config)) * max(8, config["num_crm_expert"]) // 8,
    tile=1536,  # about 7 % of the work is then done twice
    exact_tiles=True,
    search=Search(side=160, hr_side=480, ring=4, context=6, step=4e-3),
    graphs=aidn_graphs,
)

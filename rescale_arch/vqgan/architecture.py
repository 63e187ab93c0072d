"""VQGAN's entry in the registry, and its configuration inferred from weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rescale_compat.errors import RescaleError

from torch import Tensor

from rescale_arch.architecture import Architecture
from rescale_arch.checkpoints import count, listed
from rescale_arch.vqgan.network import VQGAN

# Entries of VQGAN and VQIR that have a dimension for the channels of an image, and its index.
_COLOR_AXES = (
    (re.compile(r"encoder\.conv_in\.weight"), 1),
    (re.compile(r"decoder\.conv_out\.(weight|bias)"), 0),
    (re.compile(r"icrm\.inpfeat_extraction\.3\.conv1\.(weight|bias)"), 0),
    (re.compile(r"icrm\.inpfeat_extraction\.3\.conv2\.weight"), 1),
    (re.compile(r"refine\.refine\.\d+\.img_out\.(weight|bias)"), 0),
    (re.compile(r"refine\.refine_out\.2\.(weight|bias)"), 0),
)


def vqgan_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infers constructor keywords of :class:`~rescale_arch.VQGAN` from the shapes of its weights.

    Raises:
        ValueError: these are not the weights of a VQGAN (or VQIR).
    """
    first, last = weights.get("encoder.conv_in.weight"), weights.get("encoder.conv_out.weight")
    book = weights.get("quantize.embedding.weight")
    levels = count(weights, r"encoder\.down\.\d+\.block\.0\.conv1\.weight")
    if first is None or last is None or book is None or levels == 0:
        raise RescaleError(f"not the weights of a VQGAN; present: {listed(weights)}")
    ch, resolution = first.shape[0], 256
    return {
        "ch": ch,
        "ch_mult": [
            weights[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] // ch
            for level in range(levels)
        ],
        "num_res_blocks": count(weights, r"encoder\.down\.0\.block\.\d+\.conv1\.weight"),
        "attn_resolutions": [
            resolution // 2**level
            for level in range(levels)
            if f"encoder.down.{level}.attn.0.q.weight" in weights
        ],
        "resolution": resolution,
        "z_channels": last.shape[0],
        "embed_dim": book.shape[1],
        "n_embed": book.shape[0],
    }


def swap_color_order(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts weights of VQGAN or VQIR from BGR to RGB images, or vice versa.

    The conversion is exact: in the convolutions whose input or output is an image (including the LR
    image), the order of its channels is reversed. Swapping twice restores the weights.
    """
    swapped = dict(weights)
    for name, value in weights.items():
        for pattern, axis in _COLOR_AXES:
            if pattern.fullmatch(name):
                swapped[name] = value.flip(axis)
    return swapped


ARCHITECTURE = Architecture(
    name="vqgan",
    title="VQGAN",
    network=VQGAN,
    detect=lambda weights: (
        "quantize.embedding.weight" in weights
        and not any(name.startswith("icrm.") for name in weights)
    ),
    config=vqgan_config,
    scale_limits=None,
    swap_color_order=swap_color_order,
)

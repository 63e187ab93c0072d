"""Released and saved checkpoints made canonical: a pure mapping, no file is read here.

AIDN's authors publish ``.pth.tar`` files with the weights under ``state_dict``, sometimes with a
``module.`` prefix; those of the JPEG variant also hold the constants of its JPEG. VQGAN's are
checkpoints of PyTorch Lightning, which also hold what its losses were made of as ``loss.*``; those
of VQIR's second stage hold ``temb_proj`` entries that nothing uses. BasicSR saves weights under
``params`` and ``params_ema``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_WRAPPERS = ("params_ema", "params", "state_dict")
_IGNORED = re.compile(r"(jpeg|loss)\..*|.*\.temb_proj\.(weight|bias)")
_SHOWN = 8

# Entries of VQGAN and VQIR along which the channels of an image run, and on which axis.
_COLOR_AXES = (
    (re.compile(r"encoder\.conv_in\.weight"), 1),
    (re.compile(r"decoder\.conv_out\.(weight|bias)"), 0),
    (re.compile(r"icrm\.inpfeat_extraction\.3\.conv1\.(weight|bias)"), 0),
    (re.compile(r"icrm\.inpfeat_extraction\.3\.conv2\.weight"), 1),
    (re.compile(r"refine\.refine\.\d+\.img_out\.(weight|bias)"), 0),
    (re.compile(r"refine\.refine_out\.2\.(weight|bias)"), 0),
)


def canonical_weights(checkpoint: Mapping[str, Any], key: str | None = None) -> dict[str, Tensor]:
    """The state dict that ``checkpoint`` holds, under the names of this package's networks.

    Args:
        checkpoint: a loaded file: a state dict itself, or one under ``params_ema``, ``params`` or
            ``state_dict`` (the first of these that is there).
        key: takes the state dict under this key instead.

    Raises:
        ValueError: ``key`` is missing, or no tensors are found.
    """
    if key is not None:
        if key not in checkpoint:
            raise ValueError(f"no entry {key!r}; present: {_some(checkpoint)}")
        entries = checkpoint[key]
    else:
        entries = next((checkpoint[name] for name in _WRAPPERS if name in checkpoint), checkpoint)
    if not isinstance(entries, Mapping) or not all(isinstance(v, Tensor) for v in entries.values()):
        raise ValueError(f"not a state dict; present: {_some(checkpoint)}")
    named = {name.removeprefix("module."): value for name, value in entries.items()}
    return {name: value for name, value in named.items() if not _IGNORED.fullmatch(name)}


def aidn_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Constructor keywords of :class:`~rescale_arch.AIDN`, read from the shapes of its weights.

    ``res_scale``, ``quantization`` and ``jpeg_quality`` leave no trace in the weights and are not
    among them; of ``adapt_interval`` the likeliest that fits is given. Files that this project
    writes state all of them.

    Raises:
        ValueError: these are not AIDN's weights.
    """
    head = weights.get("down_net.head.0.weight")
    blocks = _count(weights, r"down_net\.body\.(\d+)\.body\.0\.weight")
    if head is None or blocks == 0:
        raise ValueError(f"not the weights of an AIDN; present: {_some(weights)}")
    config: dict[str, Any] = {"num_feat": head.shape[0], "num_block": blocks}
    compress = weights.get("down_net.sa_sample.weight_compress")
    if compress is None:
        config["fixed_scale"] = _fixed_scale(weights, head.shape[0])
        return config
    config["num_crm_expert"] = compress.shape[0]
    adaptions = _count(weights, r"down_net\.sa_adapt\.(\d+)\.adapt\.weight_pool")
    config["adapt_interval"] = _adapt_interval(blocks, adaptions)
    if adaptions:
        config["num_adapt_expert"] = weights["down_net.sa_adapt.0.adapt.weight_pool"].shape[0]
    return config


def vqgan_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Constructor keywords of :class:`~rescale_arch.VQGAN`, read from the shapes of its weights.

    Raises:
        ValueError: these are not the weights of a VQGAN (or VQIR).
    """
    first, last = weights.get("encoder.conv_in.weight"), weights.get("encoder.conv_out.weight")
    book = weights.get("quantize.embedding.weight")
    levels = _count(weights, r"encoder\.down\.\d+\.block\.0\.conv1\.weight")
    if first is None or last is None or book is None or levels == 0:
        raise ValueError(f"not the weights of a VQGAN; present: {_some(weights)}")
    ch, resolution = first.shape[0], 256
    return {
        "ch": ch,
        "ch_mult": [
            weights[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] // ch
            for level in range(levels)
        ],
        "num_res_blocks": _count(weights, r"encoder\.down\.0\.block\.\d+\.conv1\.weight"),
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


def vqir_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Constructor keywords of :class:`~rescale_arch.VQIR`, read from its weights.

    Raises:
        ValueError: these are not the weights of a VQIR; those of a VQGAN alone are not.
    """
    if not any(name.startswith("icrm.") for name in weights):
        raise ValueError(f"not the weights of a VQIR; present: {_some(weights)}")
    return {
        "factor": 32 if any(name.endswith(".haar_weights") for name in weights) else 16,
        "stage": 2 if any(name.startswith("refine.") for name in weights) else 1,
        **vqgan_config(weights),
    }


def swap_color_order(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """VQGAN's or VQIR's weights for RGB images, if ``weights`` are for BGR ones, or vice versa.

    Exact: the convolutions that take or give an image, the LR image included, have its channels
    reversed. Swapping twice changes nothing.
    """
    swapped = dict(weights)
    for name, value in weights.items():
        for pattern, axis in _COLOR_AXES:
            if pattern.fullmatch(name):
                swapped[name] = value.flip(axis)
    return swapped


def load_strictly(
    net: nn.Module, weights: Mapping[str, Tensor], source: str, *, without: str | None = None
) -> None:
    """Loads ``weights`` into ``net``, all of them or nothing.

    Args:
        net: any network.
        weights: its state dict.
        source: where they come from, for the error.
        without: a child of ``net`` that ``weights`` have no entries for and that stays as it is:
            ``'icrm'`` where a VQIR starts from a VQGAN, ``'refine'`` where stage 2 starts from
            stage 1.

    Raises:
        ValueError: entries are missing, unexpected or of another shape; the message lists them.
    """
    own = net.state_dict()
    kept: dict[str, Tensor] = {}
    if without is not None:
        kept = {name: value for name, value in own.items() if name.startswith(f"{without}.")}
        own = {name: value for name, value in own.items() if name not in kept}
    problems = [
        (title, names)
        for title, names in (
            ("missing", [name for name in own if name not in weights]),
            ("unexpected", [name for name in weights if name not in own]),
            (
                "of another shape",
                [
                    f"{name} {tuple(weights[name].shape)} for {tuple(own[name].shape)}"
                    for name in own
                    if name in weights and weights[name].shape != own[name].shape
                ],
            ),
        )
        if names
    ]
    if problems:
        listed = "; ".join(f"{len(names)} {title}: {_some(names)}" for title, names in problems)
        raise ValueError(f"{source} does not fit {type(net).__name__}: {listed}")
    with torch.no_grad():
        net.load_state_dict({**kept, **weights})


def _adapt_interval(blocks: int, adaptions: int) -> int:
    """K, of which the weights tell ``blocks // K`` only: the paper's 4 where that fits."""
    if blocks // 4 == adaptions:
        return 4
    return blocks // adaptions if adaptions else blocks + 1


def _fixed_scale(weights: Mapping[str, Tensor], num_feat: int) -> int:
    convs = _count(weights, r"up_net\.tail\.0\.(\d+)\.weight")
    first = weights.get("up_net.tail.0.0.weight")
    scale = {(4, 1): 2, (4, 2): 4, (9, 1): 3}.get(
        (first.shape[0] // num_feat if first is not None else 0, convs)
    )
    if scale is None:
        raise ValueError(f"not the weights of an AIDN; present: {_some(weights)}")
    return scale


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    return sum(1 for name in weights if re.fullmatch(pattern, name))


def _some(names: Any) -> str:
    listed = [str(name) for name in names]
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more if listed else "nothing"

"""Conversion of released and saved checkpoints to canonical state dicts; reads no files.

AIDN's authors publish ``.pth.tar`` files with the weights under ``state_dict``, sometimes with a
``module.`` prefix; files of the JPEG variant also contain the constants of its JPEG. VQGAN's files
are PyTorch Lightning checkpoints, which also contain the networks of its losses as ``loss.*``.
Files of VQIR's second stage contain unused ``temb_proj`` entries. BasicSR saves weights under
``params`` and ``params_ema``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rescale_compat.errors import RescaleError

import torch
from torch import Tensor, nn

_WRAPPERS = ("params_ema", "params", "state_dict")
_IGNORED = re.compile(r"(jpeg|loss)\..*|.*\.temb_proj\.(weight|bias)")
_SHOWN = 8
_JPEG_QUALITY = 90


def canonical_weights(checkpoint: Mapping[str, Any], key: str | None = None) -> dict[str, Tensor]:
    """The state dict in ``checkpoint``, with the entry names of this package's networks.

    Args:
        checkpoint: contents of a weight file: a state dict, or a mapping with one under
            ``params_ema``, ``params`` or ``state_dict`` (the first of these that exists).
        key: use the state dict under this key instead.

    Raises:
        ValueError: ``key`` is missing, or there is no state dict.
    """
    if key is not None:
        if key not in checkpoint:
            raise RescaleError(f"no entry {key!r}; present: {listed(checkpoint)}")
        entries = checkpoint[key]
    else:
        entries = next((checkpoint[name] for name in _WRAPPERS if name in checkpoint), checkpoint)
    if not isinstance(entries, Mapping) or not all(isinstance(v, Tensor) for v in entries.values()):
        raise RescaleError(f"not a state dict; present: {listed(checkpoint)}")
    named = {name.removeprefix("module."): value for name, value in entries.items()}
    return {name: value for name, value in named.items() if not _IGNORED.fullmatch(name)}


def stated_config(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor keywords that a file states in addition to the weights.

    Files written by this project have them as ``config``. Of the authors' files, those with the
    constants of a JPEG belong to AIDN+, which was trained with quality 90.

    Raises:
        ValueError: ``config`` is not a mapping.
    """
    config = checkpoint.get("config", {})
    if not isinstance(config, Mapping):
        raise RescaleError(f"its config is a {type(config).__name__}: expected a mapping")
    places = [checkpoint, *(part for part in checkpoint.values() if isinstance(part, Mapping))]
    has_jpeg = any(
        str(name).removeprefix("module.").startswith("jpeg.") for place in places for name in place
    )
    return ({"jpeg_quality": _JPEG_QUALITY} if has_jpeg else {}) | dict(config)


def load_strictly(
    net: nn.Module, weights: Mapping[str, Tensor], source: str, *, without: str | None = None
) -> None:
    """Loads ``weights`` into ``net`` if all entries match; otherwise ``net`` is not changed.

    Args:
        net: any network.
        weights: its state dict.
        source: name of the file they come from, for error messages.
        without: a child of ``net`` that has no entries in ``weights`` and is not changed:
            ``'icrm'`` if a VQIR is initialized from a VQGAN, ``'refine'`` if stage 2 is
            initialized from stage 1.

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
        problem = "; ".join(f"{len(names)} {title}: {listed(names)}" for title, names in problems)
        raise RescaleError(f"{source} does not fit {type(net).__name__}: {problem}")
    with torch.no_grad():
        net.load_state_dict({**kept, **weights})


def count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """Number of entries whose whole name matches ``pattern``."""
    return sum(1 for name in weights if re.fullmatch(pattern, name))


def listed(names: Any) -> str:
    """The first few entry names, for error messages."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more if texts else "nothing"

"""Which weights the page offers, under which names, and which it selects itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rescale_compat.errors import RescaleError

from rescale_app.included_weights import (
    default_weights,
    included_weights,
    weights_with_fingerprint,
)
from rescale_app.rescaler import Rescaler
from rescale_data.image_file import LRInfo

Rescalers = Mapping[str, Rescaler]
"""Name of weights -> the network with them."""

_TITLES = {"aidn-small": "Fast", "aidn": "Best", "aidn-plus": "For JPEG", "vqir16-small": "x16"}


def load_rescalers(files: Sequence[str], device: Any = "auto") -> dict[str, Rescaler]:
    """Loads the included weights and those in ``files``.

    Args:
        files: weights files.
        device: as for `Rescaler`.

    Returns:
        Name -> network with the weights; those in ``files`` first.

    Raises:
        FileNotFoundError: a file does not exist, or there are no weights at all.
        ValueError: the weights match no network.
    """
    names = [*files, *included_weights()]
    if not names:
        raise FileNotFoundError(
            "this installation includes no weights: specify a file with --weights"
        )
    rescalers: dict[str, Rescaler] = {}
    for name in names:
        short = Path(name).name
        rescaler = Rescaler(name, device)
        if rescaler.device.type == "cpu" and rescaler.architecture.exact_tiles:
            # In tiles also for small images: progress is known, and computations can be cancelled.
            rescaler.tile = rescaler.architecture.tile
        rescalers[name if short in rescalers else short] = rescaler
    return rescalers


def titles(rescalers: Rescalers) -> dict[str, str]:
    """Name of weights -> display name."""
    return {
        name: _TITLES.get(
            weights_with_fingerprint(rescaler.fingerprint) or "",
            f"{rescaler.architecture.title}: {name}",
        )
        for name, rescaler in rescalers.items()
    }


def can_optimize(rescaler: Rescaler) -> bool:
    """Whether LR images of the network can be optimized."""
    return rescaler.architecture.search is not None


def for_jpeg(name: str, rescalers: Rescalers) -> str:
    """The weights for an LR image in a JPEG file, where ``name`` is selected.

    As for `rescale down`, those trained for it in place of other included ones; weights from a
    file are used for any format.
    """
    if weights_with_fingerprint(rescalers[name].fingerprint) is None:
        return name
    return _included(False, rescalers[name].architecture.name, rescalers) or name


def for_file(info: LRInfo, rescalers: Rescalers, file: str) -> str:
    """The weights that created an LR file, or else others of its network.

    Args:
        info: record of the file.
        rescalers: the weights that are loaded.
        file: its name, for the error message.

    Raises:
        ValueError: no weights of this network are loaded.
    """
    of_network = [name for name in rescalers if rescalers[name].architecture.name == info.network]
    if not of_network:
        raise RescaleError(
            f"{file} was created by the network {info.network!r} with the weights {info.weights}: "
            f"no weights of this network are loaded (loaded: {', '.join(rescalers)}). Start "
            "the page with --weights FILE"
        )
    same = (name for name in of_network if rescalers[name].fingerprint == info.weights)
    return next(same, of_network[0])


def without_record(lossless: bool, rescalers: Rescalers) -> str:
    """The best guess of the weights for a file that does not name its own."""
    return _included(lossless, None, rescalers) or next(iter(rescalers))


def _included(lossless: bool, method: str | None, rescalers: Rescalers) -> str | None:
    """The default among the included weights by its name in ``rescalers``, if it is loaded."""
    wanted = default_weights(lossless, method)
    loaded = (
        name
        for name, rescaler in rescalers.items()
        if weights_with_fingerprint(rescaler.fingerprint) == wanted
    )
    return next(loaded, None) if wanted is not None else None

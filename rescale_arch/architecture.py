"""The registry of network architectures: detecting, building and describing networks.

An `Architecture` describes everything that callers need to know about a network beyond its methods,
so no code outside this package depends on a particular network. Another package adds architectures
by an entry point, or by calling `register_architecture`::

    [project.entry-points."rescale.plugins"]
    tiny = "tiny_rescale:register"
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Protocol

from rescale_compat.errors import RescaleError

from torch import Tensor, nn

from rescale_arch.checkpoints import canonical_weights, listed, load_strictly, stated_config
from rescale_arch.graphs import Graph
from rescale_arch.regions import Read, Write
from rescale_arch.scales import Scale, Size

PLUGINS = "rescale.plugins"
"""Entry point group of plugins; each entry is called without arguments."""

StateDict = Mapping[str, Tensor]


class RescalingNetwork(Protocol):
    """Methods of a network that rescales images.

    Images are RGB (B, 3, H, W) in [0, 1]; results may exceed that range slightly. A scale is a
    factor or a pair (vertical, horizontal); for a network with a fixed factor it may be None.
    """

    def factors(self, scale: Scale | None) -> tuple[float, float]:
        """The factors (vertical, horizontal) of ``scale``; ValueError if unsupported."""

    def lr_size(self, size: Size, scale: Scale | None = None) -> Size:
        """Size (h, w) of the LR image of an HR image of ``size`` (H, W)."""

    def downscale(self, hr: Tensor, scale: Scale | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, 3, h, w), not rounded."""

    def upscale(self, lr: Tensor, scale: Scale | None = None, *, size: Size) -> Tensor:
        """(B, 3, h, w) -> (B, 3, H, W), not rounded; ``size`` is (H, W)."""


class TiledNetwork(RescalingNetwork, Protocol):
    """Additional methods of a network that can process images in tiles."""

    def downscale_tiles(
        self, size: Size, scale: Scale | None, read: Read, write: Write, tile: int
    ) -> None:
        """Downscales region by region; ``size`` is (H, W) of the HR image."""

    def upscale_tiles(
        self, size: Size, scale: Scale | None, read: Read, write: Write, tile: int
    ) -> None:
        """Restores region by region; ``size`` is (H, W) of the HR image."""


class WindowedNetwork(RescalingNetwork, Protocol):
    """Additional method of a network whose LR images can be optimized."""

    def upscale_window(
        self,
        lr: Tensor,
        scale: Scale | None,
        *,
        size: Size,
        corner: tuple[int, int],
        window: tuple[int, int, int, int],
    ) -> Tensor:
        """Restores a window of the HR image from a part of the LR image, with gradient.

        ``size`` is (H, W) of the HR image, ``corner`` the position of ``lr`` in the LR image, and
        ``window`` is (top, left, bottom, right) in the HR image.
        """


@dataclass(frozen=True)
class Search:
    """How LR images are optimized (see `rescale_arch.lr_optimization`).

    Attributes:
        side: maximum side of a window in LR pixels.
        hr_side: maximum side of the corresponding part of the HR image.
        ring: width, in LR pixels, of the margin around a window in which the restored image is
            also compared with the original.
        context: width, in LR pixels, of a further margin that is only passed to the network.
        step: root mean square of the first step; samples are in [0, 1].
    """

    side: int
    hr_side: int
    ring: int
    context: int
    step: float


@dataclass(frozen=True, eq=False)
class Architecture:
    """Description of a network architecture in the registry.

    Attributes:
        name: identifier in LR files and on the command line, such as ``'aidn'``.
        title: display name, such as ``'AIDN'``.
        network: class of the network: a `RescalingNetwork` if it rescales, a `TiledNetwork` if it
            supports tiles.
        detect: whether a canonical state dict belongs to this architecture.
        config: constructor keywords, inferred from the names and shapes in a state dict.
        scale_limits: minimum and maximum factor per axis; None: it does not rescale (VQGAN).
        describe: display name of a network with the given constructor keywords, if it is more
            specific than ``title``: ``'AIDN+'``, ``'VQIR x16, stage 1'``.
        lr_border: pixels on every side of the LR image that metrics exclude; None: the same number
            as for the HR image.
        max_untiled_pixels: HR pixels of the largest image that is processed untiled by default on a
            CPU.
        bytes_per_pixel: memory that processing an image untiled takes per HR pixel, given the
            constructor keywords; None: unknown, and a GPU has the limit of a CPU.
        max_width: channels of the widest features at full size, given the constructor keywords.
        tile: default side of the tiles for larger images, in HR pixels; None: tiles are
            unsupported.
        exact_tiles: whether tiling gives the same result as the whole image, up to rounding.
        search: how LR images are optimized; the network is then a `WindowedNetwork`.
            None: optimization is unsupported.
        graphs: the directions of the network for export, ``down`` and ``up``; None: export is
            unsupported.
        training: module that registers the network's training with BasicSR, if any.
        swap_color_order: converts weights for BGR images to weights for RGB images; None: there
            are no weights for BGR images.
    """

    name: str
    title: str
    network: type[nn.Module]
    detect: Callable[[StateDict], bool]
    config: Callable[[StateDict], dict[str, Any]]
    scale_limits: tuple[float, float] | None
    describe: Callable[[Mapping[str, Any]], str] | None = None
    lr_border: int | None = None
    max_untiled_pixels: int = 1 << 20
    bytes_per_pixel: Callable[[Mapping[str, Any]], int] | None = None
    max_width: Callable[[Mapping[str, Any]], int] = lambda config: 1
    tile: int | None = None
    exact_tiles: bool = False
    search: Search | None = None
    graphs: Callable[[nn.Module], Mapping[str, Graph]] | None = None
    training: str | None = None
    swap_color_order: Callable[[StateDict], dict[str, Tensor]] | None = None

    @property
    def rescales(self) -> bool:
        """Whether it downscales and restores images."""
        return self.scale_limits is not None

    @property
    def fixed_scale(self) -> float | None:
        """The factor of a network that supports only one; None otherwise."""
        if self.scale_limits is not None and self.scale_limits[0] == self.scale_limits[1]:
            return self.scale_limits[0]
        return None


@dataclass(frozen=True, eq=False)
class LoadedNetwork:
    """A network with its weights.

    Attributes:
        architecture: its architecture.
        network: the network, in evaluation mode, without gradients.
        config: all keywords of its constructor.
        weights: its canonical state dict, with the values of the file.
    """

    architecture: Architecture
    network: Any
    config: dict[str, Any]
    weights: dict[str, Tensor]

    @property
    def title(self) -> str:
        """Display name, such as ``'AIDN+'`` or ``'VQIR x16, stage 1'``."""
        describe = self.architecture.describe
        return describe(self.config) if describe else self.architecture.title

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.network.parameters())


_REGISTRY: dict[str, Architecture] = {}


def register_architecture(architecture: Architecture) -> None:
    """Adds an architecture; adding the same one again has no effect.

    Raises:
        ValueError: another architecture has the same name.
    """
    if _REGISTRY.setdefault(architecture.name, architecture) is not architecture:
        raise RescaleError(f"architecture {architecture.name!r} is already registered")


def architectures() -> tuple[Architecture, ...]:
    """All registered architectures, including those of installed plugins."""
    _load_plugins()
    return tuple(_REGISTRY.values())


def find_architecture(name: str) -> Architecture:
    """The rescaling architecture with the given name.

    Raises:
        ValueError: there is none.
    """
    names = {architecture.name: architecture for architecture in architectures()}
    if name not in names or not names[name].rescales:
        valid = ", ".join(key for key, architecture in names.items() if architecture.rescales)
        raise RescaleError(f"method {name!r} is unknown: expected one of {valid}")
    return names[name]


def identify(weights: StateDict) -> Architecture:
    """Detects the architecture of a canonical state dict.

    Raises:
        ValueError: it belongs to no registered architecture.
    """
    for architecture in architectures():
        if architecture.detect(weights):
            return architecture
    titles = ", ".join(dict.fromkeys(architecture.title for architecture in architectures()))
    raise RescaleError(
        f"not the weights of any known network ({titles}); present: {listed(weights)}"
    )


def load_network(
    checkpoint: Mapping[str, Any], source: str, *, key: str | None = None
) -> LoadedNetwork:
    """Detects the architecture of a checkpoint, builds the network and loads the weights.

    Args:
        checkpoint: contents of a weight file.
        source: name of that file, for error messages.
        key: entry that contains the weights; see
            :func:`~rescale_arch.checkpoints.canonical_weights`.

    Raises:
        ValueError: the weights belong to no known network, or do not fit it.
    """
    try:
        weights = canonical_weights(checkpoint, key)
        architecture = identify(weights)
        # What the file states takes precedence over what the shapes imply.
        config = architecture.config(weights) | stated_config(checkpoint)
        known = inspect.signature(architecture.network).parameters
        unknown = [keyword for keyword in config if keyword not in known]
        if unknown and not any(k.kind is k.VAR_KEYWORD for k in known.values()):
            raise RescaleError(f"{architecture.title} has no keyword {', '.join(unknown)}")
        defaults = {name: k.default for name, k in known.items() if k.default is not k.empty}
        config = defaults | config
        network = architecture.network(**config)
    except ValueError as error:
        raise RescaleError(f"{source}: {error}") from error
    load_strictly(network, weights, source)
    network.eval().requires_grad_(False)
    return LoadedNetwork(architecture, network, config, weights)


@cache
def _load_plugins() -> None:
    for entry in entry_points(group=PLUGINS):
        entry.load()()

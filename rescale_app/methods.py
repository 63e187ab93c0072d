"""The networks behind one face: what `Rescaler` asks of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rescale_arch import AIDN, VQIR, aidn_tiling, lr_size, scale_pair, vqir_tiling
from rescale_arch.aidn_tiling import Read, Write
from rescale_arch.official_weights import aidn_config, load_strictly, vqir_config
from rescale_arch.scales import MAX_SCALE, Scale, Size, as_pair

METHODS = ("aidn", "vqir16", "vqir32")
"""Names of the methods, as LR files carry them."""


class Method(ABC):
    """A rescaling network with its weights.

    Attributes:
        name: one of `METHODS`.
        network: the network, in evaluation mode, without gradients.
        max_scale: largest factor of an axis.
        whole: pixels of the largest HR picture that is computed as a whole on a CPU unless told
            otherwise.
        bytes_per_pixel: memory that computing an image as a whole takes, for each of its HR pixels.
        width: channels of the widest features at full size.
        tile: side of the tiles that larger ones are computed in, in HR pixels.
    """

    name: str
    network: nn.Module
    max_scale: float
    whole: int
    bytes_per_pixel: int
    width: int
    tile: int

    @abstractmethod
    def scale(self, scale: Scale | None) -> tuple[float, float]:
        """The factors (vertical, horizontal) that ``scale`` stands for.

        Raises:
            ValueError: the network does not downscale by that.
        """

    @abstractmethod
    def lr_size(self, size: Size, scale: tuple[float, float]) -> Size:
        """Size (h, w) of the LR image of an HR image of ``size`` (H, W)."""

    @abstractmethod
    def downscale(self, hr: Tensor, scale: tuple[float, float]) -> Tensor:
        """(1, 3, H, W) in [0, 1] -> (1, 3, h, w), not rounded."""

    @abstractmethod
    def upscale(self, lr: Tensor, scale: tuple[float, float], size: Size) -> Tensor:
        """(1, 3, h, w) in [0, 1] -> (1, 3, H, W), not rounded."""

    @abstractmethod
    def downscale_tiles(
        self, size: Size, scale: tuple[float, float], read: Read, write: Write, tile: int
    ) -> None:
        """Downscales region by region; ``size`` is that of the HR picture."""

    @abstractmethod
    def upscale_tiles(
        self, size: Size, scale: tuple[float, float], read: Read, write: Write, tile: int
    ) -> None:
        """Restores region by region; ``size`` is that of the HR picture."""


class AIDNMethod(Method):
    """Any factor in (1, 4], one for each axis. Tiles give what the whole does."""

    name = "aidn"
    max_scale = MAX_SCALE
    whole = 1 << 20
    tile = 1536  # some 7 % is computed twice then
    network: AIDN

    def __init__(self, weights: Mapping[str, Tensor], config: Mapping[str, Any], source: str):
        # What the file says goes before what the shapes tell.
        config = aidn_config(weights) | dict(config)
        self.network = AIDN(**config)
        channels = config["num_feat"]
        # measured in fp32: 33 times C close to scale 1, 26 times from 2.5 on
        self.bytes_per_pixel = 33 * channels
        self.width = channels * max(8, config.get("num_crm_expert", 8)) // 8
        load_strictly(self.network, weights, source)

    def scale(self, scale: Scale | None) -> tuple[float, float]:
        """See `Method`."""
        if scale is None:
            raise ValueError("scale is missing: AIDN downscales by any factor above 1 and up to 4")
        return scale_pair(scale)

    def lr_size(self, size: Size, scale: tuple[float, float]) -> Size:
        """See `Method`."""
        return lr_size(size, scale)

    def downscale(self, hr: Tensor, scale: tuple[float, float]) -> Tensor:
        """See `Method`."""
        return self.network.downscale(hr, scale)

    def upscale(self, lr: Tensor, scale: tuple[float, float], size: Size) -> Tensor:
        """See `Method`."""
        return self.network.upscale(lr, scale, size=size)

    def downscale_tiles(
        self, size: Size, scale: tuple[float, float], read: Read, write: Write, tile: int
    ) -> None:
        """See `Method`."""
        aidn_tiling.downscale_tiles(self.network, size, scale, read, write, tile)

    def upscale_tiles(
        self, size: Size, scale: tuple[float, float], read: Read, write: Write, tile: int
    ) -> None:
        """See `Method`."""
        aidn_tiling.upscale_tiles(self.network, size, scale, read, write, tile)


class VQIRMethod(Method):
    """The factor 16 or 32 that the network is made for. Tiles overlap and are blended."""

    whole = 1 << 21
    tile = 1024
    network: VQIR

    def __init__(self, weights: Mapping[str, Tensor], config: Mapping[str, Any], source: str):
        config = vqir_config(weights) | dict(config)
        self.network = VQIR(**config)
        # measured in fp32
        self.bytes_per_pixel = (13 if self.network.stage == 1 else 19) * config["ch"]
        self.width = config["ch"] * max(config["ch_mult"][:2])
        load_strictly(self.network, weights, source)
        self.max_scale = float(self.network.factor)
        self.name = f"vqir{self.network.factor}"

    def scale(self, scale: Scale | None) -> tuple[float, float]:
        """See `Method`."""
        own = (self.max_scale, self.max_scale)
        if scale is not None and tuple(as_pair(scale)) != own:
            raise ValueError(f"{self.name} downscales by {self.max_scale:g} and nothing else")
        return own

    def lr_size(self, size: Size, scale: tuple[float, float]) -> Size:
        """See `Method`."""
        return self.network.lr_size(size)

    def downscale(self, hr: Tensor, scale: tuple[float, float]) -> Tensor:
        """See `Method`."""
        return self.network.downscale(hr)

    def upscale(self, lr: Tensor, scale: tuple[float, float], size: Size) -> Tensor:
        """See `Method`."""
        return self.network.upscale(lr, size=size)

    def downscale_tiles(
        self, size: Size, scale: tuple[float, float], read: Read, write: Write, tile: int
    ) -> None:
        """See `Method`."""
        vqir_tiling.downscale_tiles(self.network, size, read, write, tile)

    def upscale_tiles(
        self, size: Size, scale: tuple[float, float], read: Read, write: Write, tile: int
    ) -> None:
        """See `Method`."""
        vqir_tiling.upscale_tiles(self.network, size, read, write, tile)


def load_method(weights: Mapping[str, Tensor], config: Mapping[str, Any], source: str) -> Method:
    """The method that ``weights`` are of.

    Args:
        weights: canonical state dict.
        config: constructor keywords that the file states.
        source: where both come from, for errors.

    Raises:
        ValueError: the weights fit none of them.
    """
    kind = VQIRMethod if any(name.startswith("icrm.") for name in weights) else AIDNMethod
    try:
        method = kind(weights, config, source)
    except TypeError as error:  # a keyword in the file that the constructor does not have
        raise ValueError(f"{source}: {error}") from error
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(source) else f"{source}: {text}") from error
    method.network.eval().requires_grad_(False)
    return method

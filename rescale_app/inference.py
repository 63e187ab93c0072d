"""Running a rescaling network on arrays: device, precision, tiles, and out-of-memory errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from numpy.typing import NDArray

from rescale_app.tiles import OnProgress, max_untiled_pixels, smaller_tile_advice, tile_progress
from rescale_arch.architecture import LoadedNetwork
from rescale_arch.inference_kernels import inference_kernels
from rescale_arch.memory_format import channels_last
from rescale_arch.scales import Size
from rescale_data.pixels import Pixels, rescale_regions, to_pixels, to_tensor

Tile = Literal["auto"] | int | None


class NetworkRunner:
    """Runs a rescaling network on arrays, untiled or in tiles.

    Args:
        loaded: the network; it is moved to ``device``.
        device: device of the computation.
        bf16: whether to compute in bfloat16.
    """

    def __init__(self, loaded: LoadedNetwork, device: torch.device, *, bf16: bool) -> None:
        self.architecture, self.config = loaded.architecture, loaded.config
        self.device, self.bf16 = device, bf16
        self.network: Any = loaded.network.to(device)
        if device.type == "cuda":
            channels_last(self.network)

    def downscale(
        self,
        array: NDArray[Any],
        scale: tuple[float, float],
        tile: Tile,
        progress: bool | OnProgress,
    ) -> Pixels:
        """Computes the LR image, (h, w, 3) uint8, of an array (H, W, 3)."""
        size = array.shape[0], array.shape[1]
        with self.computing(size, tile):
            side = self.tile_side(size, tile)
            if side is None:
                return to_pixels(self.network.downscale(to_tensor(array, self.device), scale))
            with tile_progress("Downscaling", size, progress) as on_progress:
                return rescale_regions(
                    lambda read, write: self.network.downscale_tiles(
                        size, scale, read, write, side
                    ),
                    array,
                    self.network.lr_size(size, scale),
                    self.device,
                    on_progress,
                )

    def upscale(
        self,
        array: NDArray[Any],
        scale: tuple[float, float],
        size: Size,
        depth: int,
        tile: Tile,
        progress: bool | OnProgress,
    ) -> NDArray[Any]:
        """Restores an image of ``size`` (H, W) in ``depth`` bits from an array (h, w, 3)."""
        with self.computing(size, tile):
            side = self.tile_side(size, tile)
            if side is None:
                lr = to_tensor(array, self.device)
                return to_pixels(self.network.upscale(lr, scale, size=size), depth)
            with tile_progress("Restoring", size, progress) as on_progress:
                return rescale_regions(
                    lambda read, write: self.network.upscale_tiles(size, scale, read, write, side),
                    array,
                    size,
                    self.device,
                    on_progress,
                    depth,
                )

    def tile_side(self, size: Size, tile: Tile) -> int | None:
        """The side of the tiles for an HR image of ``size``; None: untiled."""
        if self.architecture.tile is None:
            return None
        if tile != "auto":
            return tile
        most = max_untiled_pixels(self.architecture, self.config, self.device)
        return None if size[0] * size[1] <= most else self.architecture.tile

    @contextmanager
    def computing(self, size: Size, tile: Tile) -> Iterator[None]:
        """Sets inference mode and precision for an HR image of ``size``.

        Raises:
            MemoryError: out of memory; the message suggests a smaller tile.
        """
        try:
            with (
                torch.inference_mode(),
                inference_kernels(),
                torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16),
            ):
                yield
        except (RuntimeError, MemoryError) as error:
            # PyTorch has no separate exception class for this on the CPU.
            if not (
                isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
                or "can't allocate memory" in str(error)
            ):
                raise
            advice = smaller_tile_advice(self.architecture, self.tile_side(size, tile), size)
            raise MemoryError(
                f"not enough memory on {self.device} for an image of {size[1]}x{size[0]}{advice}"
            ) from error

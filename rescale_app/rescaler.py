"""Downscales and restores arrays with loaded weights; the basis of the command and the demo."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import rescale_compat  # noqa: F401  before BasicSR, which needs it on current torchvision
from rescale_compat.errors import RescaleError

import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm import tqdm

from rescale_app.arrays import checked, eight_bit
from rescale_app.devices import Device, torch_device
from rescale_app.included_weights import find_weights
from rescale_app.lr_image import UNCHANGED, LRImage, scale_for_size, scale_text
from rescale_app.quality import SSIM_WINDOW, Comparison, Quality, image_quality, psnr
from rescale_arch import imresize
from rescale_arch.architecture import find_architecture, load_network
from rescale_arch.bfloat16 import SLOW_BFLOAT16, Precision, bfloat16_is_native, uses_bfloat16
from rescale_arch.compiling import compile_for_inference
from rescale_arch.inference_kernels import inference_kernels
from rescale_arch.memory_format import channels_last
from rescale_arch.scales import Scale, Size
from rescale_data.image_file import LRInfo
from rescale_data.pixels import Pixels, rescale_regions, to_pixels, to_tensor
from rescale_data.weight_file import fingerprint, read_weights

__all__ = ["Comparison", "LRImage", "Quality", "RescaleWarning", "Rescaler"]

Tile = Literal["auto"] | int | None
OnProgress = Callable[[str, float], None]
"""Called with the name of the current step and the completed fraction of it, from 0 to 1."""

_SHARE_OF_MEMORY = 0.8  # the rest is for workspaces of convolutions
_SMALLEST_TILE = 64  # HR pixels: below, most of the work would be overlap


class RescaleWarning(UserWarning):
    """Warns that the result is likely to be poor, or slow to compute."""


class Rescaler:
    """A rescaling network with its weights, for images as arrays.

    Args:
        weights: a weights file (``.safetensors``, ``.pth``, ..), or the name of included
            weights; default: ``'aidn-small'``. They determine the network.
        device: ``'auto'`` selects the GPU if available.
        precision: ``'bf16'`` computes in bfloat16 where that is safe: slightly less accurate, and
            faster on devices with bfloat16 instructions (GPUs from Ampere, CPUs with AMX,
            AVX-512 BF16 or Arm's BF16). ``'auto'`` uses it on those, and ``'fp32'`` elsewhere.
            ``'fp32'`` does not use TF32 on a GPU: results agree with those of a CPU up to rounding.
        method: name of the required network architecture, such as ``'aidn'`` or ``'vqir16'``;
            default: any.
        tile: side of the tiles in HR pixels; with tiles, memory does not grow with the image.
            None: untiled. ``'auto'``: untiled for small images, tiles for those that do not fit
            into 80 % of the free GPU memory, and on a CPU for those above 1 megapixel (VQIR: 2).
            Tiles do not change the result of AIDN, and change that of VQIR slightly.
        progress: whether to show a progress bar for tiles, if the standard error output is a
            terminal; or a function that is called after every tile with ``'Downscaling'`` or
            ``'Restoring'`` and the completed fraction of it.
        compile: whether to compile the network with the first images, which takes a minute or
            more; useful for many images. Requires a GPU and ``tile=None``, since tiles, and AIDN
            on a CPU, use another code path.

    Attributes:
        architecture: describes the network.
        network: the network, in evaluation mode.
        fingerprint: identifies the weights; stored in LR images.
        precision: ``'fp32'`` or ``'bf16'``, as computed with.

    Warns:
        RescaleWarning: ``precision`` is ``'bf16'`` and the device has no bfloat16 instructions.

    Raises:
        FileNotFoundError: the weights do not exist.
        ValueError: the weights match no network, or not ``method``; or ``device``,
            ``precision``, ``tile`` or ``compile`` is not available.

    Example:
        >>> rescaler = Rescaler("aidn.safetensors")  # doctest: +SKIP
        >>> lr = rescaler.downscale(array, 2.5)      # doctest: +SKIP
        >>> restored = rescaler.upscale(lr)          # doctest: +SKIP
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        device: Device = "auto",
        precision: Precision = "auto",
        method: str | None = None,
        tile: Tile = "auto",
        progress: bool | OnProgress = False,
        compile: bool = False,
    ) -> None:
        if method is not None:
            find_architecture(method)
        if not (tile in ("auto", None) or (isinstance(tile, int) and tile >= 1)):
            raise RescaleError(f"tile is {tile!r}: valid are auto, None, a number of pixels from 1")
        self.device = torch_device(device)
        if compile and (self.device.type != "cuda" or tile is not None):
            raise RescaleError("compile requires a GPU and tile none")
        bf16 = uses_bfloat16(precision, self.device)
        if bf16 and not bfloat16_is_native(self.device):
            warnings.warn(f"precision {SLOW_BFLOAT16}", RescaleWarning, stacklevel=2)
        self.precision: Literal["fp32", "bf16"] = "bf16" if bf16 else "fp32"
        self.tile = tile
        self.progress = progress
        path = find_weights(weights, method)
        loaded = load_network(read_weights(path), str(path))
        self.architecture, self.network = loaded.architecture, loaded.network
        self._config = loaded.config
        if not self.architecture.rescales:
            raise RescaleError(f"{path}: weights of {loaded.title}, which does not rescale")
        if method not in (None, self.architecture.name):
            raise RescaleError(f"{path}: weights of {self.architecture.name}, not of {method}")
        self.fingerprint = fingerprint(loaded.weights)
        self.network.to(self.device)
        if self.device.type == "cuda":
            channels_last(self.network)
        if compile:
            compile_for_inference(self.network)

    def downscale(
        self, image: ArrayLike, scale: Scale | None = None, *, size: Size | None = None
    ) -> LRImage:
        """Downscales an image, by a factor or to a size.

        Args:
            image: (H, W, 3) RGB or (H, W) grey; uint8, uint16, or float in [0, 1].
            scale: factor in (1, 4], or a pair (vertical, horizontal) of factors in [1, 4]. VQIR
                has a fixed factor; optional.
            size: (h, w) of the LR image instead (AIDN). The sides may shrink by different factors,
                up to 4 each. An image that already has this size is returned unchanged.

        Raises:
            ValueError: the image is too small (minimum for AIDN: 8 x 8 pixels, for VQIR: the
                factor) or not a supported array, or the scale or size is out of range, or both
                are given.
        """
        if scale is not None and size is not None:
            raise RescaleError("give either scale or size")
        array = checked(image)
        height, width = array.shape[:2]
        if size is not None:
            if self.architecture.fixed_scale is not None:
                raise RescaleError(
                    f"{self.architecture.name} has a fixed factor: size is not supported"
                )
            scale = scale_for_size((height, width), size, self.max_scale)
            if scale == UNCHANGED:
                return self._lr_image(eight_bit(array), scale, (height, width))
        pair = self.network.factors(scale)
        pixels = self._downscaled(array, pair)
        return self._lr_image(pixels, pair, (height, width))

    def upscale(
        self, lr: LRImage | ArrayLike, scale: Scale | None = None, size: Size | None = None
    ) -> Pixels:
        """Restores the original of an LR image.

        Args:
            lr: result of :meth:`downscale`, or an array of its pixels.
            scale: for an array: its downscaling factor (optional for VQIR).
            size: for an array: (H, W) of the original.

        Returns:
            (H, W, 3) uint8 RGB.

        Warns:
            RescaleWarning: ``lr`` was created with other weights.

        Raises:
            ValueError: ``scale`` and ``size`` are missing, given for an :class:`LRImage`, out of
                range, or do not match the size of ``lr``; or another network created ``lr``.
        """
        if isinstance(lr, LRImage):
            if scale is not None or size is not None:
                raise RescaleError("scale and size are stored in the LR image: omit them")
            if lr.info.network != self.architecture.name:
                raise RescaleError(
                    f"created by the network {lr.info.network!r}, but the weights are for "
                    f"{self.architecture.name!r}"
                )
            pair, size = lr.info.scale, lr.info.size
            array = checked(lr.pixels)
        elif size is None or (scale is None and self.architecture.fixed_scale is None):
            raise RescaleError(
                "an array does not contain its scale and original size: specify both"
            )
        else:
            pair = self.network.factors(scale)
            array = checked(lr)
        unchanged = pair == UNCHANGED
        expected = size if unchanged else self.network.lr_size(size, pair)
        height, width = array.shape[:2]
        if (height, width) != tuple(expected):
            raise RescaleError(
                f"is {width}x{height}, but the LR image of {size[1]}x{size[0]} at scale "
                f"{scale_text(pair)} is {expected[1]}x{expected[0]}"
            )
        if unchanged:
            return eight_bit(array)
        if isinstance(lr, LRImage) and lr.info.weights != self.fingerprint:
            warnings.warn(
                f"created with the weights {lr.info.weights}, restored with {self.fingerprint}: "
                "expect a poor result",
                RescaleWarning,
                stacklevel=2,
            )
        return self._restored(array, pair, size)

    def compare(self, image: ArrayLike, scale: Scale | None = None) -> Comparison:
        """Compares a round trip with that of bicubic interpolation.

        Args:
            image: as for :meth:`downscale`; converted to 8 bits.
            scale: as for :meth:`downscale`.

        Raises:
            ValueError: as for :meth:`downscale`, or the image is too small for the metrics: SSIM
                needs 11 x 11 pixels inside the border.
        """
        hr = eight_bit(checked(image))
        pair = self.network.factors(scale)
        size = (hr.shape[0], hr.shape[1])
        border = math.ceil(max(pair))
        small = self.network.lr_size(size, pair)
        lr_border = border if self.architecture.lr_border is None else self.architecture.lr_border
        if min(size) < SSIM_WINDOW + 2 * border or min(small) <= 2 * lr_border:
            raise RescaleError(
                f"is {size[1]}x{size[0]}: too small for metrics at scale {scale_text(pair)}"
            )
        start = time.perf_counter()
        lr = self.downscale(hr, pair)
        middle = time.perf_counter()
        restored = self.upscale(lr)
        end = time.perf_counter()
        inverse = (1 / pair[0], 1 / pair[1])
        bicubic_lr = self.bicubic(hr, small, inverse)
        bicubic = self.bicubic(bicubic_lr, size, pair)
        return Comparison(
            hr=hr,
            lr=lr,
            restored=restored,
            bicubic_lr=bicubic_lr,
            bicubic=bicubic,
            quality=image_quality(hr, restored, border),
            bicubic_quality=image_quality(hr, bicubic, border),
            lr_psnr=psnr(bicubic_lr, lr.pixels, lr_border),
            lr_psnr_y=psnr(bicubic_lr, lr.pixels, lr_border, y=True),
            seconds_down=middle - start,
            seconds_up=end - middle,
        )

    def bicubic(self, image: ArrayLike, size: Size, scale: Scale) -> Pixels:
        """Resizes an image as MATLAB's ``imresize`` does, antialiased when downscaling.

        Args:
            image: as for :meth:`downscale`.
            size: (h, w) of the result.
            scale: enlargement factor, or a pair (vertical, horizontal).

        Returns:
            (h, w, 3) uint8 RGB.

        Raises:
            ValueError: the array is unsupported.
        """
        return to_pixels(imresize(self._tensor(checked(image)), size, scale))

    def _lr_image(self, pixels: Pixels, scale: tuple[float, float], size: Size) -> LRImage:
        return LRImage(pixels, LRInfo(self.architecture.name, scale, size, self.fingerprint))

    @property
    def max_scale(self) -> float:
        """Largest downscaling factor per axis."""
        assert self.architecture.scale_limits is not None
        return self.architecture.scale_limits[1]

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return to_tensor(array, self.device)

    def _downscaled(self, array: NDArray[Any], scale: tuple[float, float]) -> Pixels:
        size = (array.shape[0], array.shape[1])
        tile = self._tile(size)
        with self._computing(size):
            if tile is None:
                return to_pixels(self.network.downscale(self._tensor(array), scale))
            return self._in_tiles(
                "Downscaling",
                lambda read, write: self.network.downscale_tiles(size, scale, read, write, tile),
                array,
                self.network.lr_size(size, scale),
            )

    def _restored(self, array: NDArray[Any], scale: tuple[float, float], size: Size) -> Pixels:
        tile = self._tile(size)
        with self._computing(size):
            if tile is None:
                return to_pixels(self.network.upscale(self._tensor(array), scale, size=size))
            return self._in_tiles(
                "Restoring",
                lambda read, write: self.network.upscale_tiles(size, scale, read, write, tile),
                array,
                size,
            )

    def _tile(self, size: Size) -> int | None:
        """The tile size for an image of ``size``; None: untiled."""
        if self.architecture.tile is None:
            return None
        if self.tile != "auto":
            return self.tile
        is_small = size[0] * size[1] <= self._max_untiled_pixels()
        return None if is_small else self.architecture.tile

    def _max_untiled_pixels(self) -> int:
        """Pixels of the largest image that is computed untiled with ``tile='auto'``."""
        per_pixel = self.architecture.bytes_per_pixel
        if self.device.type != "cuda" or per_pixel is None:
            return self.architecture.max_untiled_pixels
        fits = int(_SHARE_OF_MEMORY * _free_gpu_memory(self.device) / per_pixel(self._config))
        # kernels index features by 32 bits
        return min(fits, (2**31 - 1) // self.architecture.max_width(self._config))

    def _in_tiles(
        self, step: str, work: Callable[..., None], array: NDArray[Any], size: Size
    ) -> Pixels:
        """Collects the output of ``work`` in 8 bits and reports progress."""
        total = size[0] * size[1]
        hidden = None if self.progress is True else True  # None: hidden without a terminal
        report = self.progress if callable(self.progress) else None
        with tqdm(total=total, unit="px", unit_scale=True, leave=False, disable=hidden) as bar:
            done = 0

            def on_progress(pixels: int) -> None:
                nonlocal done
                done += pixels
                bar.update(pixels)
                if report is not None:
                    report(step, done / total)

            return rescale_regions(work, array, size, self.device, on_progress)

    @contextmanager
    def _computing(self, size: Size) -> Iterator[None]:
        """Sets inference mode and precision, and reports out of memory as ``MemoryError``."""
        bf16 = self.precision == "bf16"
        try:
            with (
                torch.inference_mode(),
                inference_kernels(),
                torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16),
            ):
                yield
        except (RuntimeError, MemoryError) as error:
            # PyTorch has no separate exception class for this on the CPU.
            if not (
                isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
                or "can't allocate memory" in str(error)
            ):
                raise
            raise MemoryError(
                f"not enough memory on {self.device} for an image of {size[1]}x{size[0]}"
                + self._smaller_tile(size)
            ) from error

    def _smaller_tile(self, size: Size) -> str:
        """Advice for an image of ``size`` that does not fit into memory; may be empty."""
        if self.architecture.tile is None:
            return ""
        current = self._tile(size)
        side = max(size) if current is None else min(current, max(size))
        if side < 2 * _SMALLEST_TILE:
            return ""
        advised = min(1 << (side // 2).bit_length() - 1, self.architecture.tile)
        kind = "tiles" if current is None else "smaller tiles"
        return f": {kind} need less memory (--tile {advised}; in Python, tile={advised})"


def _free_gpu_memory(device: torch.device) -> int:
    """Bytes available to PyTorch on ``device``, from the driver and from its cache."""
    free, _ = torch.cuda.mem_get_info(device)
    kept: int = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + kept

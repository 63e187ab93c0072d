"""`Rescaler`: downscales and restores images in Python; the command and the page use it, too."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, overload

import rescale_compat  # noqa: F401  must precede basicsr
from rescale_compat.errors import RescaleError

from numpy.typing import ArrayLike, NDArray
from PIL import Image

from rescale_app import side_data as sides
from rescale_app.arrays import RescaleWarning, checked, eight_bit, with_depth
from rescale_app.devices import Device, torch_device
from rescale_app.effort import better, check_effort, optimize
from rescale_app.included_weights import find_weights
from rescale_app.inference import NetworkRunner, Tile
from rescale_app.lr_image import UNCHANGED, LRImage, Restored, checked_lr, scale_for_size
from rescale_app.pil_images import from_pil, info_of_pil, to_pil
from rescale_app.quality import Comparison, Quality
from rescale_app.round_trip import compare_round_trip
from rescale_app.tiles import OnProgress, tile_progress
from rescale_arch import imresize
from rescale_arch.architecture import find_architecture, load_network
from rescale_arch.bfloat16 import SLOW_BFLOAT16, Precision, bfloat16_is_native, uses_bfloat16
from rescale_arch.compiling import compile_for_inference
from rescale_arch.scales import Scale, Size
from rescale_data.image_file import LRInfo
from rescale_data.pixels import Pixels, to_pixels, to_tensor
from rescale_data.weight_file import fingerprint, read_weights

__all__ = ["Comparison", "LRImage", "OnProgress", "Quality", "RescaleWarning", "Rescaler"]


class Rescaler:
    """A rescaling network with its weights, for images as arrays and PIL images.

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
        progress: whether to show a progress bar for tiles and effort, if the standard error output
            is a terminal; or a function that is called after every tile with ``'Downscaling'`` or
            ``'Restoring'``, and after every step with ``'Optimizing'``, and the completed fraction.
        compile: whether to compile the network with the first images, which takes a minute or
            more; useful for many images. Requires a GPU and ``tile=None``, since tiles, and AIDN
            on a CPU, use another code path.
        effort: number of optimization steps for each LR image, so that the network restores the
            image better (see `rescale_arch.lr_optimization`); 10 steps achieve most of the gain. A
            step takes three to four times as long as restoring. May be changed later.
        jpeg_quality: quality of the JPEG files in which LR images are stored, which ``effort``
            takes into account; None: they are stored losslessly. May be changed later.

    Attributes:
        architecture: architecture of the network.
        network: the network, in evaluation mode.
        fingerprint: identifies the weights; stored in LR images.
        precision: precision of the computation, ``'fp32'`` or ``'bf16'``.

    Warns:
        RescaleWarning: ``precision`` is ``'bf16'`` and the device has no bfloat16 instructions.

    Raises:
        FileNotFoundError: the weights do not exist.
        ValueError: the weights match no network, or not ``method``; or ``device``,
            ``precision``, ``tile``, ``compile`` or ``effort`` is not available.

    Example:
        >>> rescaler = Rescaler("aidn.safetensors")  # doctest: +SKIP
        >>> lr = rescaler.downscale(array, 2.5)      # doctest: +SKIP
        >>> restored = rescaler.upscale(lr)          # doctest: +SKIP

        PIL images keep transparency, color profile and EXIF:

        >>> lr = rescaler.downscale(Image.open("photo.jpg"), 2.5)    # doctest: +SKIP
        >>> lr.save("small.png")                                     # doctest: +SKIP
        >>> restored = rescaler.upscale(Image.open("small.png"))     # doctest: +SKIP
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
        effort: int = 0,
        jpeg_quality: int | None = None,
    ) -> None:
        if method is not None:
            find_architecture(method)
        if not (tile in ("auto", None) or (isinstance(tile, int) and tile >= 1)):
            raise RescaleError(f"tile is {tile!r}: expected auto, None or a number >= 1")
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
        if not self.architecture.rescales:
            raise RescaleError(f"{path}: weights of {loaded.title}, which does not rescale")
        if method not in (None, self.architecture.name):
            raise RescaleError(f"{path}: weights of {self.architecture.name}, not of {method}")
        check_effort(effort, self.architecture)
        self.effort, self.jpeg_quality = effort, jpeg_quality
        self.fingerprint = fingerprint(loaded.weights)
        self._runner = NetworkRunner(loaded, self.device, bf16=bf16)
        if compile:
            compile_for_inference(self.network)

    @overload
    def downscale(
        self, image: Image.Image, scale: Scale | None = None, *, size: Size | None = None
    ) -> LRImage[Image.Image]: ...

    @overload
    def downscale(
        self, image: ArrayLike, scale: Scale | None = None, *, size: Size | None = None
    ) -> LRImage: ...

    def downscale(
        self,
        image: Image.Image | ArrayLike,
        scale: Scale | None = None,
        *,
        size: Size | None = None,
    ) -> LRImage[Any]:
        """Downscales an image, by a factor or to a size.

        Args:
            image: (H, W, 3) RGB or (H, W) gray; uint8, uint16, or float in [0, 1]. Or a PIL image,
                whose LR image also has its transparency (by bicubic interpolation; colors under
                transparent parts are kept), color profile and EXIF, and is upright.
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
            raise RescaleError("specify either scale or size, not both")
        if isinstance(image, Image.Image):
            pixels, side_data = from_pil(image)
            lr = self.downscale(pixels, scale, size=size)
            lr_size = (lr.pixels.shape[0], lr.pixels.shape[1])
            return replace(lr, side_data=sides.downscaled(side_data, lr_size, lr.info.scale))
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
        found = self._runner.downscale(array, pair, self.tile, self.progress)
        if self.effort:
            progress = tile_progress("Optimizing", (height, width), self.progress)
            with self._runner.computing((height, width), self.tile), progress as report:
                optimized = optimize(self, array, found, pair, report)
            found = better(self, array, optimized, found, pair)
        return self._lr_image(found, pair, (height, width))

    @overload
    def upscale(
        self,
        lr: LRImage[Restored],
        scale: Scale | None = None,
        size: Size | None = None,
        *,
        depth: int = 8,
    ) -> Restored: ...

    @overload
    def upscale(
        self,
        lr: Image.Image,
        scale: Scale | None = None,
        size: Size | None = None,
        *,
        depth: int = 8,
    ) -> Image.Image: ...

    @overload
    def upscale(
        self,
        lr: ArrayLike,
        scale: Scale | None = None,
        size: Size | None = None,
        *,
        depth: int = 8,
    ) -> Pixels: ...

    def upscale(
        self,
        lr: LRImage[Any] | Image.Image | ArrayLike,
        scale: Scale | None = None,
        size: Size | None = None,
        *,
        depth: int = 8,
    ) -> Any:
        """Restores the original of an LR image.

        Args:
            lr: result of :meth:`downscale`, or an array of its pixels; or an LR file opened with
                PIL.
            scale: for an array, or a PIL image without a record: its downscaling factor (optional
                for VQIR).
            size: for the same: (H, W) of the original.
            depth: bits per sample of the result: 8, or 16 to round less; for arrays.

        Returns:
            (H, W, 3) uint8 (or uint16) RGB; for a PIL image, and for what was downscaled from one,
            a PIL image with transparency, color profile and EXIF.

        Warns:
            RescaleWarning: ``lr`` was created with other weights.

        Raises:
            ValueError: ``scale`` and ``size`` are missing, given for an :class:`LRImage`, out of
                range, or do not match the size of ``lr``; or another network created ``lr``.
        """
        if depth not in (8, 16):
            raise RescaleError(f"depth is {depth!r}: expected one of 8, 16")
        if isinstance(lr, Image.Image):
            return self._upscale_pil(lr, scale, size, depth)
        restored = self._upscale_array(lr, scale, size, depth)
        if isinstance(lr, LRImage) and lr.side_data is not None:
            return to_pil(restored, lr.side_data, lr.info.scale)
        return restored

    def _upscale_pil(
        self, image: Image.Image, scale: Scale | None, size: Size | None, depth: int
    ) -> Image.Image:
        pixels, side_data = from_pil(image)
        info = info_of_pil(image) if scale is None and size is None else None
        lr = pixels if info is None else LRImage(eight_bit(pixels), info)
        restored = self._upscale_array(lr, scale, size, depth)
        return to_pil(restored, side_data, info.scale if info else self.network.factors(scale))

    def _upscale_array(
        self,
        lr: LRImage[Any] | ArrayLike,
        scale: Scale | None,
        size: Size | None,
        depth: int,
    ) -> NDArray[Any]:
        array, pair, size = checked_lr(lr, scale, size, self.architecture, self.network)
        if pair == UNCHANGED:
            return with_depth(array, depth)
        if isinstance(lr, LRImage) and lr.info.weights != self.fingerprint:
            warnings.warn(
                f"created with the weights {lr.info.weights}, restored with {self.fingerprint}: "
                "expect a poor result",
                RescaleWarning,
                stacklevel=3,
            )
        return self._runner.upscale(array, pair, size, depth, self.tile, self.progress)

    def compare(
        self,
        image: ArrayLike,
        scale: Scale | None = None,
        through_file: Callable[[LRImage], Pixels] = lambda lr: lr.pixels,
    ) -> Comparison:
        """Compares a round trip with bicubic interpolation.

        Args:
            image: as for :meth:`downscale`; converted to 8 bits.
            scale: as for :meth:`downscale`.
            through_file: returns the pixels of an LR image as read from its file; default: a
                lossless file. Called for the network's LR image, then for the bicubic one.

        Raises:
            ValueError: as for :meth:`downscale`, or the image is too small for the metrics: SSIM
                needs 11 x 11 pixels inside the border.
        """
        hr, factors = eight_bit(checked(image)), self.network.factors(scale)
        return compare_round_trip(self, hr, factors, through_file)

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
        return to_pixels(imresize(to_tensor(checked(image), self.device), size, scale))

    def _lr_image(self, pixels: Pixels, scale: tuple[float, float], size: Size) -> LRImage:
        return LRImage(pixels, LRInfo(self.architecture.name, scale, size, self.fingerprint))

    @property
    def max_scale(self) -> float:
        """Largest downscaling factor per axis."""
        assert self.architecture.scale_limits is not None
        return self.architecture.scale_limits[1]

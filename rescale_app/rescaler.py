"""Downscale and restore arrays with loaded weights: what the command and the demo are made of."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import rescale_compat  # noqa: F401  before BasicSR, which needs it on today's torchvision

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm import tqdm

from rescale_app.methods import METHODS, Method, load_method
from rescale_arch import imresize
from rescale_arch.aidn_tiling import Read, Write
from rescale_arch.bfloat16 import SLOW_BFLOAT16, bfloat16_is_native
from rescale_arch.compiling import compile_for_inference
from rescale_arch.inference_kernels import inference_kernels
from rescale_arch.memory_format import channels_last
from rescale_arch.official_weights import canonical_weights
from rescale_arch.scales import Scale, Size, as_pair
from rescale_data.image_file import LRInfo, to_float
from rescale_data.unit_range import to_unit_range
from rescale_data.weight_file import fingerprint, read_weights

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16"]
Tile = Literal["auto"] | int | None
Pixels = NDArray[np.uint8]
Progress = Callable[[str, float], None]
"""Is told what is under way, and how much is done, from 0 to 1."""

UNCHANGED = (1.0, 1.0)
"""The scale of a picture that already had the size asked for: both directions copy it."""

_SHIPPED = Path(__file__).with_name("weights")
# The first is what Rescaler() takes: it restores 1 dB less in a fifth of the time.
_DEFAULTS = ("aidn-small", "aidn")
_FOR_LOSSY = "aidn-plus"
_SSIM_WINDOW = 11
_SHARE_OF_MEMORY = 0.8  # convolutions take some for themselves
_SMALLEST_TILE = 64  # HR pixels: below, what tiles overlap by is most of the work


class RescaleWarning(UserWarning):
    """The result is likely to be poor, or to take long, and why."""


@dataclass(frozen=True, eq=False)
class LRImage:
    """A downscaled picture with what is needed to restore it.

    ``np.asarray(lr)`` gives its pixels.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        info: network, scale, original size and fingerprint of the weights.
    """

    pixels: Pixels
    info: LRInfo

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.pixels, dtype=dtype, copy=copy)


@dataclass(frozen=True)
class Quality:
    """How close a restored picture is to the original.

    PSNR in dB (infinite for equal pictures) and SSIM, of 8-bit pixels without a border of
    ``ceil(scale)``: over R, G and B, and of Y as in MATLAB's ``rgb2ycbcr`` (BT.601, 16 to 235).
    """

    psnr: float
    ssim: float
    psnr_y: float
    ssim_y: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """A round trip beside that of bicubic interpolation.

    Bicubic is antialiased, with the true scale in both directions and 8 bits between. Pictures are
    uint8 RGB arrays.

    Attributes:
        hr: (H, W, 3), the original in 8 bits.
        lr: the network's LR image.
        restored: (H, W, 3), restored from ``lr``.
        bicubic_lr: (h, w, 3), bicubic's LR image.
        bicubic: (H, W, 3), restored from ``bicubic_lr`` by bicubic.
        quality: of ``restored``.
        bicubic_quality: of ``bicubic``.
        lr_psnr: LR fidelity, the PSNR of ``lr`` against ``bicubic_lr``, RGB, dB.
        lr_psnr_y: the same for Y.
        seconds_down: time that downscaling took.
        seconds_up: time that restoring took.
    """

    hr: Pixels
    lr: LRImage
    restored: Pixels
    bicubic_lr: Pixels
    bicubic: Pixels
    quality: Quality
    bicubic_quality: Quality
    lr_psnr: float
    lr_psnr_y: float
    seconds_down: float
    seconds_up: float


class Rescaler:
    """AIDN or VQIR with its weights, for pictures as arrays.

    Args:
        weights: a weights file (``.safetensors``, ``.pth``, ..), or the name of weights that come
            with this package; by default ``'aidn-small'``. They decide which network it is.
        device: ``'auto'`` takes the GPU where there is one.
        precision: ``'bf16'`` computes in bfloat16 where that is safe: a little less exact, and
            faster on devices that have instructions for it.
            ``'fp32'`` is fp32 on a GPU as well, not TF32: results are those of a CPU up to
            rounding.
        method: ``'aidn'``, ``'vqir16'`` or ``'vqir32'``, where only that will do.
        tile: side of the tiles that a picture is computed in, in HR pixels: memory then does not
            grow with the picture. None: the picture as a whole. ``'auto'``: that for small ones,
            tiles for larger ones: those that 80 % of the free memory of the GPU does not suffice
            for, and on a CPU those above 1 megapixel (VQIR: 2). AIDN's tiles make no difference
            to the result; VQIR's make a small one.
        progress: whether tiles show a bar, if the standard error output is a terminal; or what is
            told of every tile instead: ``'Downscaling'`` or ``'Restoring'``, and the share of it.
        compile: whether to compile the network with the first pictures, which takes a minute or
            more: for many pictures. These are taken whole (``tile=None``) and on a GPU, since
            tiles, and AIDN on a CPU, are computed in another way.

    Attributes:
        fingerprint: tells these weights from others; LR images carry it.

    Warns:
        RescaleWarning: ``precision`` is ``'bf16'``, which the device has no instructions for.

    Raises:
        FileNotFoundError: no such weights.
        ValueError: the weights are of neither network, or not of ``method``; or ``device``,
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
        precision: Precision = "fp32",
        method: str | None = None,
        tile: Tile = "auto",
        progress: bool | Progress = False,
        compile: bool = False,
    ) -> None:
        if method is not None and method not in METHODS:
            raise ValueError(f"method {method!r} is unknown: valid are {', '.join(METHODS)}")
        if precision not in get_args(Precision):
            raise ValueError(f"precision {precision!r} is unknown: valid are fp32, bf16")
        if not (tile in ("auto", None) or (isinstance(tile, int) and tile >= 1)):
            raise ValueError(f"tile is {tile!r}: valid are auto, None, a number of pixels from 1")
        self.device = _torch_device(device)
        if compile and (self.device.type != "cuda" or tile is not None):
            raise ValueError("compile is for whole pictures on a GPU: it needs one, and tile none")
        if precision == "bf16" and not bfloat16_is_native(self.device):
            warnings.warn(f"precision {SLOW_BFLOAT16}", RescaleWarning, stacklevel=2)
        self.precision = precision
        self.tile = tile
        self.progress = progress
        path = _weights_path(weights, method)
        self.method, self.fingerprint = _load(path)
        if method not in (None, self.method.name):
            raise ValueError(f"{path}: weights of {self.method.name}, not of {method}")
        self.method.network.to(self.device)
        if self.device.type == "cuda":
            channels_last(self.method.network)
        if compile:
            compile_for_inference(self.method.network)

    def downscale(
        self, image: ArrayLike, scale: Scale | None = None, *, size: Size | None = None
    ) -> LRImage:
        """Downscales a picture, by a factor or to a size.

        Args:
            image: (H, W, 3) RGB or (H, W) grey; uint8, uint16, or float in [0, 1].
            scale: factor in (1, 4], or a pair (vertical, horizontal) of factors in [1, 4]. VQIR
                has one factor only, which may be left out.
            size: (h, w) of the LR image instead (AIDN). The sides may shrink by different factors,
                up to 4 each. A picture that has this size already comes back as it is.

        Raises:
            ValueError: the picture is too small (AIDN: 8 x 8 pixels, VQIR: the factor) or no such
                array, or the scale or size is out of range, or both are given.
        """
        if scale is not None and size is not None:
            raise ValueError("give either scale or size")
        array = _checked(image)
        height, width = array.shape[:2]
        if size is not None:
            if self.method.name != "aidn":
                raise ValueError(f"{self.method.name} has one factor: it cannot aim at a size")
            scale = _scale_for((height, width), size, self.method.max_scale)
            if scale == UNCHANGED:
                return self._lr_image(_eight_bit(array), scale, (height, width))
        pair = self.method.scale(scale)
        pixels = self._downscaled(array, pair)
        return self._lr_image(pixels, pair, (height, width))

    def upscale(
        self, lr: LRImage | ArrayLike, scale: Scale | None = None, size: Size | None = None
    ) -> Pixels:
        """Restores the picture that ``lr`` was made from.

        Args:
            lr: what :meth:`downscale` returned, or an array of its pixels.
            scale: with an array: what it was downscaled by (VQIR: may be left out).
            size: with an array: (H, W) of the original.

        Returns:
            (H, W, 3) uint8 RGB.

        Warns:
            RescaleWarning: ``lr`` was made with other weights.

        Raises:
            ValueError: ``scale`` and ``size`` are missing or superfluous, out of range, or do not
                agree with the size of ``lr``; or another network made ``lr``.
        """
        if isinstance(lr, LRImage):
            if scale is not None or size is not None:
                raise ValueError("scale and size are known from the LR image: leave them out")
            if lr.info.network != self.method.name:
                raise ValueError(
                    f"made by the network {lr.info.network!r}, the weights are "
                    f"{self.method.name!r}'s"
                )
            pair, size = lr.info.scale, lr.info.size
            array = _checked(lr.pixels)
        elif size is None or (scale is None and self.method.name == "aidn"):
            raise ValueError("an array does not tell how it was made: give scale and size")
        else:
            pair = self.method.scale(scale)
            array = _checked(lr)
        unchanged = pair == UNCHANGED
        expected = size if unchanged else self.method.lr_size(size, pair)
        height, width = array.shape[:2]
        if (height, width) != tuple(expected):
            raise ValueError(
                f"is {width}x{height}, but the LR image of {size[1]}x{size[0]} at scale "
                f"{_scale_text(pair)} is {expected[1]}x{expected[0]}"
            )
        if unchanged:
            return _eight_bit(array)
        if isinstance(lr, LRImage) and lr.info.weights != self.fingerprint:
            warnings.warn(
                f"made with the weights {lr.info.weights}, restored with {self.fingerprint}: "
                "expect a poor result",
                RescaleWarning,
                stacklevel=2,
            )
        return self._restored(array, pair, size)

    def compare(self, image: ArrayLike, scale: Scale | None = None) -> Comparison:
        """Downscales and restores a picture, and does the same by bicubic interpolation.

        Args:
            image: as for :meth:`downscale`; taken in 8 bits.
            scale: as for :meth:`downscale`.

        Raises:
            ValueError: as :meth:`downscale`, or the picture is too small for figures: SSIM needs
                11 x 11 pixels inside of the border.
        """
        hr = _eight_bit(_checked(image))
        pair = self.method.scale(scale)
        size = (hr.shape[0], hr.shape[1])
        border = math.ceil(max(pair))
        small = self.method.lr_size(size, pair)
        lr_border = border if self.method.name == "aidn" else 1  # a 16th of it would be nothing
        if min(size) < _SSIM_WINDOW + 2 * border or min(small) <= 2 * lr_border:
            raise ValueError(
                f"is {size[1]}x{size[0]}: too small for figures at scale {_scale_text(pair)}"
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
            quality=picture_quality(hr, restored, border),
            bicubic_quality=picture_quality(hr, bicubic, border),
            lr_psnr=_psnr(bicubic_lr, lr.pixels, lr_border),
            lr_psnr_y=_psnr(bicubic_lr, lr.pixels, lr_border, y=True),
            seconds_down=middle - start,
            seconds_up=end - middle,
        )

    def bicubic(self, image: ArrayLike, size: Size, scale: Scale) -> Pixels:
        """Resizes a picture as MATLAB's ``imresize`` does, antialiased where it shrinks.

        Args:
            image: as for :meth:`downscale`.
            size: (h, w) of the result.
            scale: factor of enlargement, or a pair (vertical, horizontal).

        Returns:
            (h, w, 3) uint8 RGB.

        Raises:
            ValueError: no such array.
        """
        return _pixels(imresize(self._tensor(_checked(image)), size, scale))

    def _lr_image(self, pixels: Pixels, scale: tuple[float, float], size: Size) -> LRImage:
        return LRImage(pixels, LRInfo(self.method.name, scale, size, self.fingerprint))

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        chw = np.array(array.transpose(2, 0, 1), order="C")
        samples = chw if chw.dtype == np.uint8 else to_float(chw)
        return to_unit_range(torch.from_numpy(samples)[None].to(self.device))

    def _downscaled(self, array: NDArray[Any], scale: tuple[float, float]) -> Pixels:
        size = (array.shape[0], array.shape[1])
        tile = self._tile(size)
        with self._computing(size):
            if tile is None:
                return _pixels(self.method.downscale(self._tensor(array), scale))
            return self._in_tiles(
                "Downscaling",
                lambda read, write: self.method.downscale_tiles(size, scale, read, write, tile),
                array,
                self.method.lr_size(size, scale),
            )

    def _restored(self, array: NDArray[Any], scale: tuple[float, float], size: Size) -> Pixels:
        tile = self._tile(size)
        with self._computing(size):
            if tile is None:
                return _pixels(self.method.upscale(self._tensor(array), scale, size))
            return self._in_tiles(
                "Restoring",
                lambda read, write: self.method.upscale_tiles(size, scale, read, write, tile),
                array,
                size,
            )

    def _tile(self, size: Size) -> int | None:
        """The tile to compute a picture of ``size`` in, if not as a whole."""
        if self.tile != "auto":
            return self.tile
        return None if size[0] * size[1] <= self._largest_whole() else self.method.tile

    def _largest_whole(self) -> int:
        """Pixels of the largest image that is computed as a whole unless told otherwise."""
        if self.device.type != "cuda":
            return self.method.whole
        fits = int(_SHARE_OF_MEMORY * _free_gpu_memory(self.device) / self.method.bytes_per_pixel)
        # kernels index features by 32 bits
        return min(fits, (2**31 - 1) // self.method.width)

    def _in_tiles(
        self, step: str, work: Callable[[Read, Write], None], array: NDArray[Any], size: Size
    ) -> Pixels:
        """Collects what ``work`` writes, in 8 bits: no picture is in floating point as a whole."""
        result = np.empty((*size, 3), np.uint8)
        hidden = None if self.progress is True else True  # None: where there is no terminal
        tell = self.progress if callable(self.progress) else None
        done = 0
        with tqdm(
            total=size[0] * size[1], unit="px", unit_scale=True, leave=False, disable=hidden
        ) as bar:

            def read(top: int, left: int, bottom: int, right: int) -> Tensor:
                return self._tensor(array[top:bottom, left:right])

            def write(top: int, left: int, pixels: Tensor) -> None:
                nonlocal done
                height, width = pixels.shape[-2:]
                result[top : top + height, left : left + width] = _pixels(pixels)
                bar.update(height * width)
                done += height * width
                if tell is not None:
                    tell(step, done / (size[0] * size[1]))

            work(read, write)
        return result

    @contextmanager
    def _computing(self, size: Size) -> Iterator[None]:
        """Computes without gradients, in the precision, and tells where memory does not suffice."""
        bf16 = self.precision == "bf16"
        try:
            with (
                torch.inference_mode(),
                inference_kernels(),
                torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16),
            ):
                yield
        except (RuntimeError, MemoryError) as error:
            # On the CPU, PyTorch has no class of its own for this.
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
        """Advice for an image of ``size`` that memory did not suffice for, if there is any."""
        current = self._tile(size)
        side = max(size) if current is None else min(current, max(size))
        if side < 2 * _SMALLEST_TILE:
            return ""
        advised = min(1 << (side // 2).bit_length() - 1, self.method.tile)
        kind = "tiles" if current is None else "smaller tiles"
        return f": {kind} need less of it (--tile {advised}; in Python, tile={advised})"


def shipped_weights() -> list[str]:
    """Names of the weights that come with this package, the default first."""
    names = [path.stem for path in _SHIPPED.glob("*.safetensors")]
    rank = {name: index for index, name in enumerate(_DEFAULTS)}
    return sorted(names, key=lambda name: (rank.get(name, len(rank)), name))


def default_weights(lossless: bool = True) -> str | None:
    """Name of the shipped weights for LR images that are stored so, if there are any.

    Where the file does not say what made it, they are the best guess: downscaling and restoring
    again tells nothing, since the more a network restores, the nearer it comes to any LR image.
    """
    names = shipped_weights()
    if not lossless and _FOR_LOSSY in names:
        return _FOR_LOSSY
    return names[0] if names else None


def weights_with(mark: str) -> str | None:
    """Name of the shipped weights whose fingerprint is ``mark``, if there are any."""
    return next((name for name in shipped_weights() if _shipped_fingerprint(name) == mark), None)


@cache
def _shipped_fingerprint(name: str) -> str:
    return fingerprint(canonical_weights(read_weights(_SHIPPED / f"{name}.safetensors")))


def _free_gpu_memory(device: torch.device) -> int:
    """Bytes that PyTorch can get on ``device``, from the driver or of what it keeps for reuse."""
    free, _ = torch.cuda.mem_get_info(device)
    kept: int = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + kept


def _torch_device(device: str) -> torch.device:
    if device not in get_args(Device):
        raise ValueError(f"device {device!r} is unknown: valid are auto, cpu, cuda")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise ValueError("device cuda is not available: PyTorch finds no GPU; use auto or cpu")
    return torch.device("cuda" if available and device != "cpu" else "cpu")


def _weights_path(weights: str | os.PathLike[str] | None, method: str | None) -> Path:
    """The file that ``weights`` stands for: itself, or one that comes with this package."""
    shipped = shipped_weights()
    if weights is None and method not in (None, "aidn"):
        raise FileNotFoundError(f"no weights for {method} come along: name a file with --weights")
    if weights is None:
        if shipped:
            return _SHIPPED / f"{shipped[0]}.safetensors"
        raise FileNotFoundError(
            "no weights come with this installation: name a file with --weights, "
            "or train one with `rescale train`"
        )
    path = Path(weights)
    if not path.is_file():
        if str(weights) in shipped:
            return _SHIPPED / f"{weights}.safetensors"
        names = ", ".join(shipped) or "none"
        raise FileNotFoundError(
            f"{path}: no such weights file, nor the name of shipped weights (there are: {names})"
        )
    return path


def _load(path: Path) -> tuple[Method, str]:
    """The method of a weights file, ready for use, and the weights' fingerprint."""
    checkpoint = read_weights(path)
    try:
        weights = canonical_weights(checkpoint)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return load_method(weights, checkpoint.get("config", {}), str(path)), fingerprint(weights)


def _checked(image: ArrayLike) -> NDArray[Any]:
    """``image`` as (H, W, 3), its samples untouched."""
    array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None].repeat(3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ValueError(f"picture has shape {array.shape}: (H, W, 3) RGB or (H, W) is needed")
    if array.dtype not in (np.uint8, np.uint16):
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"picture is {array.dtype}: uint8, uint16 or float is needed")
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # also true for NaN
            raise ValueError(f"picture has samples from {low:g} to {high:g}: [0, 1] is needed")
    return array


def _eight_bit(array: NDArray[Any]) -> Pixels:
    if array.dtype == np.uint8:
        return array
    pixels = np.empty(array.shape, np.uint8)
    for row, samples in zip(pixels, array, strict=True):  # a float copy of a row at a time
        row[:] = (to_float(samples) * 255).round()
    return pixels


def _pixels(tensor: Tensor) -> Pixels:
    """A (1, 3, H, W) tensor as the (H, W, 3) uint8 array that a file holds."""
    rounded = tensor[0].float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return rounded.permute(1, 2, 0).contiguous().cpu().numpy()


def _scale_for(size: Size, target: Size, largest: float) -> tuple[float, float]:
    """Factors (vertical, horizontal) that bring ``size`` to ``target``."""
    least = (math.ceil(size[0] / largest), math.ceil(size[1] / largest))
    if not (least[0] <= target[0] <= size[0] and least[1] <= target[1] <= size[1]):
        raise ValueError(
            f"cannot bring {size[1]}x{size[0]} to {target[1]}x{target[0]}: each side shrinks by a "
            f"factor of {largest:g} at most, here to {least[1]}x{least[0]}, and never grows"
        )
    return size[0] / target[0], size[1] / target[1]


def _scale_text(scale: Scale) -> str:
    vertical, horizontal = as_pair(scale)
    return f"{vertical:g}" if vertical == horizontal else f"{vertical:g}x{horizontal:g}"


def picture_quality(reference: Pixels, other: Pixels, border: int) -> Quality:
    """How close (H, W, 3) ``other`` is to ``reference``, without ``border`` pixels on each side."""
    return Quality(
        psnr=_psnr(reference, other, border),
        ssim=_ssim(reference, other, border),
        psnr_y=_psnr(reference, other, border, y=True),
        ssim_y=_ssim(reference, other, border, y=True),
    )


# BasicSR's own functions, so that figures agree with those of its test runner. Importing them takes
# seconds, for which restoring a file must not wait. They take BGR.
def _psnr(reference: Pixels, other: Pixels, border: int, *, y: bool = False) -> float:
    from basicsr.metrics.psnr_ssim import calculate_psnr

    return float(calculate_psnr(reference[..., ::-1], other[..., ::-1], border, test_y_channel=y))


def _ssim(reference: Pixels, other: Pixels, border: int, *, y: bool = False) -> float:
    from basicsr.metrics.psnr_ssim import calculate_ssim

    return float(calculate_ssim(reference[..., ::-1], other[..., ::-1], border, test_y_channel=y))

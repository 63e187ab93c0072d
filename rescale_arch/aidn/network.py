"""AIDN: arbitrary-scale invertible image downscaling.

Paper: Scale-Arbitrary Invertible Image Downscaling, IEEE TIP 2023, arXiv 2201.12576.
Written from the paper; state-dict entries have the names of the authors' release, whose weights
load without conversion. Extensions: different factors for the two axes, fixed-scale networks for
sides that are not multiples of the factor, and a ``down_net`` at reduced resolution.
"""

from __future__ import annotations

from collections.abc import Callable

from rescale_compat.errors import RescaleError

from torch import Tensor, nn
from torch.nn import functional as F

from rescale_arch.aidn.arguments import FixedScale, check_arguments
from rescale_arch.aidn.conditional_resampling import Sampling
from rescale_arch.aidn.differentiable_jpeg import DifferentiableJPEG
from rescale_arch.aidn.engines import Engine, rescale
from rescale_arch.aidn.tiling import mirrored, rescale_in_bands
from rescale_arch.aidn.trunk import RescalingTrunk, sub_pixel_down, sub_pixel_up
from rescale_arch.images import check_image
from rescale_arch.regions import Read, Write
from rescale_arch.rounding import Quantization, quantize
from rescale_arch.scales import Scale, Size, lr_size, scale_pair

MIN_SIDE = 8


class AIDN(nn.Module):
    r"""Downscales an image by any factor in (1, 4] and restores it from the small image.

    ::

        hr ──> down_net(·, 1/s) ──> lr ──> quantize [──> JPEG] ──> up_net(·, s) ──> restored
                                    └── the LR guide loss sees this, unclamped

        each net:  mean shift ─> head ─┬─> n residual blocks, after every K ─> conv ─(+)
                                       │   of them a scale adaption                ^  │
                                       └───────────────────────────────────────────┘  │
                                 mean shift <─ conv <─ conditional resampling (CRM) <─┘

    The defaults are the paper's network (3,775,362 parameters). At 2.5, six sevenths of its work
    are ``down_net``, whose features have the HR image's size. With ``down_unshuffle=2``, they have
    half its height and width: a pixel unshuffle (space to depth) precedes the head, and the CRM
    resamples by ``2/s`` instead of ``1/s``, that is, upsamples where s < 2.

    Args:
        num_feat: C, channels of the trunk; a multiple of 8.
        num_block: n, residual blocks of each net.
        adapt_interval: K, blocks per scale adaption.
        num_adapt_expert: experts of a scale adaption.
        num_crm_expert: experts of the conditional resampling.
        res_scale: factor of the residual branches.
        fixed_scale: None for any factor; 2, 3 or 4 for the variant that the paper pre-trains at x4,
            with sub-pixel convolution instead of the CRM and without scale adaption.
        quantization: gradient of the 8-bit rounding, ``'round_soft'`` or ``'ste'`` (see
            :func:`rescale_arch.rounding.quantize`); None: the LR image is not rounded.
        jpeg_quality: 1 to 100 adds a differentiable JPEG (4:2:0) of that quality after the rounding
            (AIDN+, quality 90). None: no JPEG.
        down_unshuffle: factor, 1 to 4, of the pixel unshuffle in front of the head of ``down_net``.
            1: none, as in the paper. Requires ``fixed_scale=None``.
        down_num_feat: C of ``down_net``, a multiple of 8; None: ``num_feat``.

    Attributes:
        engine: how a direction is computed. ``'layers'``: layer by layer on the whole image.
            ``'strips'``: all layers on one strip of rows after another, which needs little memory
            and is several times as fast on a CPU, but supports neither gradients nor batch
            statistics nor forward hooks. ``'auto'`` (default): strips on a CPU in evaluation mode
            without gradients, layers otherwise. Results agree up to rounding.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> net = AIDN().eval()
        >>> lr = net.downscale(hr, 2.5)                          # doctest: +SKIP
        >>> restored = net.upscale(quantize(lr), 2.5, size=hr.shape[-2:])  # doctest: +SKIP
    """

    def __init__(
        self,
        num_feat: int = 64,
        num_block: int = 16,
        adapt_interval: int = 4,
        num_adapt_expert: int = 4,
        num_crm_expert: int = 8,
        res_scale: float = 1.0,
        fixed_scale: FixedScale | None = None,
        quantization: Quantization | None = "round_soft",
        jpeg_quality: int | None = None,
        down_unshuffle: int = 1,
        down_num_feat: int | None = None,
    ) -> None:
        super().__init__()
        widths = {
            "down_num_feat": num_feat if down_num_feat is None else down_num_feat,
            "num_feat": num_feat,
        }
        counts = {
            "num_block": num_block,
            "adapt_interval": adapt_interval,
            "num_adapt_expert": num_adapt_expert,
            "num_crm_expert": num_crm_expert,
        }
        check_arguments(widths, counts, fixed_scale, quantization, jpeg_quality, down_unshuffle)
        self.fixed_scale = fixed_scale
        self.quantization = quantization
        self.jpeg_quality = jpeg_quality
        self._jpeg = DifferentiableJPEG()

        self.engine: Engine = "auto"
        trunks = []
        for width, unshuffle, sub_pixel in zip(
            widths.values(), (down_unshuffle, 1), (sub_pixel_down, sub_pixel_up), strict=True
        ):
            if fixed_scale is None:
                experts = num_adapt_expert, num_crm_expert
                trunk = RescalingTrunk.any_scale(
                    width, num_block, res_scale, adapt_interval, *experts, unshuffle
                )
            else:
                trunk = RescalingTrunk(width, num_block, res_scale, sub_pixel(width, fixed_scale))
            trunks.append(trunk)
        self.down_net, self.up_net = trunks

    def downscale(self, hr: Tensor, scale: Scale | None = None) -> Tensor:
        """Downscales ``hr`` by ``scale``.

        Args:
            hr: RGB in [0, 1].
            scale: factor in (1, 4], or a pair (vertical, horizontal) of factors in [1, 4].
                Optional with ``fixed_scale``.

        Returns:
            The LR image before quantization: roughly in [0, 1], not clamped.

        Shape:
            (B, 3, H, W) -> (B, 3, h, w), (h, w) = ``lr_size((H, W), scale)``

        Raises:
            ValueError: ``hr`` is not a batch of RGB images of at least 8 x 8 pixels, or ``scale``
                is out of range.
        """
        check_image(hr, "hr", MIN_SIDE)
        vertical, horizontal = self.factors(scale)
        size = lr_size((hr.shape[-2], hr.shape[-1]), (vertical, horizontal))
        if self.fixed_scale is not None:
            bottom = size[0] * self.fixed_scale - hr.shape[-2]
            right = size[1] * self.fixed_scale - hr.shape[-1]
            hr = F.pad(hr, (0, right, 0, bottom), mode="reflect")
        return rescale(self.down_net, hr, (1 / vertical, 1 / horizontal), size, self.engine)

    def upscale(self, lr: Tensor, scale: Scale | None = None, *, size: Size) -> Tensor:
        """Restores the HR image from the (quantized) LR image.

        Args:
            lr: RGB in [0, 1], computed by :meth:`downscale` with the same scale.
            scale: the true factor that ``lr`` was downscaled by. The ratio of the sides is off by
                up to a pixel, which costs several dB.
            size: (H, W) of the HR image.

        Returns:
            The restored image: roughly in [0, 1], not clamped.

        Shape:
            (B, 3, h, w) -> (B, 3, H, W)

        Raises:
            ValueError: ``lr`` is not a batch of RGB images, does not have the size implied by
                ``size`` and ``scale``, or ``scale`` is out of range.
        """
        check_image(lr, "lr", 1)
        pair = self.factors(scale)
        self.check_size(size)
        expected = lr_size(size, pair)
        if tuple(lr.shape[-2:]) != expected:
            raise RescaleError(
                f"lr is {lr.shape[-2]} x {lr.shape[-1]} (height x width), but size {tuple(size)} "
                f"at scale {pair[0]:g} x {pair[1]:g} has an LR image of "
                f"{expected[0]} x {expected[1]}"
            )
        restored = rescale(self.up_net, lr, pair, size, self.engine)
        return restored[..., : size[0], : size[1]]

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

        The result equals the window of :meth:`upscale`, up to rounding, if the part contains the
        network's receptive field; a smaller margin changes pixels near the edges of the part.

        Args:
            lr: part of the LR image, (B, 3, h', w').
            scale: see :meth:`upscale`.
            size: (H, W) of the whole HR image.
            corner: (top, left) of the part in the LR image.
            window: (top, left, bottom, right) in the HR image.

        Returns:
            (B, 3, bottom - top, right - left), not clamped.
        """
        top, left, bottom, right = window
        factors = self.factors(scale)
        if self.fixed_scale is None:
            # the last convolution needs one more pixel on each side
            first = max(top - 1, 0), max(left - 1, 0)
            outer = (*first, min(bottom + 1, size[0]), min(right + 1, size[1]))
            sampling = Sampling.of_window(factors, outer, corner, lr)
        else:
            first = corner[0] * self.fixed_scale, corner[1] * self.fixed_scale
            sampling = Sampling.of(factors, (0, 0), lr)  # not used beyond the ratio
        out: Tensor = self.up_net(lr, sampling)
        return out[..., top - first[0] : bottom - first[0], left - first[1] : right - first[1]]

    def downscale_tiles(
        self, size: Size, scale: Scale | None, read: Read, write: Write, tile: int
    ) -> None:
        """Downscales an image region by region, without having it in memory as a whole.

        The result equals that of :meth:`downscale`, up to rounding.

        Args:
            size: (H, W) of the HR image.
            scale: see :meth:`downscale`.
            read: reads a region of the HR image to the device of the network.
            write: receives finished regions of the LR image, not clamped; every pixel once.
            tile: width of a band in HR pixels. A wider band needs more memory but is faster, since
                about 55 additional columns of features are computed on each side of a band.

        Raises:
            ValueError: see :meth:`downscale`; also if the network is in training mode, or ``tile``
                is below 1.
        """
        factors, small = self._geometry(size, scale, tile)
        if self.fixed_scale is not None:
            read = mirrored(read, size, self.fixed_scale)
            size = small[0] * self.fixed_scale, small[1] * self.fixed_scale
        ratio = 1 / factors[0], 1 / factors[1]
        band = max(int(tile / factors[1]), 1)
        rescale_in_bands(self.down_net, ratio, size, small, band, read, write)

    def upscale_tiles(
        self, size: Size, scale: Scale | None, read: Read, write: Write, tile: int
    ) -> None:
        """Restores an image region by region, without having it in memory as a whole.

        The result equals that of :meth:`upscale`, up to rounding.

        Args:
            size: (H, W) of the HR image.
            scale: see :meth:`upscale`.
            read: reads a region of the LR image to the device of the network.
            write: receives finished regions of the HR image, not clamped; every pixel once.
            tile: width of a band in HR pixels.

        Raises:
            ValueError: see :meth:`downscale_tiles`.
        """
        factors, small = self._geometry(size, scale, tile)
        rescale_in_bands(self.up_net, factors, small, size, tile, read, write)

    def forward(
        self,
        hr: Tensor,
        scale: Scale | None = None,
        channel: Callable[[Tensor], Tensor] | None = None,
        *,
        restore: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """The round trip for training: (LR image before quantization, restored image).

        Args:
            hr: see :meth:`downscale`.
            scale: see :meth:`downscale`.
            channel: what the quantized LR image goes through before it is restored, as a function
                with a gradient; None: the JPEG of ``jpeg_quality``, if any.
            restore: False computes only the LR image, and returns None for the other.

        Shape:
            (B, 3, H, W) -> (B, 3, h, w), (B, 3, H, W)
        """
        lr = self.downscale(hr, scale)
        if not restore:
            return lr, None
        stored = lr if self.quantization is None else quantize(lr, self.quantization)
        if channel is not None:
            stored = channel(stored)
        elif self.jpeg_quality is not None:
            stored = self._jpeg(stored, self.jpeg_quality)
        return lr, self.upscale(stored, scale, size=(hr.shape[-2], hr.shape[-1]))

    @staticmethod
    def check_size(size: Size) -> None:
        """Raises ValueError if a side of an HR image of ``size`` is below 8 pixels."""
        if min(size) < MIN_SIDE:
            raise RescaleError(f"size {tuple(size)} has a side below {MIN_SIDE} pixels")

    def lr_size(self, size: Size, scale: Scale | None = None) -> Size:
        """Size (h, w) of the LR image of an HR image of ``size`` (H, W).

        Raises:
            ValueError: see :meth:`factors`.
        """
        return lr_size(size, self.factors(scale))

    def factors(self, scale: Scale | None) -> tuple[float, float]:
        """The factors (vertical, horizontal) of ``scale``.

        Raises:
            ValueError: ``scale`` is out of range, or missing without ``fixed_scale``.
        """
        if self.fixed_scale is None:
            if scale is None:
                raise RescaleError(
                    "scale is missing: only a network with fixed_scale has a default"
                )
            return scale_pair(scale)
        fixed = float(self.fixed_scale)
        if scale is not None and scale_pair(scale) != (fixed, fixed):
            raise RescaleError(f"scale is {scale}, but this network has fixed_scale {fixed:g}")
        return fixed, fixed

    def _geometry(
        self, size: Size, scale: Scale | None, tile: int
    ) -> tuple[tuple[float, float], Size]:
        """The factors of ``scale`` and the size of the LR image."""
        self.check_size(size)
        if tile < 1:
            raise RescaleError(f"tile is {tile}: expected at least 1")
        factors = self.factors(scale)
        return factors, lr_size(size, factors)

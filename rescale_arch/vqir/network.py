"""VQIR: extreme image rescaling, by a factor of 16 or 32.

Paper: Towards Extreme Image Rescaling with Generative Prior and Invertible Prior, IEEE TCSVT 2024.
Written from the paper; state-dict entries have the names of the authors' release, whose unused
entries are dropped. Differences: images of any size, in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal, NamedTuple, Self, get_args

from rescale_compat.errors import RescaleError

import torch
from torch import Tensor, nn

from rescale_arch.images import check_image, from_unit, pad_to_multiple, to_unit
from rescale_arch.regions import Read, Write
from rescale_arch.rounding import quantize, rounding_noise
from rescale_arch.scales import Scale, Size, fixed_scale_pair
from rescale_arch.vqgan.network import VectorQuantizedAutoencoder
from rescale_arch.vqgan.vector_quantizer import straight_through
from rescale_arch.vqir.feature_recovery import Factor, FeatureRecovery
from rescale_arch.vqir.refinement import Refinement
from rescale_arch.vqir.tiling import TileGrid, blend_tiles

Stage = Literal[1, 2]
_VQ_FACTOR = 16
_HALVINGS = 5  # of the number of channels, from the codes to the LR image


class Recovered(NamedTuple):
    """The outputs that stage 1 is trained on."""

    lr: Tensor
    """LR image before rounding: (B, 3, h, w), around [0, 1]. Input of the guide loss."""
    zq: Tensor
    """Codes of the HR image, (B, embed_dim, H/16, W/16); without gradient."""
    zb: Tensor
    """Codes recovered from the LR image, of the same shape; before quantisation."""


class Levels(NamedTuple):
    """The images that stage 2 restores: around [0, 1], not clamped."""

    full: Tensor
    """(B, 3, H, W), the restored HR image (the paper's Level_1)."""
    half: Tensor
    """(B, 3, ceil(H / 2), ceil(W / 2)) (Level_2)."""
    quarter: Tensor
    """(B, 3, ceil(H / 4), ceil(W / 4)) (Level_4)."""


class VQIR(VectorQuantizedAutoencoder):
    r"""Downscales an image by a factor of 16 or 32 and restores it from the small image.

    ::

        hr ─> encoder ─> nearest code ─> zq ─> icrm ────────> lr ─> round to 8 bits ─┐
                                                                                     │
        restored <─ decoder <─ nearest code <─ zb <─ icrm in reverse <───────────────┘
                       │
                       └─ features ─> refine ─> 1/4, 1/2, restored                 (stage 2)

    Stage 1 trains ``icrm`` (the paper's invertible feature recovery module, IFRM), stage 2
    ``refine`` (multi-scale refinement module, MSRM). All other parts are frozen: they have no
    gradients, stay in evaluation mode and keep no activations, so no gradient reaches ``hr``
    either.

    ``ch``, ``ch_mult``, ``num_res_blocks``, ``z_channels``, ``n_embed`` and ``embed_dim`` are named
    as in the authors' configuration, where ``in_channels`` and ``out_channels`` must be 3 and
    ``double_z`` false.

    Args:
        factor: HR side over LR side, 16 or 32.
        stage: 1 or 2.
        ch: see :class:`~rescale_arch.VQGAN`.
        ch_mult: five numbers, since VQIR builds on a VQGAN with a factor of 16.
        num_res_blocks: see :class:`~rescale_arch.VQGAN`.
        attn_resolutions: see :class:`~rescale_arch.VQGAN`.
        resolution: see :class:`~rescale_arch.VQGAN`.
        z_channels: see :class:`~rescale_arch.VQGAN`.
        embed_dim: a multiple of 32 here.
        n_embed: see :class:`~rescale_arch.VQGAN`.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> net = VQIR(factor=16, stage=2).eval()
        >>> lr = net.round_lr(net.downscale(hr))                 # doctest: +SKIP
        >>> restored = net.upscale(lr, size=hr.shape[-2:])       # doctest: +SKIP
    """

    def __init__(
        self,
        factor: Factor = 16,
        stage: Stage = 1,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        resolution: int = 256,
        z_channels: int = 256,
        embed_dim: int = 256,
        n_embed: int = 1024,
    ) -> None:
        super().__init__(
            ch,
            ch_mult,
            num_res_blocks,
            attn_resolutions,
            resolution,
            z_channels,
            embed_dim,
            n_embed,
        )
        if factor not in get_args(Factor):
            raise RescaleError(f"factor is {factor!r}: expected one of 16, 32")
        if stage not in get_args(Stage):
            raise RescaleError(f"stage is {stage!r}: expected one of 1, 2")
        if self.vq_factor != _VQ_FACTOR:
            raise RescaleError(
                f"ch_mult is {tuple(ch_mult)}: expected five numbers, since VQIR builds on a VQGAN "
                f"of factor {_VQ_FACTOR}"
            )
        if embed_dim % 2**_HALVINGS:
            raise RescaleError(f"embed_dim is {embed_dim}: expected a multiple of {2**_HALVINGS}")
        self.factor = factor
        self.stage = stage
        self.icrm = FeatureRecovery(embed_dim, factor)
        self.refine = Refinement([ch * m for m in ch_mult[:3]]) if stage == 2 else None
        self.trained_part = "icrm" if stage == 1 else "refine"
        for name, part in self.named_children():
            part.requires_grad_(name == self.trained_part)

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that this stage trains: those of the child ``trained_part``."""
        return self.get_submodule(self.trained_part).parameters()

    def train(self, mode: bool = True) -> Self:
        """Sets the training mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for name, part in self.named_children():
            part.train(mode and name == self.trained_part)
        return self

    def factors(self, scale: Scale | None) -> tuple[float, float]:
        """The factor, for both axes.

        Raises:
            ValueError: ``scale`` is neither None nor the factor.
        """
        return fixed_scale_pair(scale, self.factor)

    def lr_size(self, size: Size, scale: Scale | None = None) -> Size:
        """Size (h, w) of the LR image for an HR image of ``size`` (H, W)."""
        self.factors(scale)
        return -(-size[0] // self.factor), -(-size[1] // self.factor)

    def downscale(self, hr: Tensor, scale: Scale | None = None) -> Tensor:
        """Downscales ``hr`` by the factor.

        Args:
            hr: RGB in [0, 1]; padded by reflection to multiples of the factor.
            scale: the factor, if given.

        Returns:
            The LR image before rounding: around [0, 1], not clamped.

        Shape:
            (B, 3, H, W) -> (B, 3, h, w), (h, w) = :meth:`lr_size` of (H, W)

        Raises:
            ValueError: ``hr`` is not a batch of RGB images of at least factor x factor pixels, or
                ``scale`` is not the factor.
        """
        self.factors(scale)
        return self._lr(self._codes(hr))

    def round_lr(self, lr: Tensor) -> Tensor:
        """The LR image as it is stored: clamped to [0, 1] and rounded to 8 bits.

        When stage 1 is trained, noise replaces the rounding (see
        :func:`~rescale_arch.rounding.rounding_noise`). Otherwise, the gradient is passed unchanged.
        """
        return rounding_noise(lr) if self.training and self.stage == 1 else quantize(lr, "ste")

    def upscale(self, lr: Tensor, scale: Scale | None = None, *, size: Size) -> Tensor:
        """Restores the HR image from the (rounded) LR image.

        Args:
            lr: RGB in [0, 1], computed by :meth:`downscale` with the same weights.
            scale: the factor, if given.
            size: (H, W) of the HR image.

        Returns:
            The restored image: around [0, 1], not clamped. In stage 1 it has no gradient, since the
            decoder is frozen; use :class:`Recovered` for training.

        Shape:
            (B, 3, h, w) -> (B, 3, H, W)

        Raises:
            ValueError: ``lr`` is not a batch of RGB images, does not have the size implied by
                ``size``, or ``scale`` is not the factor.
        """
        self.factors(scale)
        if self.stage == 2:
            return self.levels(lr, size=size).full
        self._check_lr(lr, size)
        with torch.no_grad():
            restored = to_unit(self.decoder(self._decoder_input(lr)))
        return restored[..., : size[0], : size[1]]

    def levels(self, lr: Tensor, *, size: Size) -> Levels:
        """Restores the image at three sizes; stage 2 only. For the arguments see :meth:`upscale`.

        Shape:
            (B, 3, h, w) -> :class:`Levels`

        Raises:
            ValueError: see :meth:`upscale`; also for a network of stage 1.
        """
        if self.refine is None:
            raise RescaleError("levels need a network of stage 2; this one has stage 1")
        self._check_lr(lr, size)
        images = self.refine(self._decoder_features(lr))
        sides = ((-(-size[0] // reduction), -(-size[1] // reduction)) for reduction in (1, 2, 4))
        return Levels(*(to_unit(x)[..., :h, :w] for x, (h, w) in zip(images, sides, strict=True)))

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

        The gradient passes the choice of the nearest code unchanged (straight-through). Group norm
        and attention see the part only, so the result differs slightly from that of the whole.

        Args:
            lr: part of the LR image, (B, 3, h', w').
            scale: the factor, or None.
            size: (H, W) of the whole HR image.
            corner: (top, left) of the part in the LR image.
            window: (top, left, bottom, right) in the HR image.

        Returns:
            (B, 3, bottom - top, right - left), not clamped.
        """
        self.factors(scale)
        recovered = self._recover(lr)
        z = self.post_quant_conv(straight_through(recovered, self.quantize(recovered)[0]))
        if self.refine is None:
            out = self.decoder(z)
        else:
            out = self.refine(islice(self.decoder.features(z), len(self.decoder.up) - 3, None))[0]
        top, left = window[0] - corner[0] * self.factor, window[1] - corner[1] * self.factor
        bottom, right = top + window[2] - window[0], left + window[3] - window[1]
        return to_unit(out[..., top:bottom, left:right])

    def downscale_tiles(
        self, size: Size, scale: Scale | None, read: Read, write: Write, tile: int
    ) -> None:
        """Downscales an image in blended tiles, without having it in memory as a whole.

        LR images are blended before rounding. For differences to :meth:`downscale`, see
        :mod:`rescale_arch.vqir.tiling`.

        Args:
            size: (H, W) of the HR image.
            scale: the factor, or None.
            read: reads a region of the HR image to the device of the network.
            write: receives finished regions of the LR image, not clamped; every pixel once.
            tile: side of a tile in HR pixels, excluding the overlap (up to 64 pixels on each side,
                less for small tiles). Rounded up to a multiple of the factor, at least four times
                the factor.

        Raises:
            ValueError: a side of ``size`` is below the factor, ``scale`` is not the factor, or
                ``tile`` is below 1.
        """
        self.factors(scale)
        grid = TileGrid(self.factor, size, tile)
        blend_tiles(grid, [self.factor], [write], lambda *window: [self.downscale(read(*window))])

    def upscale_tiles(
        self, size: Size, scale: Scale | None, read: Read, write: Write, tile: int
    ) -> None:
        """Restores an image in blended tiles, without having it in memory as a whole.

        Args:
            size: (H, W) of the HR image.
            scale: the factor, or None.
            read: reads a region of the rounded LR image to the device of the network.
            write: receives finished regions of the HR image, not clamped; every pixel once.
            tile: see :meth:`downscale_tiles`.

        Raises:
            ValueError: see :meth:`downscale_tiles`.
        """
        self.factors(scale)
        grid = TileGrid(self.factor, size, tile)
        blend_tiles(
            grid,
            [1],
            [write],
            lambda *window: [
                self.upscale(read(*grid.lr_window(*window)), size=grid.window_size(*window))
            ],
        )

    def levels_tiles(self, size: Size, read: Read, writes: Sequence[Write], tile: int) -> None:
        """Restores an image at full, half and quarter size in blended tiles; see :meth:`levels`.

        Args:
            size: (H, W) of the HR image.
            read: reads a region of the rounded LR image to the device of the network.
            writes: receive finished regions of the three images, the largest first.
            tile: see :meth:`downscale_tiles`.

        Raises:
            ValueError: see :meth:`downscale_tiles`; also for a network of stage 1.
        """
        grid = TileGrid(self.factor, size, tile)
        blend_tiles(
            grid,
            [1, 2, 4],
            writes,
            lambda *window: self.levels(
                read(*grid.lr_window(*window)), size=grid.window_size(*window)
            ),
        )

    def forward(self, hr: Tensor) -> Recovered | Levels:
        """The round trip for training: :class:`Recovered` in stage 1, :class:`Levels` in stage 2.

        Shape:
            (B, 3, H, W) -> see these classes

        Raises:
            ValueError: see :meth:`downscale`.
        """
        zq = self._codes(hr)
        lr = self._lr(zq)
        stored = self.round_lr(lr)
        if self.stage == 1:
            return Recovered(lr, zq, self._recover(stored))
        return self.levels(stored, size=(hr.shape[-2], hr.shape[-1]))

    @torch.no_grad()
    def _codes(self, hr: Tensor) -> Tensor:
        check_image(hr, "hr", self.factor)
        codes, _ = self.encode(pad_to_multiple(hr, self.factor))
        return codes

    def _lr(self, zq: Tensor) -> Tensor:
        with torch.autocast(zq.device.type, enabled=False):
            return to_unit(self.icrm(zq))

    def _recover(self, lr: Tensor) -> Tensor:
        with torch.autocast(lr.device.type, enabled=False):
            return self.icrm.reverse(from_unit(lr))

    def _decoder_input(self, lr: Tensor) -> Tensor:
        codes, _ = self.quantize(self._recover(lr))
        z: Tensor = self.post_quant_conv(codes)
        return z

    @torch.no_grad()
    def _decoder_features(self, lr: Tensor) -> Iterator[Tensor]:
        """The decoder's features that ``refine`` needs, the smallest first."""
        features = self.decoder.features(self._decoder_input(lr))
        for _ in range(len(self.decoder.up) - 3):
            next(features)
        yield from features

    def _check_lr(self, lr: Tensor, size: Size) -> None:
        if min(size) < self.factor:
            raise RescaleError(f"size {tuple(size)} has a side below {self.factor} pixels")
        given, expected = check_image(lr, "lr", 1), self.lr_size(size)
        if given != expected:
            raise RescaleError(
                f"lr is {given[0]} x {given[1]} (height x width), but size {tuple(size)} at factor "
                f"{self.factor} has an LR image of {expected[0]} x {expected[1]}"
            )

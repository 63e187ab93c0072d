"""VQIR: extreme image rescaling, by 16 or 32.

Paper: Towards Extreme Image Rescaling with Generative Prior and Invertible Prior, IEEE TCSVT 2024.
Written from the paper; the state-dict entries keep the names of the authors' release, less those
that nothing uses. What differs: any size, images in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn

from rescale_arch.invertible import Attend, Coupling, Haar, Mix, Operation, Projection
from rescale_arch.rounding import quantize, rounding_noise
from rescale_arch.scales import Size
from rescale_arch.strip_attention import InterStripAttention, IntraStripAttention
from rescale_arch.vqgan_arch import (
    CodeBookAutoencoder,
    ResidualBlock,
    Upsample,
    check_image,
    from_unit,
    in_single_precision,
    pad_to_multiple,
    to_unit,
)

Factor = Literal[16, 32]
Stage = Literal[1, 2]
_VQ_FACTOR = 16
_HALVINGS = 5  # of the channels, between the code book and the three of the LR image
_PAIRS = 3


class Recovered(NamedTuple):
    """What stage 1 trains on."""

    lr: Tensor
    """LR image before rounding: (B, 3, h, w), around [0, 1]. The guide loss sees this."""
    zq: Tensor
    """Codes of the HR image, (B, embed_dim, H/16, W/16); without gradient."""
    zb: Tensor
    """What the LR image recovers of them, the same shape; before the search for codes."""


class Levels(NamedTuple):
    """The images that stage 2 restores: around [0, 1], not clamped."""

    full: Tensor
    """(B, 3, H, W), the restored HR image (the paper's Level_1)."""
    half: Tensor
    """(B, 3, ceil(H / 2), ceil(W / 2)) (Level_2)."""
    quarter: Tensor
    """(B, 3, ceil(H / 4), ceil(W / 4)) (Level_4)."""


class VQIR(CodeBookAutoencoder):
    r"""Downscales an image by 16 or 32 and restores it from the small image.

    ::

        hr ─> encoder ─> nearest code ─> zq ─> icrm ────────> lr ─> round to 8 bits ─┐
                                                                                     │
        restored <─ decoder <─ nearest code <─ zb <─ icrm in reverse <───────────────┘
                       │
                       └─ features ─> refine ─> 1/4, 1/2, restored                 (stage 2)

    Stage 1 trains ``icrm`` (the paper's invertible feature recovery module, IFRM), stage 2
    ``refine`` (multi-scale refinement module, MSRM). All the rest is frozen: no gradient is asked
    for, it stays in eval mode and none of its activations are kept, so that no gradient reaches
    ``hr`` through it either.

    ``ch``, ``ch_mult``, ``num_res_blocks``, ``z_channels``, ``n_embed`` and ``embed_dim`` are named
    as in the authors' configuration; ``in_channels`` and ``out_channels`` of that are always 3,
    ``double_z`` is false.

    Args:
        factor: HR side over LR side, 16 or 32.
        stage: 1 or 2.
        ch: see :class:`~rescale_arch.vqgan_arch.VQGAN`, as for all that follow.
        ch_mult: five of them, since VQIR builds on a VQGAN of factor 16.
        num_res_blocks: see there.
        attn_resolutions: see there.
        resolution: see there.
        z_channels: see there.
        embed_dim: a multiple of 32 here.
        n_embed: see there.

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
            raise ValueError(f"factor is {factor!r}: valid are 16, 32")
        if stage not in get_args(Stage):
            raise ValueError(f"stage is {stage!r}: valid are 1, 2")
        if self.vq_factor != _VQ_FACTOR:
            raise ValueError(
                f"ch_mult is {tuple(ch_mult)}: five numbers are needed, as VQIR builds on a VQGAN "
                f"of factor {_VQ_FACTOR}"
            )
        if embed_dim % 2**_HALVINGS:
            raise ValueError(f"embed_dim is {embed_dim}: valid are multiples of {2**_HALVINGS}")
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
        """As ever, but frozen parts stay in eval mode."""
        super().train(mode)
        for name, part in self.named_children():
            part.train(mode and name == self.trained_part)
        return self

    def lr_size(self, size: Size) -> Size:
        """Size (h, w) of the LR image for an HR image of ``size`` (H, W)."""
        return -(-size[0] // self.factor), -(-size[1] // self.factor)

    def downscale(self, hr: Tensor) -> Tensor:
        """Downscales ``hr`` by the factor.

        Args:
            hr: RGB in [0, 1]; padded by reflection to multiples of the factor.

        Returns:
            The LR image before rounding: around [0, 1], not clamped.

        Shape:
            (B, 3, H, W) -> (B, 3, h, w), (h, w) = :meth:`lr_size` of (H, W)

        Raises:
            ValueError: ``hr`` is no batch of RGB images of at least factor x factor pixels.
        """
        return self._lr(self._codes(hr))

    def round_lr(self, lr: Tensor) -> Tensor:
        """The LR image as it is stored: clamped to [0, 1] and rounded to 8 bits.

        Training stage 1 puts noise in the place of the rounding (see
        :func:`~rescale_arch.rounding.rounding_noise`). Otherwise the gradient passes unchanged.
        """
        return rounding_noise(lr) if self.training and self.stage == 1 else quantize(lr, "ste")

    def upscale(self, lr: Tensor, *, size: Size) -> Tensor:
        """Restores the HR image from the (rounded) LR image.

        Args:
            lr: RGB in [0, 1], made by :meth:`downscale` with the same weights.
            size: (H, W) of the HR image.

        Returns:
            The restored image: around [0, 1], not clamped. In stage 1 it is without gradient, as
            the decoder is frozen; train on :class:`Recovered`.

        Shape:
            (B, 3, h, w) -> (B, 3, H, W)

        Raises:
            ValueError: ``lr`` is no batch of RGB images, or has not the size that ``size`` asks
                for.
        """
        if self.stage == 2:
            return self.levels(lr, size=size).full
        self._check_lr(lr, size)
        with torch.no_grad():
            restored = to_unit(self.decoder(self._decoder_input(lr)))
        return restored[..., : size[0], : size[1]]

    def levels(self, lr: Tensor, *, size: Size) -> Levels:
        """Restores the image in three sizes; stage 2 only. For the arguments see :meth:`upscale`.

        Shape:
            (B, 3, h, w) -> :class:`Levels`

        Raises:
            ValueError: as :meth:`upscale`, or the network is one of stage 1.
        """
        if self.refine is None:
            raise ValueError("levels are restored by a network of stage 2; this one has stage 1")
        self._check_lr(lr, size)
        images = self.refine(self._decoder_features(lr))
        sides = ((-(-size[0] // reduction), -(-size[1] // reduction)) for reduction in (1, 2, 4))
        return Levels(*(to_unit(x)[..., :h, :w] for x, (h, w) in zip(images, sides, strict=True)))

    def forward(self, hr: Tensor) -> Recovered | Levels:
        """The round trip of training: :class:`Recovered` in stage 1, :class:`Levels` in stage 2.

        Shape:
            (B, 3, H, W) -> see there

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
        """Those of the levels that ``refine`` takes, the smallest first."""
        features = self.decoder.features(self._decoder_input(lr))
        for _ in range(len(self.decoder.up) - 3):
            next(features)
        yield from features

    def _check_lr(self, lr: Tensor, size: Size) -> None:
        if min(size) < self.factor:
            raise ValueError(f"size {tuple(size)} has a side below {self.factor} pixels")
        given, expected = check_image(lr, "lr", 1), self.lr_size(size)
        if given != expected:
            raise ValueError(
                f"lr is {given[0]} x {given[1]} (height x width), but size {tuple(size)} at factor "
                f"{self.factor} has an LR image of {expected[0]} x {expected[1]}"
            )


class FeatureRecovery(nn.Module):
    """IFRM: codes to an LR image, and in reverse an estimate of the codes.

    Args:
        channels: C, of a code; a multiple of 32.
        factor: 16 keeps the size of the code map, 32 halves it.

    Shape:
        (B, C, H/16, W/16) -> (B, 3, H/factor, W/factor), around [-1, 1]; reverse the other way
    """

    def __init__(self, channels: int, factor: Factor) -> None:
        super().__init__()

        def couplings(width: int) -> list[Operation]:
            return [Coupling(width) for _ in range(3)]

        def halve(width: int) -> list[Operation]:
            half = width // 2
            hidden = half if factor == 32 else max(1, half // 2)
            return [Projection(width, half), Mix(half), Attend(half, hidden)]

        operations = couplings(channels)
        width = channels
        for _ in range(4):
            operations += halve(width)
            width //= 2
            operations += couplings(width)
        if factor == 32:
            operations += [Haar(width), Mix(4 * width), *couplings(4 * width)]
            width *= 4
            for _ in range(2):
                operations += halve(width)
                width //= 2
                operations += couplings(width)
        self.operations = nn.ModuleList(operations)
        self.inpfeat_extraction = nn.ModuleList([*halve(width), Projection(width // 2, 3)])

    def forward(self, x: Tensor) -> Tensor:
        """Towards the LR image."""
        for operation in self._all():
            x = operation(x)
        return x

    def reverse(self, y: Tensor) -> Tensor:
        """From the LR image."""
        for operation in reversed(self._all()):
            y = operation.reverse(y)
        return y

    def _all(self) -> list[Operation]:
        both = (*self.operations, *self.inpfeat_extraction)
        return [operation for operation in both if isinstance(operation, Operation)]


class Refinement(nn.Module):
    """MSRM: the decoder's features of the last three levels to images of their sizes.

    Args:
        widths: channels of the features at full, half and quarter size.

    Shape:
        features of the three sizes, the smallest first -> images (B, 3, ..), the largest first,
        around [-1, 1]
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        full, half, quarter = widths
        self.refine = nn.ModuleList([_RefinedLevel(quarter, half), _RefinedLevel(half, full)])
        self.refine_out = nn.Sequential(
            ResidualBlock(full, full), ResidualBlock(full, full), nn.Conv2d(full, 3, 3, 1, 1)
        )

    def forward(self, features: Iterator[Tensor]) -> list[Tensor]:
        """Takes ``features`` one by one, so that they need not be in memory together."""
        images: list[Tensor] = []
        x = next(features)
        for level in self.refine:
            assert isinstance(level, _RefinedLevel)
            refined = level.rfb(x)
            images.insert(0, in_single_precision(level.img_out, refined))
            x = next(features) * level.attention(refined)
        next(features, None)  # ends the decoder's work, which holds the last level otherwise
        *blocks, last = self.refine_out
        for block in blocks:
            x = block(x)
        assert isinstance(last, nn.Conv2d)
        images.insert(0, in_single_precision(last, x))
        return images


class _RefinedLevel(nn.Module):
    """One level: ``rfb`` refines the features, of which come an image and the next attention."""

    def __init__(self, width: int, finer: int) -> None:
        super().__init__()
        self.rfb = nn.Sequential(
            *(
                strips(width)
                for _ in range(_PAIRS)
                for strips in (IntraStripAttention, InterStripAttention)
            )
        )
        self.img_out = nn.Conv2d(width, 3, 3, 1, 1)
        self.attn_out = nn.Sequential(nn.Conv2d(width, finer, 1), Upsample(finer))

    def attention(self, refined: Tensor) -> Tensor:
        """The map that the features of the next, finer level are multiplied with."""
        attention: Tensor = self.attn_out(refined)
        return attention.sigmoid_()

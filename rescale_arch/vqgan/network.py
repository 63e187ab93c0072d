"""VQGAN: images as grids of codebook entries.

Paper: Taming Transformers for High-Resolution Image Synthesis, CVPR 2021, arXiv 2012.09841.
Written from the paper; state-dict entries have the names of the authors' release, whose weights
load without conversion. Differences: images of any size, in [0, 1]; bounded memory for finding the
nearest codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, overload

from rescale_compat.errors import RescaleError

from torch import Tensor, nn

from rescale_arch.images import check_image, from_unit, pad_to_multiple, to_unit
from rescale_arch.vqgan.encoder_decoder import Decoder, Encoder
from rescale_arch.vqgan.layers import NORM_GROUPS, conv_outside_autocast
from rescale_arch.vqgan.vector_quantizer import VectorQuantizer, straight_through

_SEARCHED_AT_ONCE = 2**24  # maximum size of the distance matrix: 64 MiB


class Autoencoded(NamedTuple):
    """The results of a round trip that training a VQGAN needs."""

    restored: Tensor
    """(B, 3, H, W), roughly in [0, 1], not clamped."""
    z: Tensor
    """Features before quantization; they carry the encoder's gradient."""
    codes: Tensor
    """Their nearest codes, of the same shape; they carry the codebook's gradient."""
    indices: Tensor
    """(B, h, w), indices of the codes in the codebook."""


class VectorQuantizedAutoencoder(nn.Module):
    """Encoder, codebook and decoder, the parts common to VQGAN and VQIR.

    For the arguments see :class:`VQGAN`.
    """

    def __init__(
        self,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        resolution: int = 256,
        z_channels: int = 256,
        embed_dim: int = 256,
        n_embed: int = 1024,
    ) -> None:
        super().__init__()
        if ch < NORM_GROUPS or ch % NORM_GROUPS:
            raise RescaleError(f"ch is {ch}: expected a multiple of {NORM_GROUPS}")
        if not ch_mult or min(ch_mult) < 1:
            raise RescaleError(f"ch_mult is {tuple(ch_mult)}: expected a list of numbers >= 1")
        counts = {
            "num_res_blocks": num_res_blocks,
            "z_channels": z_channels,
            "embed_dim": embed_dim,
            "n_embed": n_embed,
        }
        for name, value in counts.items():
            if value < 1:
                raise RescaleError(f"{name} is {value}: expected at least 1")
        resolutions = [resolution // 2**level for level in range(len(ch_mult))]
        for at in attn_resolutions:
            if at not in resolutions:
                raise RescaleError(
                    f"attn_resolutions holds {at}: with resolution {resolution} and "
                    f"{len(ch_mult)} levels, expected one of {', '.join(map(str, resolutions))}"
                )
        widths = [ch * factor for factor in ch_mult]
        attends = [at in attn_resolutions for at in resolutions]
        self.vq_factor = 2 ** (len(ch_mult) - 1)
        self.encoder = Encoder(widths, attends, num_res_blocks, ch, z_channels)
        self.decoder = Decoder(widths, attends, num_res_blocks, z_channels)
        self.quantize = VectorQuantizer(n_embed, embed_dim)
        self.quant_conv = nn.Conv2d(z_channels, embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The codes of an image.

        Args:
            x: RGB in [0, 1]; padded by reflection, right and bottom, to multiples of the factor f.

        Returns:
            The nearest codes (unbounded feature vectors) and their indices in the codebook. The
            gradient is passed to the features by the straight-through estimator.

        Shape:
            (B, 3, H, W) -> (B, embed_dim, h, w), (B, h, w); h = ceil(H / f), w = ceil(W / f)

        Raises:
            ValueError: ``x`` is not a batch of RGB images of at least f x f pixels.
        """
        check_image(x, "x", self.vq_factor)
        z = self._features(x)
        codes, indices = self.quantize(z)
        return straight_through(z, codes), indices

    @overload
    def decode(self, z: Tensor, return_features: Literal[False] = False) -> Tensor: ...
    @overload
    def decode(
        self, z: Tensor, return_features: Literal[True]
    ) -> tuple[Tensor, dict[int, Tensor]]: ...
    def decode(
        self, z: Tensor, return_features: bool = False
    ) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """Decodes quantized features.

        Args:
            z: codes, as returned by :meth:`encode`.
            return_features: also return the decoder's features.

        Returns:
            The image: roughly in [0, 1], not clamped. With ``return_features``, a pair of the image
            and the features by their reduction relative to the image:
            ``{f: .., ..., 2: .., 1: ..}``.

        Shape:
            (B, embed_dim, h, w) -> (B, 3, f h, f w)
        """
        z = self.post_quant_conv(z)
        if not return_features:
            return to_unit(self.decoder(z))
        features = dict(zip(self._reductions(), self.decoder.features(z), strict=True))
        return to_unit(self.decoder.image(features[1])), features

    def _features(self, x: Tensor) -> Tensor:
        """Features before quantization: (B, 3, H, W) -> (B, embed_dim, h, w)."""
        x = pad_to_multiple(x, self.vq_factor)
        z = self.encoder(from_unit(x))
        return conv_outside_autocast(self.quant_conv, z)

    def _reductions(self) -> list[int]:
        return [2**level for level in reversed(range(len(self.decoder.up)))]


class VQGAN(VectorQuantizedAutoencoder):
    r"""Encodes images as codes of a codebook, and decodes them.

    ::

        x ─> encoder ─> quant_conv ─> z ─> nearest code ─> post_quant_conv ─> decoder ─> restored

    The defaults are those of the released network with 1,024 codes and a factor f of 16. Arguments
    are named as in the released configurations (``ddconfig``, ``n_embed``, ``embed_dim``), where
    ``in_channels`` and ``out_ch`` (or ``out_channels``) must be 3, ``double_z`` false and
    ``dropout`` 0. For the other f16 codebook, use ``n_embed=16384``; for f8, omit one ``ch_mult``.

    Args:
        ch: base number of channels; a multiple of 32.
        ch_mult: channels of each level as multiples of ``ch``; each level but the first halves the
            resolution.
        num_res_blocks: residual blocks per level (one more in the decoder).
        attn_resolutions: levels with attention, given as the side of their feature maps for an
            image of ``resolution``. The bottleneck always has attention.
        resolution: image side that ``attn_resolutions`` refers to. Images may have any size.
        z_channels: channels between encoder and decoder.
        embed_dim: channels of a code.
        n_embed: number of codes.

    Raises:
        ValueError: an argument is out of range.
    """

    def forward(self, x: Tensor) -> Autoencoded:
        """The round trip for training; for gradients see :class:`Autoencoded`.

        Shape:
            (B, 3, H, W) -> :class:`Autoencoded`

        Raises:
            ValueError: see :meth:`encode`.
        """
        check_image(x, "x", self.vq_factor)
        z = self._features(x)
        codes, indices = self.quantize(z)
        restored = self.decode(straight_through(z, codes))
        return Autoencoded(restored[..., : x.shape[-2], : x.shape[-1]], z, codes, indices)

    @property
    def last_layer(self) -> Tensor:
        """The weight at which the adaptive GAN weight compares gradients."""
        return self.decoder.conv_out.weight

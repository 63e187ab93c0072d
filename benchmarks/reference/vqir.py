"""VQIR as in its formulas (IEEE TCSVT 2024)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from benchmarks.reference.invertible import FeatureRecovery
from benchmarks.reference.refinement import Refinement
from benchmarks.reference.vqgan import Decoder, Encoder, VectorQuantizer

Size = tuple[int, int]


class PlainVQIR(nn.Module):
    """VQIR, with the arguments and conventions of :class:`rescale_arch.VQIR`.

    The sides of images must be multiples of the factor.
    """

    def __init__(
        self,
        factor: int = 16,
        stage: int = 1,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        z_channels: int = 256,
        embed_dim: int = 256,
        n_embed: int = 1024,
    ) -> None:
        super().__init__()
        widths = [ch * factor for factor in ch_mult]
        self.encoder = Encoder(widths, num_res_blocks, z_channels)
        self.decoder = Decoder(widths, num_res_blocks, z_channels)
        self.quantize = VectorQuantizer(n_embed, embed_dim)
        self.quant_conv = nn.Conv2d(z_channels, embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)
        self.icrm = FeatureRecovery(embed_dim, factor)
        self.refine = Refinement(widths[:3]) if stage == 2 else None

    def encode(self, hr: Tensor) -> Tensor:
        """Codes: (B, 3, H, W) -> (B, embed_dim, H/16, W/16)."""
        codes: Tensor = self.quantize(self.quant_conv(self.encoder(2 * hr - 1)))
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Decodes codes by the VQGAN: (B, embed_dim, h, w) -> (B, 3, 16 h, 16 w)."""
        out: Tensor = self.decoder(self.post_quant_conv(codes))[0]
        return (out + 1) / 2

    def downscale(self, hr: Tensor) -> Tensor:
        """The LR image before rounding: (B, 3, H, W) -> (B, 3, H/factor, W/factor)."""
        out: Tensor = self.icrm(self.encode(hr))
        return (out + 1) / 2

    def upscale(self, lr: Tensor, *, size: Size) -> Tensor:
        """The restored image: (B, 3, h, w) -> (B, 3, H, W)."""
        codes = self.quantize(self.icrm.reverse(2 * lr - 1))
        if self.refine is None:
            return self.decode(codes)
        features = self.decoder(self.post_quant_conv(codes))[1]
        out: Tensor = self.refine(features)
        return (out + 1) / 2

"""VQGAN: an image as a grid of code-book entries.

Paper: Taming Transformers for High-Resolution Image Synthesis, CVPR 2021, arXiv 2012.09841.
Written from the paper; the state-dict entries keep the names of the authors' release, whose weights
load as they are. What differs: any size, images in [0, 1], bounded memory for the search of codes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rescale_arch.scales import Size

_NORM_GROUPS = 32
_SEARCHED_AT_ONCE = 2**24  # distances in memory at a time: 64 MiB


class Autoencoded(NamedTuple):
    """What training a VQGAN needs of a round trip."""

    restored: Tensor
    """(B, 3, H, W), around [0, 1], not clamped."""
    z: Tensor
    """Features before the quantisation; the encoder's gradient passes here."""
    codes: Tensor
    """Their nearest codes, the same shape; the code book's gradient passes here."""
    indices: Tensor
    """(B, h, w), of the codes in the code book."""


class CodeBookAutoencoder(nn.Module):
    """Encoder, code book and decoder: what VQGAN and VQIR have in common.

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
        if ch < _NORM_GROUPS or ch % _NORM_GROUPS:
            raise ValueError(f"ch is {ch}: valid are multiples of {_NORM_GROUPS}")
        if not ch_mult or min(ch_mult) < 1:
            raise ValueError(f"ch_mult is {tuple(ch_mult)}: a list of numbers from 1 up is needed")
        counts = {
            "num_res_blocks": num_res_blocks,
            "z_channels": z_channels,
            "embed_dim": embed_dim,
            "n_embed": n_embed,
        }
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} is {value}: at least 1 is needed")
        resolutions = [resolution // 2**level for level in range(len(ch_mult))]
        for at in attn_resolutions:
            if at not in resolutions:
                raise ValueError(
                    f"attn_resolutions holds {at}: with resolution {resolution} and "
                    f"{len(ch_mult)} levels valid are {', '.join(map(str, resolutions))}"
                )
        widths = [ch * factor for factor in ch_mult]
        attends = [at in attn_resolutions for at in resolutions]
        self.vq_factor = 2 ** (len(ch_mult) - 1)
        self.encoder = Encoder(widths, attends, num_res_blocks, ch, z_channels)
        self.decoder = Decoder(widths, attends, num_res_blocks, z_channels)
        self.quantize = CodeBook(n_embed, embed_dim)
        self.quant_conv = nn.Conv2d(z_channels, embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The codes of an image.

        Args:
            x: RGB in [0, 1]; padded by reflection, on the right and at the bottom, to multiples of
                the factor f.

        Returns:
            The nearest codes (in feature space, which is not bounded) and their indices in the code
            book. The gradient passes straight through the search to the features.

        Shape:
            (B, 3, H, W) -> (B, embed_dim, h, w), (B, h, w); h = ceil(H / f), w = ceil(W / f)

        Raises:
            ValueError: ``x`` is no batch of RGB images of at least f x f pixels.
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
        """The image of quantised features.

        Args:
            z: codes, as :meth:`encode` gives them.
            return_features: also return the decoder's features.

        Returns:
            The image: around [0, 1], not clamped. With ``return_features`` a pair of it and the
            features by how often they are smaller than the image: ``{f: .., ..., 2: .., 1: ..}``.

        Shape:
            (B, embed_dim, h, w) -> (B, 3, f h, f w)
        """
        z = self.post_quant_conv(z)
        if not return_features:
            return to_unit(self.decoder(z))
        features = dict(zip(self._reductions(), self.decoder.features(z), strict=True))
        return to_unit(self.decoder.image(features[1])), features

    def _features(self, x: Tensor) -> Tensor:
        """What the code book is searched for: (B, 3, H, W) -> (B, embed_dim, h, w)."""
        x = pad_to_multiple(x, self.vq_factor)
        z = self.encoder(from_unit(x))
        return in_single_precision(self.quant_conv, z)

    def _reductions(self) -> list[int]:
        return [2**level for level in reversed(range(len(self.decoder.up)))]


class VQGAN(CodeBookAutoencoder):
    r"""Encodes an image as codes of a code book, and decodes them.

    ::

        x ─> encoder ─> quant_conv ─> z ─> nearest code ─> post_quant_conv ─> decoder ─> restored

    The defaults are the released network with 1,024 codes and a factor f of 16. The arguments are
    named as in the released configurations (``ddconfig``, ``n_embed``, ``embed_dim``); of those,
    ``in_channels`` and ``out_ch`` (or ``out_channels``) are always 3, ``double_z`` is false and
    ``dropout`` 0. The other f16 code book: ``n_embed=16384``; f8: one ``ch_mult`` less.

    Args:
        ch: width that ``ch_mult`` multiplies; a multiple of 32.
        ch_mult: widths of the levels; each but the first halves the sides.
        num_res_blocks: residual blocks of a level (one more in the decoder).
        attn_resolutions: levels with attention, by the side of their feature maps for an image of
            ``resolution``. The middle has attention in any case.
        resolution: side that ``attn_resolutions`` refers to. Images may have any size.
        z_channels: channels between encoder and decoder.
        embed_dim: channels of a code.
        n_embed: number of codes.

    Raises:
        ValueError: an argument is out of range.
    """

    def forward(self, x: Tensor) -> Autoencoded:
        """The round trip of training; gradients as :class:`Autoencoded` says.

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
        """Weight that the adaptive weight of the adversarial loss compares gradients at."""
        return self.decoder.conv_out.weight


class CodeBook(nn.Module):
    """Vectors, of which the nearest one replaces each feature vector.

    Args:
        n_embed: number of codes.
        embed_dim: channels of a code.

    Shape:
        (B, embed_dim, h, w) -> codes (B, embed_dim, h, w), indices (B, h, w)
    """

    def __init__(self, n_embed: int, embed_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_embed, embed_dim)
        nn.init.uniform_(self.embedding.weight, -1 / n_embed, 1 / n_embed)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest in Euclidean distance; of codes at the same distance the first."""
        indices = self.nearest(z.permute(0, 2, 3, 1))
        codes: Tensor = self.embedding(indices)
        return codes.permute(0, 3, 1, 2), indices

    @torch.no_grad()
    def nearest(self, vectors: Tensor, at_once: int = _SEARCHED_AT_ONCE) -> Tensor:
        """Index of the nearest code of each vector: (..., embed_dim) -> (...).

        Args:
            vectors: any number of them.
            at_once: number of distances to hold in memory at a time (at least one vector's).
        """
        book = self.embedding.weight
        norms = book.square().sum(1)
        with torch.autocast(book.device.type, enabled=False):
            # |v - e|^2 less |v|^2, which is the same for every code
            indices = [
                torch.addmm(norms, part, book.T, alpha=-2).argmin(1)
                for part in vectors.reshape(-1, book.shape[1])
                .to(book.dtype)
                .split(max(1, at_once // book.shape[0]))
            ]
        return torch.cat(indices).view(vectors.shape[:-1])


def straight_through(z: Tensor, codes: Tensor) -> Tensor:
    """The value of ``codes`` with the gradient of ``z``."""
    return codes.detach() + (z - z.detach())


class Encoder(nn.Module):
    """Image in [-1, 1] to features: (B, 3, H, W) -> (B, z_channels, H/f, W/f).

    Args:
        widths: channels by level.
        attends: by level, whether it has attention.
        num_res_blocks: residual blocks of a level.
        first: channels after the first convolution.
        z_channels: channels of the result.
    """

    def __init__(
        self,
        widths: Sequence[int],
        attends: Sequence[bool],
        num_res_blocks: int,
        first: int,
        z_channels: int,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, first, 3, 1, 1)
        self.down = nn.ModuleList()
        before = first
        for level, (width, attention) in enumerate(zip(widths, attends, strict=True)):
            down = _Level(before, width, num_res_blocks, attention)
            if level < len(widths) - 1:
                down.downsample = Downsample(width)
            self.down.append(down)
            before = width
        self.mid = _middle(before)
        self.norm_out = _norm(before)
        self.conv_out = nn.Conv2d(before, z_channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Only one layer's input is held at a time."""
        x = self.conv_in(x)
        for down in self.down:
            assert isinstance(down, _Level)
            for layer in down.layers():
                x = layer(x)
            if down.downsample is not None:
                x = down.downsample(x)
        out: Tensor = self.conv_out(_swish(self.norm_out(self.mid(x))))
        return out


class Decoder(nn.Module):
    """Features to an image around [-1, 1]: (B, z_channels, h, w) -> (B, 3, f h, f w).

    For the arguments see :class:`Encoder`.
    """

    def __init__(
        self,
        widths: Sequence[int],
        attends: Sequence[bool],
        num_res_blocks: int,
        z_channels: int,
    ) -> None:
        super().__init__()
        before = widths[-1]
        self.conv_in = nn.Conv2d(z_channels, before, 3, 1, 1)
        self.mid = _middle(before)
        ups = []
        for level in reversed(range(len(widths))):
            up = _Level(before, widths[level], num_res_blocks + 1, attends[level])
            before = widths[level]
            if level > 0:
                up.upsample = Upsample(before)
            ups.append(up)
        self.up = nn.ModuleList(reversed(ups))
        self.norm_out = _norm(before)
        self.conv_out = nn.Conv2d(before, 3, 3, 1, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Features to the image."""
        features = self.features(z)
        for _ in range(len(self.up) - 1):
            next(features)  # not kept
        return self.image(next(features))

    def features(self, z: Tensor) -> Iterator[Tensor]:
        """The features of each level before its upsampling, the smallest first."""
        x = self.mid(self.conv_in(z))
        for up in reversed(self.up):
            assert isinstance(up, _Level)
            for layer in up.layers():
                x = layer(x)
            yield x
            if up.upsample is not None:
                x = up.upsample(x)

    def image(self, features: Tensor) -> Tensor:
        """The image of the last level's features."""
        return in_single_precision(self.conv_out, _swish(self.norm_out(features)))


class _Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention or not.

    ``downsample`` or ``upsample`` lead to the next level.
    """

    def __init__(self, before: int, width: int, num_res_blocks: int, attention: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(width if index else before, width) for index in range(num_res_blocks)
        )
        self.attn = nn.ModuleList(Attention(width) for _ in range(num_res_blocks * attention))
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def layers(self) -> Iterator[nn.Module]:
        """All but the last, in order; for whoever runs them to keep none of their inputs."""
        for index, block in enumerate(self.block):
            yield block
            if self.attn:
                yield self.attn[index]


class ResidualBlock(nn.Module):
    """norm - swish - conv, twice, plus input.

    Args:
        before: channels of the input.
        width: channels of the result.
    """

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.norm1 = _norm(before)
        self.conv1 = nn.Conv2d(before, width, 3, 1, 1)
        self.norm2 = _norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.nin_shortcut = nn.Conv2d(before, width, 1) if before != width else None

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, before, H, W) -> (B, width, H, W)."""
        # Nested and in place: a name for each step would keep one more map of full size in memory.
        out: Tensor = self.conv2(_swish(self.norm2(self.conv1(_swish(self.norm1(x))))))
        return out.add_(x if self.nin_shortcut is None else self.nin_shortcut(x))


class Attention(nn.Module):
    """Self-attention over all positions, one head, plus input; its matrix is never stored.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        batch, channels, height, width = x.shape
        normalized = self.norm(x)
        q, k, v = (
            conv(normalized).permute(0, 2, 3, 1).reshape(batch, 1, height * width, channels)
            for conv in (self.q, self.k, self.v)
        )
        attended = F.scaled_dot_product_attention(q, k, v).reshape(batch, height, width, channels)
        out: Tensor = self.proj_out(attended.permute(0, 3, 1, 2))
        return out.add_(x)


class Downsample(nn.Module):
    """Convolution of stride 2 over the image with a zero column right and a zero row below it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> (B, C, H/2, W/2)."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Nearest neighbour, then a convolution; the enlarged features are never formed.

    Of the 3x3 input pixels of an output pixel several are copies of the same one. Their weights are
    added up instead, which leaves 2x2, and four kernels for the four copies of an input pixel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> (B, C, 2 H, 2 W)."""
        height, width = x.shape[-2:]
        rows = []
        for i, kernels in enumerate(_merged(self.conv.weight, 2)):
            row = [
                F.conv2d(x, kernel, self.conv.bias, padding=1)[..., i : i + height, j : j + width]
                for j, kernel in enumerate(_merged(kernels, 3))
            ]
            rows.append(torch.stack([part.permute(0, 2, 3, 1) for part in row], 3).flatten(2, 3))
        return torch.stack(rows, 2).flatten(1, 2).permute(0, 3, 1, 2)


def _merged(kernels: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Three taps along ``axis`` made two: as the first and the second copy of a pixel see them."""
    before, here, after = kernels.unbind(axis)
    return torch.stack((before, here + after), axis), torch.stack((before + here, after), axis)


def in_single_precision(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``conv`` outside of autocast, for what is compared with codes or stored with 8 bits.

    bfloat16 has 8 bits for all of [-1, 1], and less for what is out of the middle.
    """
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = conv(x.to(conv.weight.dtype))
    return out


def from_unit(x: Tensor) -> Tensor:
    """[0, 1], the range of public tensors, to [-1, 1], that of the networks' inside."""
    return x * 2 - 1


def to_unit(x: Tensor) -> Tensor:
    """[-1, 1], the range of the networks' inside, to [0, 1], that of public tensors."""
    return (x + 1) / 2


def pad_to_multiple(x: Tensor, factor: int) -> Tensor:
    """Pads ``x`` (B, C, H, W) by reflection, right and below, to sides that ``factor`` divides.

    The sides must be at least ``factor``, so that there is enough to reflect.
    """
    bottom, right = (-side % factor for side in x.shape[-2:])
    return F.pad(x, (0, right, 0, bottom), mode="reflect") if bottom or right else x


def check_image(x: Tensor, name: str, min_side: int) -> Size:
    """Returns the size (H, W) of a batch of RGB images, each side at least ``min_side``.

    Raises:
        ValueError: it is none; the message calls it ``name``.
    """
    if x.dim() != 4 or x.shape[1] != 3:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: RGB images (B, 3, H, W) are needed")
    height, width = x.shape[-2:]
    if min(height, width) < min_side:
        raise ValueError(
            f"{name} is {height} x {width} pixels (height x width): at least "
            f"{min_side} x {min_side} are needed"
        )
    return height, width


def _middle(channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            block_1=ResidualBlock(channels, channels),
            attn_1=Attention(channels),
            block_2=ResidualBlock(channels, channels),
        )
    )


class _GroupNorm(nn.GroupNorm):
    """Group norm that keeps the dtype of its input under autocast.

    Autocast on CUDA would compute it in float32 and leave float32 maps behind, the largest of the
    network. The kernels sum up in float32 whatever the dtype of the input is.
    """

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        with torch.autocast(input.device.type, enabled=False):
            return F.group_norm(input, self.num_groups, weight, bias, self.eps)


def _norm(channels: int) -> nn.GroupNorm:
    return _GroupNorm(_NORM_GROUPS, channels, eps=1e-6)


def _swish(x: Tensor) -> Tensor:
    """In place: ``x`` comes fresh out of a normalisation, whose gradient does not need it."""
    return F.silu(x, inplace=True)

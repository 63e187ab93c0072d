"""VQGAN and VQIR as in their formulas (arXiv 2012.09841; IEEE TCSVT 2024).

Attention matrices are stored, the encoder keeps the activations of all layers as the original
implementation does, the nearest code is determined from the full distance matrix, and the matrices
of 1x1 convolutions are inverted in every call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class VectorQuantizer(nn.Module):
    """Replaces every vector by the nearest code."""

    def __init__(self, n_embed: int, embed_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_embed, embed_dim)

    def forward(self, z: Tensor) -> Tensor:
        """Shape: (B, C, h, w) -> the same."""
        vectors = z.permute(0, 2, 3, 1)
        book = self.embedding.weight
        distances = (
            vectors.square().sum(-1, keepdim=True) - 2 * vectors @ book.T + book.square().sum(1)
        )
        codes: Tensor = self.embedding(distances.argmin(-1))
        return codes.permute(0, 3, 1, 2)


class Level(nn.Module):
    """The blocks of one resolution, and the resampling to the next."""

    def __init__(self, before: int, width: int, blocks: int, attends: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(before if index == 0 else width, width) for index in range(blocks)
        )
        self.attn = nn.ModuleList(Attention(width) for _ in range(blocks if attends else 0))
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None


class Encoder(nn.Module):
    """Image to features: (B, 3, H, W) -> (B, z_channels, H/16, W/16)."""

    def __init__(self, widths: Sequence[int], blocks: int, z_channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        before = widths[0]
        self.down = nn.ModuleList()
        for index, width in enumerate(widths):
            last = index == len(widths) - 1
            level = Level(before, width, blocks, attends=last)
            if not last:
                level.downsample = Downsample(width)
            self.down.append(level)
            before = width
        self.mid = Middle(before)
        self.norm_out = norm(before)
        self.conv_out = nn.Conv2d(before, z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: see the class."""
        activations = [self.conv_in(x)]
        for level in self.down:
            assert isinstance(level, Level)
            for index, block in enumerate(level.block):
                x = block(activations[-1])
                if len(level.attn):
                    x = level.attn[index](x)
                activations.append(x)
            if level.downsample is not None:
                activations.append(level.downsample(activations[-1]))
        out: Tensor = self.conv_out(swish(self.norm_out(self.mid(activations[-1]))))
        return out


class Decoder(nn.Module):
    """Features to the image and the features of the last three levels, the smallest first."""

    def __init__(self, widths: Sequence[int], blocks: int, z_channels: int) -> None:
        super().__init__()
        before = widths[-1]
        self.conv_in = nn.Conv2d(z_channels, before, 3, padding=1)
        self.mid = Middle(before)
        levels: list[Level] = []
        for index in reversed(range(len(widths))):
            level = Level(before, widths[index], blocks + 1, attends=index == len(widths) - 1)
            before = widths[index]
            if index > 0:
                level.upsample = Upsample(before)
            levels.insert(0, level)
        self.up = nn.ModuleList(levels)
        self.norm_out = norm(before)
        self.conv_out = nn.Conv2d(before, 3, 3, padding=1)

    def forward(self, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Shape: (B, z_channels, h, w) -> (B, 3, 16 h, 16 w) and the features."""
        x = self.mid(self.conv_in(z))
        features = []
        for level in reversed(self.up):
            assert isinstance(level, Level)
            for index, block in enumerate(level.block):
                x = block(x)
                if len(level.attn):
                    x = level.attn[index](x)
            features.append(x)
            if level.upsample is not None:
                x = level.upsample(x)
        return self.conv_out(swish(self.norm_out(x))), features[-3:]


class Middle(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(width, width)
        self.attn_1 = Attention(width)
        self.block_2 = ResidualBlock(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class ResidualBlock(nn.Module):
    """norm - swish - conv, twice, plus input."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.norm1 = norm(before)
        self.conv1 = nn.Conv2d(before, width, 3, padding=1)
        self.norm2 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        if before != width:
            self.nin_shortcut = nn.Conv2d(before, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, before, H, W) -> (B, width, H, W)."""
        h = self.conv1(swish(self.norm1(x)))
        h = self.conv2(swish(self.norm2(h)))
        if hasattr(self, "nin_shortcut"):
            x = self.nin_shortcut(x)
        out: Tensor = x + h
        return out


class Attention(nn.Module):
    """Self-attention over all positions, plus input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        h = self.norm(x)
        q, k, v = (conv(h).flatten(2) for conv in (self.q, self.k, self.v))
        weights = torch.softmax(q.transpose(1, 2) @ k * x.shape[1] ** -0.5, dim=-1)
        out: Tensor = x + self.proj_out((v @ weights.transpose(1, 2)).view_as(x))
        return out


class Downsample(nn.Module):
    """Stride 2, with zeros on the right and below."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> (B, C, H/2, W/2)."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Nearest neighbour and a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> (B, C, 2 H, 2 W)."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


def norm(width: int) -> nn.GroupNorm:
    """Group norm of 32 groups."""
    return nn.GroupNorm(32, width, eps=1e-6)


def swish(x: Tensor) -> Tensor:
    """``x sigmoid(x)``."""
    return x * torch.sigmoid(x)


# the invertible module ------------------------------------------------------------------------


class FeatureRecovery(nn.Module):
    """Codes to an LR image around [-1, 1]; ``reverse`` is the opposite direction."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        width = channels
        steps: list[nn.Module] = [AffineCoupling(width) for _ in range(3)]

        def halve(width: int) -> list[nn.Module]:
            half = width // 2
            hidden = half if factor == 32 else half // 2
            return [
                Projection(width, half),
                InvertibleConv1x1(half),
                SpatialAttention(half, hidden),
            ]

        def rounds(count: int) -> None:
            nonlocal width
            for _ in range(count):
                steps.extend(halve(width))
                width //= 2
                steps.extend(AffineCoupling(width) for _ in range(3))

        rounds(4)
        if factor == 32:
            steps.append(Haar(width))
            width *= 4
            steps.append(InvertibleConv1x1(width))
            steps.extend(AffineCoupling(width) for _ in range(3))
            rounds(2)
        self.operations = nn.ModuleList(steps)
        self.inpfeat_extraction = nn.ModuleList([*halve(width), Projection(width // 2, 3)])

    def forward(self, x: Tensor) -> Tensor:
        """Codes to LR image."""
        for step in (*self.operations, *self.inpfeat_extraction):
            x = step(x)
        return x

    def reverse(self, y: Tensor) -> Tensor:
        """LR image to codes."""
        for step in reversed((*self.operations, *self.inpfeat_extraction)):
            y = step.reverse(y)
        return y


class AffineCoupling(nn.Module):
    """y1 = x1 e(G2(x2)) + H2(x2), y2 = x2 e(G1(y1)) + H1(y1); e(g) = exp(2 sigmoid(g) - 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.G1, self.G2, self.H1, self.H2 = (CouplingNet(channels // 2) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        x1, x2 = x.chunk(2, 1)
        y1 = x1 * torch.exp(2 * torch.sigmoid(self.G2(x2)) - 1) + self.H2(x2)
        y2 = x2 * torch.exp(2 * torch.sigmoid(self.G1(y1)) - 1) + self.H1(y1)
        return torch.cat((y1, y2), 1)

    def reverse(self, y: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        y1, y2 = y.chunk(2, 1)
        x2 = (y2 - self.H1(y1)) / torch.exp(2 * torch.sigmoid(self.G1(y1)) - 1)
        x1 = (y1 - self.H2(x2)) / torch.exp(2 * torch.sigmoid(self.G2(x2)) - 1)
        return torch.cat((x1, x2), 1)


class CouplingNet(nn.Module):
    """3x3, 1x1 and 3x3 convolutions with leaky ReLU between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 1)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        out: Tensor = self.conv3(F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x), 0.2)), 0.2))
        return out


class InvertibleConv1x1(nn.Module):
    """Multiplies every pixel by a matrix, in reverse by its inverse."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        return F.conv2d(x, self.weight[:, :, None, None])

    def reverse(self, y: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        inverse = torch.inverse(self.weight.double()).to(y.dtype)
        return F.conv2d(y, inverse[:, :, None, None])


class Projection(nn.Module):
    """A 1x1 convolution to fewer channels, and another one in reverse."""

    def __init__(self, channels: int, kept: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, kept, 1)
        self.conv2 = nn.Conv2d(kept, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> (B, kept, H, W)."""
        out: Tensor = self.conv1(x)
        return out

    def reverse(self, y: Tensor) -> Tensor:
        """Shape: (B, kept, H, W) -> (B, C, H, W)."""
        out: Tensor = self.conv2(y)
        return out


class SpatialAttention(nn.Module):
    """``a(x) sigmoid(b(x)) + x``, with separate weights for the two directions."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.forw_att = AttentionBlock(channels, hidden)
        self.back_att = AttentionBlock(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        out: Tensor = self.forw_att(x)
        return out

    def reverse(self, y: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        out: Tensor = self.back_att(y)
        return out


class AttentionBlock(nn.Module):
    """a: three residual units; b: three more and a 1x1 convolution."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv_a = nn.Sequential(*(ResidualUnit(channels, hidden) for _ in range(3)))
        self.conv_b = nn.Sequential(
            *(ResidualUnit(channels, hidden) for _ in range(3)), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        out: Tensor = self.conv_a(x) * torch.sigmoid(self.conv_b(x)) + x
        return out


class ResidualUnit(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, plus input, ReLU."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(), nn.Conv2d(hidden, channels, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        return F.relu(self.conv(x) + x)


class Haar(nn.Module):
    """The four 2x2 patterns of every channel, over 4; grouped by pattern, then channel."""

    haar_weights: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        signs = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])
        patterns = signs.float().view(4, 1, 2, 2)
        self.register_buffer("haar_weights", patterns.repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> (B, 4 C, H/2, W/2)."""
        a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
        return torch.cat((a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d), 1) / 4

    def reverse(self, y: Tensor) -> Tensor:
        """Shape: (B, 4 C, H/2, W/2) -> (B, C, H, W)."""
        p, q, r, s = y.chunk(4, 1)
        above = torch.stack((p + q + r + s, p - q + r - s), -1).flatten(-2)
        below = torch.stack((p + q - r - s, p - q - r + s), -1).flatten(-2)
        return torch.stack((above, below), -2).flatten(-3, -2)


# the refinement module ------------------------------------------------------------------------


class Refinement(nn.Module):
    """Decoder features of three levels, the smallest first, to the image around [-1, 1]."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        full, half, quarter = widths
        self.refine = nn.ModuleList([RefinedLevel(quarter, half), RefinedLevel(half, full)])
        self.refine_out = nn.Sequential(
            ResidualBlock(full, full), ResidualBlock(full, full), nn.Conv2d(full, 3, 3, padding=1)
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Shape: features -> (B, 3, H, W)."""
        x, *finer = features
        for level, feature in zip(self.refine, finer, strict=True):
            assert isinstance(level, RefinedLevel)
            refined = level.rfb(x)
            level.img_out(refined)  # the image of this level, which is used in training
            x = feature * torch.sigmoid(level.attn_out(refined))
        out: Tensor = self.refine_out(x)
        return out


class RefinedLevel(nn.Module):
    """Three pairs of strip attention, an image and the attention map of the next level."""

    def __init__(self, width: int, finer: int) -> None:
        super().__init__()
        self.rfb = nn.Sequential(*(strips(width) for _ in range(3) for strips in (Intra, Inter)))
        self.img_out = nn.Conv2d(width, 3, 3, padding=1)
        self.attn_out = nn.Sequential(nn.Conv2d(width, finer, 1), Upsample(finer))


class Strips(nn.Module, ABC):
    """Strip attention (Stripformer, ECCV 2022): half of the channels by rows, half by columns."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // 64)
        self.attention_norm = nn.LayerNorm(width)
        self.conv_input = nn.Conv2d(width, width, 1)
        self.fuse_out = nn.Conv2d(width, width, 1)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn = MLP(width)
        self.PEG = PositionEncoding(width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        normalized = self.attention_norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        horizontal, vertical = self.conv_input(normalized).chunk(2, 1)
        rows = self.rows(horizontal, "h")
        columns = self.rows(vertical.transpose(2, 3), "v").transpose(2, 3)
        x = x + self.fuse_out(torch.cat((rows, columns), 1))
        tokens = x.permute(0, 2, 3, 1)
        x = (tokens + self.ffn(self.ffn_norm(tokens))).permute(0, 3, 1, 2)
        out: Tensor = self.PEG(x)
        return out

    @abstractmethod
    def rows(self, x: Tensor, which: str) -> Tensor:
        """Attention along rows: (B, C/2, H, W) -> the same."""


class Intra(Strips):
    """Pixels attend to the pixels of their row."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.qkv_local_h = nn.Linear(width // 2, width // 2 * 3)
        self.qkv_local_v = nn.Linear(width // 2, width // 2 * 3)

    def rows(self, x: Tensor, which: str) -> Tensor:
        """See the base class."""
        projection = self.qkv_local_h if which == "h" else self.qkv_local_v
        batch, channels, height, width = x.shape
        q, k, v = (
            part.view(batch, height, width, self.heads, -1).transpose(2, 3)
            for part in projection(x.permute(0, 2, 3, 1)).chunk(3, -1)
        )
        tokens = attention(q, k, v).transpose(2, 3)
        return tokens.reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class Inter(Strips):
    """Whole rows attend to one another; their values are ordered channel by channel."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.conv_h = nn.Conv2d(width // 2, width // 2 * 3, 1)
        self.conv_v = nn.Conv2d(width // 2, width // 2 * 3, 1)

    def rows(self, x: Tensor, which: str) -> Tensor:
        """See the base class."""
        projection = self.conv_h if which == "h" else self.conv_v
        batch, channels, height, width = x.shape
        q, k, v = (
            part.transpose(1, 2).reshape(batch, height, self.heads, -1).transpose(1, 2)
            for part in projection(x).chunk(3, 1)
        )
        tokens = attention(q, k, v).transpose(1, 2)
        return tokens.reshape(batch, height, channels, width).transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Plain attention: (.., tokens, n) -> the same."""
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    return torch.softmax(scores, -1) @ v


class MLP(nn.Module):
    """C -> 4 C -> C with GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (.., C) -> the same."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class PositionEncoding(nn.Module):
    """A depth-wise convolution plus its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.PEG = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        out: Tensor = self.PEG(x) + x
        return out

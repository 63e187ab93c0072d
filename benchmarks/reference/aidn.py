"""AIDN as in its formulas (arXiv 2201.12576): a weight matrix per pixel, explicit grids."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pair = tuple[float, float]
Size = tuple[int, int]

RGB_MEAN = (0.4488, 0.4371, 0.4040)


class PlainAIDN(nn.Module):
    """AIDN for any scale, with the arguments and conventions of :class:`rescale_arch.AIDN`."""

    def __init__(
        self,
        num_feat: int = 64,
        num_block: int = 16,
        adapt_interval: int = 4,
        num_adapt_expert: int = 4,
        num_crm_expert: int = 8,
        res_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.down_net, self.up_net = (
            Trunk(num_feat, num_block, adapt_interval, num_adapt_expert, num_crm_expert, res_scale)
            for _ in range(2)
        )

    def downscale(self, hr: Tensor, scale: float | Pair) -> Tensor:
        """The LR image before rounding: (B, 3, H, W) -> (B, 3, ceil(H / s), ceil(W / s))."""
        vertical, horizontal = pair(scale)
        height, width = hr.shape[-2:]
        size = math.ceil(height / vertical - 1e-9), math.ceil(width / horizontal - 1e-9)
        out: Tensor = self.down_net(hr, (1 / vertical, 1 / horizontal), size)
        return out

    def upscale(self, lr: Tensor, scale: float | Pair, *, size: Size) -> Tensor:
        """The restored image: (B, 3, h, w) -> (B, 3, H, W)."""
        out: Tensor = self.up_net(lr, pair(scale), size)
        return out

    def forward(self, hr: Tensor, scale: float | Pair) -> tuple[Tensor, Tensor]:
        """The round trip for training: (LR image before rounding, restored image)."""
        lr = self.downscale(hr, scale)
        return lr, self.upscale(rounded(lr), scale, size=(hr.shape[-2], hr.shape[-1]))


class Trunk(nn.Module):
    """One direction: (B, 3, H, W) to ``size``; ``t`` is output over input side."""

    def __init__(
        self,
        num_feat: int,
        num_block: int,
        adapt_interval: int,
        num_adapt_expert: int,
        num_crm_expert: int,
        res_scale: float,
    ) -> None:
        super().__init__()
        self.interval = adapt_interval
        self.sub_mean = nn.Conv2d(3, 3, 1)
        self.add_mean = nn.Conv2d(3, 3, 1)
        for shift, sign in ((self.sub_mean, -1), (self.add_mean, 1)):
            assert shift.bias is not None
            shift.requires_grad_(False)
            shift.weight.copy_(torch.eye(3)[:, :, None, None])
            shift.bias.copy_(sign * torch.tensor(RGB_MEAN))
        self.head = nn.Sequential(nn.Conv2d(3, num_feat, 3, padding=1))
        self.body = nn.ModuleList(ResidualBlock(num_feat, res_scale) for _ in range(num_block))
        self.body.append(nn.Conv2d(num_feat, num_feat, 3, padding=1))
        self.sa_adapt = nn.ModuleList(
            ScaleAdaption(num_feat, num_adapt_expert) for _ in range(num_block // adapt_interval)
        )
        self.sa_sample = Resampling(num_feat, num_crm_expert)
        self.tail = nn.Sequential(nn.Identity(), nn.Conv2d(num_feat, 3, 3, padding=1))

    def forward(self, x: Tensor, t: Pair, size: Size) -> Tensor:
        """Shape: (B, 3, H, W) -> (B, 3, *size)."""
        head = self.head(self.sub_mean(x))
        x = head
        *blocks, last = self.body
        for index, block in enumerate(blocks):
            x = block(x)
            if (index + 1) % self.interval == 0:
                x = self.sa_adapt[index // self.interval](x, t)
        x = self.sa_sample(last(x) + head, t, size)
        out: Tensor = self.add_mean(self.tail(x))
        return out


class ResidualBlock(nn.Module):
    """conv - ReLU - conv, scaled, plus input."""

    def __init__(self, num_feat: int, res_scale: float) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.body = nn.Sequential(
            nn.Conv2d(num_feat, num_feat, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(num_feat, num_feat, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        out: Tensor = self.body(x) * self.res_scale + x
        return out


class ScaleAdaption(nn.Module):
    """``x + A(x, t) * M(x)``."""

    def __init__(self, num_feat: int, num_expert: int) -> None:
        super().__init__()
        hidden = num_feat // 4
        layers: list[nn.Module] = []
        for width in (num_feat, hidden, hidden):
            layers += [nn.Conv2d(width, hidden, 3, padding=1), nn.BatchNorm2d(hidden), nn.ReLU()]
        layers += [nn.Conv2d(hidden, 1, 3, padding=1), nn.BatchNorm2d(1), nn.Sigmoid()]
        self.mask = nn.Sequential(*layers)
        self.adapt = ScaleAwareConv(num_feat, num_expert)

    def forward(self, x: Tensor, t: Pair) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        out: Tensor = x + self.adapt(x, t) * self.mask(x)
        return out


class ScaleAwareConv(nn.Module):
    """A 3x3 convolution whose kernel is a mixture of experts, routed by the scale."""

    def __init__(self, num_feat: int, num_expert: int) -> None:
        super().__init__()
        self.weight_pool = nn.Parameter(torch.randn(num_expert, num_feat, num_feat, 3, 3) / 24)
        self.routing = nn.Sequential(
            nn.Linear(2, num_feat), nn.ReLU(), nn.Linear(num_feat, num_expert), nn.Softmax(-1)
        )

    def forward(self, x: Tensor, t: Pair) -> Tensor:
        """Shape: (B, C, H, W) -> the same."""
        mixture = self.routing(torch.tensor([1 / t[0], 1 / t[1]], device=x.device))
        kernel = (mixture.view(-1, 1, 1, 1, 1) * self.weight_pool).sum(0)
        return F.conv2d(x, kernel, padding=1)


class Resampling(nn.Module):
    """The conditional resampling module (CRM), with explicit filters for every pixel."""

    def __init__(self, num_feat: int, num_expert: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(num_feat + 4, num_feat, 1), nn.ReLU(), nn.Conv2d(num_feat, num_feat, 1),
            nn.ReLU(),
        )  # fmt: skip
        self.offset = nn.Conv2d(num_feat, 2, 1)
        self.routing = nn.Sequential(nn.Conv2d(num_feat, num_expert, 1), nn.Sigmoid())
        hidden = num_feat // 8
        self.weight_compress = nn.Parameter(torch.randn(num_expert, hidden, num_feat, 1, 1) / 8)
        self.weight_expand = nn.Parameter(torch.randn(num_expert, num_feat, hidden, 1, 1) / 8)

    def forward(self, x: Tensor, t: Pair, size: Size) -> Tensor:
        """Shape: (B, C, h, w) -> (B, C, *size)."""
        batch, num_feat = x.shape[:2]
        height, width = size
        i, j = torch.meshgrid(
            torch.arange(height, dtype=torch.float64, device=x.device),
            torch.arange(width, dtype=torch.float64, device=x.device),
            indexing="ij",
        )
        y, row_phase = _position(i, t[0])
        x_, column_phase = _position(j, t[1])
        grid = torch.stack((x_, y), dim=-1).to(x.dtype).expand(batch, -1, -1, -1)
        f0 = _sampled(x, grid)
        maps = torch.stack(
            (torch.full_like(i, 1 / t[0]), torch.full_like(i, 1 / t[1]), row_phase, column_phase)
        )
        conditions = maps.to(x.dtype).expand(batch, -1, -1, -1)
        embedding = self.body(torch.cat((conditions, f0), dim=1))

        offset = self.offset(embedding).permute(0, 2, 3, 1)  # x, then y, in pixels of the input
        f1 = _sampled(x, grid + offset)

        # at every pixel p: W_c(p) = sum_e r_e(p) W_c[e], (C/8, C), and W_x(p), (C, C/8)
        routing = self.routing(embedding).permute(0, 2, 3, 1)
        hidden = self.weight_compress.shape[1]
        compress = (routing @ self.weight_compress.flatten(1)).view(
            batch, height, width, hidden, num_feat
        )
        expand = (routing @ self.weight_expand.flatten(1)).view(
            batch, height, width, num_feat, hidden
        )
        vectors = f1.permute(0, 2, 3, 1).unsqueeze(-1)
        filtered = (expand @ (compress @ vectors)).squeeze(-1).permute(0, 3, 1, 2)
        out: Tensor = f1 + filtered
        return out


def pair(scale: float | Pair) -> Pair:
    """(vertical, horizontal)."""
    return (scale, scale) if isinstance(scale, int | float) else scale


def rounded(lr: Tensor) -> Tensor:
    """``round(255 clamp(lr)) / 255``; the gradient is that of ``c - sin(2 pi c) / (4 pi)``.

    The gradient passes through the clamping unchanged.
    """
    c = lr + (lr.clamp(0, 1) - lr).detach()
    soft = c - torch.sin(2 * math.pi * c) / (4 * math.pi)
    out: Tensor = soft + ((c * 255).round() / 255 - soft).detach()
    return out


def _position(index: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Positions of output samples in input pixels, and their phase within a pixel."""
    at = (index + 0.5) / t
    return at - 0.5, at - torch.floor(at + 1e-3) - 0.5


def _sampled(x: Tensor, grid: Tensor) -> Tensor:
    """Bilinear, zeros outside; ``grid`` holds (x, y) in pixels."""
    height, width = x.shape[-2:]
    sides = torch.tensor([width - 1, height - 1], dtype=x.dtype, device=x.device)
    return F.grid_sample(x, 2 * grid / sides - 1, padding_mode="zeros", align_corners=True)

"""Scale-aware feature adaption of AIDN's trunk.

Paper: Learning a Single Network for Scale-Arbitrary Super-Resolution (ArbSR), ICCV 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rescale_arch.aidn.conditional_resampling import init_experts


class ScaleAwareConv(nn.Module):
    """A 3x3 convolution whose weight is a mixture of experts, routed by the scale.

    All images of a batch have the same scale, so the whole batch shares one kernel.
    """

    def __init__(self, num_feat: int, num_expert: int) -> None:
        super().__init__()
        self.weight_pool = nn.Parameter(torch.empty(num_expert, num_feat, num_feat, 3, 3))
        init_experts(self.weight_pool)
        self.routing = nn.Sequential(
            nn.Linear(2, num_feat), nn.ReLU(True), nn.Linear(num_feat, num_expert), nn.Softmax(-1)
        )

    def forward(self, x: Tensor, inverse: Tensor) -> Tensor:
        """``inverse`` holds (1 / t_vertical, 1 / t_horizontal)."""
        return F.conv2d(x, self.kernel(inverse).to(x.dtype), padding=1)

    def kernel(self, inverse: Tensor) -> Tensor:
        """The weight (C, C, 3, 3) for (1 / t_vertical, 1 / t_horizontal)."""
        return torch.einsum("e,eoikl->oikl", self.routing(inverse), self.weight_pool)


class ScaleAdaption(nn.Module):
    """Adapts features to the scale, weighted by a learned mask: ``x + A(x, t) * M(x)``.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, num_feat: int, num_expert: int) -> None:
        super().__init__()
        hidden = num_feat // 4
        layers: list[nn.Module] = []
        for width in (num_feat, hidden, hidden):
            layers += [nn.Conv2d(width, hidden, 3, 1, 1), nn.BatchNorm2d(hidden), nn.ReLU(True)]
        layers += [nn.Conv2d(hidden, 1, 3, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid()]
        self.mask = nn.Sequential(*layers)
        self.adapt = ScaleAwareConv(num_feat, num_expert)

    def forward(self, x: Tensor, inverse: Tensor) -> Tensor:
        """``inverse`` holds (1 / t_vertical, 1 / t_horizontal)."""
        return torch.addcmul(x, self.adapt(x, inverse), self.mask(x))

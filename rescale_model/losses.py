"""Losses of VQGAN and VQIR that BasicSR does not include.

The papers define losses on images in [-1, 1], while images here are in [0, 1]: the losses on images
below convert from [0, 1], so that a ``loss_weight`` has the same meaning as in the papers.
"""

from __future__ import annotations

import os
import warnings

import rescale_compat  # noqa: F401  must precede torchvision
from rescale_compat.errors import RescaleError

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from rescale_data.weight_file import read_weights

_BLUR = (0.05, 0.25, 0.4, 0.25, 0.05)
_BACKBONES = {
    "vgg": torchvision.models.VGG16_Weights.IMAGENET1K_V1,
    "alex": torchvision.models.AlexNet_Weights.IMAGENET1K_V1,
}


class CodeBookLoss(nn.Module):
    """Moves features and their codes towards each other (VQ-VAE, arXiv 1711.00937, equation 3).

    ``beta * mean((z - sg[codes])^2) + mean((sg[z] - codes)^2)``, where sg stops the gradient:
    the first term trains the encoder, the second the codebook.

    Args:
        loss_weight: factor of the sum.
        beta: weight of the encoder term.
        legacy_beta: apply ``beta`` to the codebook term instead, as in the training of the released
            VQGANs; a bug in their code that its authors kept under this name.
    """

    def __init__(
        self, loss_weight: float = 1.0, beta: float = 0.25, legacy_beta: bool = False
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.encoder_weight, self.book_weight = (1.0, beta) if legacy_beta else (beta, 1.0)

    def forward(self, z: Tensor, codes: Tensor) -> Tensor:
        """Computes the loss of features and their nearest codes.

        Gradients of ``codes`` must reach the codebook.

        Shape:
            any, the same for both -> ()
        """
        encoder = F.mse_loss(z, codes.detach())
        book = F.mse_loss(codes, z.detach())
        return self.loss_weight * (self.encoder_weight * encoder + self.book_weight * book)


class GramLoss(nn.Module):
    """Mean squared difference of Gram matrices over positions (VQIR, IEEE TCSVT 2024).

    The Gram matrix of features X (C, hw) is X^T X / hw: the similarity of each pair of positions.

    Args:
        loss_weight: factor.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Computes the loss of features, of any range.

        Shape:
            (B, C, h, w), the same -> (); memory grows with (h w)^2
        """
        return self.loss_weight * F.mse_loss(_gram(pred), _gram(target))


class EdgeLoss(nn.Module):
    """Mean absolute difference of Laplacians (VQIR; the loss is from MPRNet, arXiv 2102.02808).

    The Laplacian is an image minus its blur after down- and upsampling by two.

    Args:
        loss_weight: factor of the loss on images in [-1, 1]; the inputs are in [0, 1].
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        # a buffer, since a constant would be copied to the GPU in every step
        self.blur: Tensor
        self.register_buffer("blur", torch.tensor(_BLUR), persistent=False)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Computes the loss of images in [0, 1] of any size.

        Shape:
            (B, C, H, W), the same -> ()
        """
        # The Laplacian is linear: the difference of Laplacians is that of the difference, and
        # the range [-1, 1] instead of [0, 1] doubles it.
        return self.loss_weight * 2 * _laplacian(pred - target, self.blur.to(pred)).abs().mean()


class GradientLoss(nn.Module):
    """Mean absolute difference of image gradients at several scales.

    The multi-scale gradient matching term of MiDaS (arXiv 1907.01341) on images: the gradients are
    differences of neighboring pixels, horizontal and vertical, and each scale is the average of
    2 x 2 pixels of the one before. The terms are summed over directions and scales. It penalizes
    blurred edges, large and small, and needs no trained network.

    Args:
        loss_weight: factor of the loss on images in [-1, 1]; the inputs are in [0, 1].
        scales: number of scales; 4: full, 1/2, 1/4 and 1/8 size.

    Raises:
        ValueError: ``scales`` is less than 1.
    """

    def __init__(self, loss_weight: float = 1.0, scales: int = 4) -> None:
        super().__init__()
        if scales < 1:
            raise RescaleError(f"GradientLoss: scales is {scales}: expected at least 1")
        self.loss_weight = loss_weight
        self.scales = scales

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Computes the loss of images in [0, 1].

        Shape:
            (B, C, H, W), the same -> ()

        Raises:
            ValueError: a side is below ``2 ** scales`` pixels.
        """
        height, width = pred.shape[-2:]
        if min(height, width) < 2**self.scales:
            raise RescaleError(
                f"GradientLoss: images of {height} x {width} pixels: {self.scales} scales need "
                f"at least {2**self.scales} x {2**self.scales}"
            )
        # As in EdgeLoss: all of it is linear before the absolute value, and [-1, 1] doubles it.
        difference = 2 * (pred - target)
        loss = _total_variation(difference)
        for _ in range(1, self.scales):
            difference = F.avg_pool2d(difference, 2)
            loss = loss + _total_variation(difference)
        return self.loss_weight * loss


class LPIPSLoss(nn.Module):
    """Learned perceptual distance (LPIPS, CVPR 2018, arXiv 1801.03924), from the package ``lpips``.

    Nothing is downloaded: the package includes its own weights; those of the backbone are read from
    a file.

    Args:
        loss_weight: factor.
        net: backbone, ``vgg`` or ``alex``.
        backbone: file of torchvision's ImageNet weights for it; default: the file where torchvision
            stores them, in the folder ``checkpoints`` of ``torch.hub.get_dir()``.

    Raises:
        ValueError: ``net`` is unknown, ``lpips`` is not installed, or the file does not match.
        FileNotFoundError: the backbone weights do not exist; the message states where to get them.
    """

    def __init__(
        self, loss_weight: float = 1.0, net: str = "vgg", backbone: str | None = None
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        if net not in _BACKBONES:
            raise RescaleError(
                f"LPIPSLoss: net is {net!r}: expected one of {', '.join(_BACKBONES)}"
            )
        try:
            import lpips
        except ModuleNotFoundError as error:
            raise RescaleError(
                "LPIPSLoss needs a package that is not installed: pip install lpips"
            ) from error
        url = _BACKBONES[net].url
        path = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(url))
        path = os.path.expanduser(backbone) if backbone is not None else path
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"LPIPSLoss: no backbone weights at {path}: download {url} to this path, or "
                "specify their file in the option backbone"
            )
        with warnings.catch_warnings():
            # torchvision's warning: lpips uses a deprecated argument for "no weights"
            warnings.simplefilter("ignore")
            self.distance = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        _load_backbone(self.distance.net, path)
        self.distance.requires_grad_(False).eval()

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Computes the loss of RGB images in [0, 1].

        Shape:
            (B, 3, H, W), the same -> ()
        """
        distance: Tensor = self.distance(pred, target, normalize=True)
        return self.loss_weight * distance.mean()


def _total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of neighbors, summed over both directions."""
    return x.diff(dim=-1).abs().mean() + x.diff(dim=-2).abs().mean()


def _gram(x: Tensor) -> Tensor:
    x = x.flatten(2)
    return x.mT @ x / x.shape[-1]


def _laplacian(x: Tensor, kernel: Tensor) -> Tensor:
    half = _blur(x, kernel)[..., ::2, ::2]
    spread = torch.zeros_like(x)
    spread[..., ::2, ::2] = half * 4
    return x - _blur(spread, kernel)


def _blur(x: Tensor, kernel: Tensor) -> Tensor:
    channels = x.shape[1]
    row = kernel.expand(channels, 1, 1, -1)
    x = F.pad(x, (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(x, row, groups=channels), row.mT, groups=channels)


def _load_backbone(net: nn.Module, path: str) -> None:
    """Loads torchvision's ``features.<index>.*`` into lpips' ``slice<number>.<index>.*``."""
    weights = read_weights(path)
    own = net.state_dict()
    sources = {name: f"features.{name.partition('.')[2]}" for name in own}
    for name, source in sources.items():
        if source not in weights or weights[source].shape != own[name].shape:
            raise RescaleError(
                f"{path}: not weights of the LPIPS backbone, {source} does not match"
            )
    net.load_state_dict({name: weights[source] for name, source in sources.items()})

"""The discriminator in the generator's step: scores and feature matching."""

from __future__ import annotations

from typing import Any

from rescale_compat.errors import RescaleError

import torch
from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Critic:
    """Runs a discriminator to compute losses of the generator.

    Feature matching (pix2pixHD, arXiv 1711.11585, equation 3) is a perceptual loss that needs no
    other trained network: ``sum_i loss(D_i(restored), D_i(real))``, where D_i is the output of the
    i-th convolution, all but the last one, whose output is the score. An activation function that
    is applied in place, as in BasicSR's discriminators, is included. Gradients reach the restored
    images alone.

    Args:
        discriminator: the network, not wrapped for distributed training. The caller freezes it.
        feature_loss: loss of two tensors of any shape; None: no feature matching.

    Raises:
        ValueError: feature matching needs at least two convolutions.
    """

    def __init__(self, discriminator: nn.Module, feature_loss: nn.Module | None) -> None:
        self._discriminator = discriminator
        self._feature_loss = feature_loss
        self._convolutions = [m for m in discriminator.modules() if isinstance(m, _CONVOLUTIONS)]
        if feature_loss is not None and len(self._convolutions) < 2:
            raise RescaleError(
                f"option train: feature_opt: {type(discriminator).__name__} has "
                f"{len(self._convolutions)} convolutions; features are compared after all but the "
                "last one, so at least two are required"
            )

    def __call__(
        self, restored: Tensor, real: Tensor, autocast: torch.autocast
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Scores restored images.

        Args:
            restored: images, with gradient.
            real: the original images; used only for feature matching.
            autocast: precision of the discriminator; results are in single precision.

        Returns:
            The scores of ``restored``, and with feature matching the loss ``l_feat``.

        Shape:
            (B, C, H, W), the same -> (B, ...)
        """
        if self._feature_loss is None:
            with autocast:
                score: Tensor = self._discriminator(restored)
            return score.float(), {}
        # One pass, so that both batches see the same weights: in training mode, spectral norm
        # changes them with every pass.
        with autocast:
            scores, features = self._observe(torch.cat([restored, real.to(restored.dtype)]))
        loss = restored.new_zeros(())
        for feature in features:
            of_restored, of_real = feature.float().chunk(2)
            loss = loss + self._feature_loss(of_restored, of_real.detach())
        return scores.chunk(2)[0].float(), {"l_feat": loss}

    def _observe(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The scores, and the outputs of all convolutions but the last."""
        features: list[Tensor] = []

        def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
            features.append(output)

        hooks = [module.register_forward_hook(record) for module in self._convolutions]
        try:
            scores: Tensor = self._discriminator(images)
        finally:
            for hook in hooks:
                hook.remove()
        return scores, features[:-1]

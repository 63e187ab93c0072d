"""Training and validation of VQIR's second stage, the refinement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr
from rescale_compat.errors import RescaleError

import torch
from pydantic import Field
from torch import Tensor, nn

from rescale_arch import VQIR
from rescale_arch.architecture import identify
from rescale_arch.bicubic import bicubic_lr
from rescale_arch.images import from_unit
from rescale_arch.regions import collect
from rescale_arch.vqir.network import Levels
from rescale_model.evaluation.round_trip import EvaluatedImage, against_bicubic, downscale
from rescale_model.models.base_options import (
    DiscriminatorPathOptions,
    DiscriminatorTrainOptions,
    RescalingOptions,
    TileOptions,
)
from rescale_model.models.discriminator import build_critic, build_discriminator
from rescale_model.models.vqir import ColorOrder, VQIRModel, contents
from rescale_model.option_types import Loss, Network, Optimizer


class VQIRRefineTrainOptions(DiscriminatorTrainOptions):
    """Training of stage 2."""

    pixel_opt: Loss = Field(description="loss of the images of three sizes; in the paper L1Loss")
    edge_opt: Loss = Field(
        description="loss of their edges; in the paper EdgeLoss with weight 0.05"
    )
    gan_opt: Loss = Field(description="GAN loss; in the paper GANLoss (hinge) with weight 0.1")
    percep_opt: Loss | None = Field(
        None,
        description="perceptual loss of images in [0, 1]: LPIPSLoss, as in the paper, or "
        "GradientLoss, which needs no pretrained weights. Default: none",
    )
    optim_d: Optimizer = Field(description="optimizer of the discriminator, as `optim_g`")


class VQIRRefineOptions(
    RescalingOptions[VQIRRefineTrainOptions, TileOptions, DiscriminatorPathOptions]
):
    """An option file of stage 2."""

    color_order: ColorOrder = "rgb"
    network_d: Network | None = Field(
        None,
        description="discriminator, such as BasicSR's `UNetDiscriminatorSN`; required for training",
    )


class VQIRRefineModel(VQIRModel):
    """Stage 2: trains the refinement of the decoder's features against a discriminator.

    Loss: ``pixel_opt`` and ``edge_opt``, summed over the images of full, half and quarter size;
    for the full-size image also ``percep_opt`` and, from ``gan_start`` on, ``gan_opt`` and
    ``feature_opt``. The targets of the smaller sizes are bicubic, computed on the device.
    """

    OPTIONS = VQIRRefineOptions
    stage = 2
    evaluated = ("hr", "half", "quarter", "lr", "bicubic")

    def check_start(self, path: Mapping[str, Any]) -> None:
        """Checks that the options name the weights to start training from.

        Raises:
            ValueError: they do not.
        """
        if not path.get("pretrain_network_g"):
            raise RescaleError(
                "option path: pretrain_network_g is missing: stage 2 starts from weights of stage 1"
            )

    def acceptable(self, factor: int) -> dict[str, str | None]:
        """Weights of stage 1 to start from, of stage 2 otherwise."""
        start: dict[str, str | None] = {contents(factor, 1): "refine"}
        same: dict[str, str | None] = {contents(factor, 2): None}
        return {**start, **same} if self.is_train and not self.resumes else same

    # training ---------------------------------------------------------------------------------

    def init_training_settings(self) -> None:
        """Also builds the discriminator."""
        if not self.opt.get("network_d"):
            raise RescaleError("option network_d is missing: stage 2 requires a discriminator")
        self.net_d = build_discriminator(self)
        super().init_training_settings()

    def build_losses(self) -> None:
        """Builds the losses; the perceptual one is optional."""
        self.cri_pix = self.build_loss("pixel_opt")
        self.cri_edge = self.build_loss("edge_opt")
        self.cri_gan = self.build_loss("gan_opt")
        self.cri_percep = None
        if self.opt["train"].get("percep_opt"):
            self.cri_percep = self.build_loss("percep_opt")
        self.critic = build_critic(self)
        self.gan_start: int = self.opt["train"]["gan_start"]

    def setup_optimizers(self) -> None:
        """Sets up an optimizer for the refinement and one for the discriminator."""
        super().setup_optimizers()
        if not self.opt["train"].get("optim_d"):
            raise RescaleError(
                "option train: optim_d is missing: the optimizer of the discriminator"
            )
        self.optimizer_d = self.add_optimizer("optim_d", self.net_d.parameters())

    def losses(self, current_iter: int) -> dict[str, Tensor]:
        """The losses of the images of three sizes."""
        with self.autocast("train"):
            levels = self.net_g(self.gt)
        assert isinstance(levels, Levels)
        images = Levels(*(level.float() for level in levels))
        self.restored = images.full.detach()
        l_pix = l_edge = self.gt.new_zeros(())
        for image, target in zip(images, _targets(self.gt), strict=True):
            l_pix = l_pix + self.cri_pix(from_unit(image), from_unit(target))
            l_edge = l_edge + self.cri_edge(image, target)
        losses = {"l_pix": l_pix, "l_edge": l_edge}
        if current_iter >= self.gan_start:
            pair = from_unit(images.full), from_unit(self.gt)
            score, features = self.critic(*pair, self.autocast("train"))
            losses |= {"l_gan": self.cri_gan(score, True, is_disc=False), **features}
        if self.cri_percep is not None:
            losses["l_percep"] = self.cri_percep(images.full, self.gt)
        return losses

    def backward(self, current_iter: int) -> None:
        """Gradients of the refinement, then of the discriminator."""
        self.net_d.requires_grad_(False)
        super().backward(current_iter)
        self.net_d.requires_grad_(True)
        if current_iter < self.gan_start:
            return
        with self.autocast("train"):
            scores = self.net_d(from_unit(torch.cat((self.gt, self.restored))))
        real, restored = scores.float().chunk(2)
        self.step.add_gradients(
            {
                "l_d_real": self.cri_gan(real, True, is_disc=True),
                "l_d_fake": self.cri_gan(restored, False, is_disc=True),
            }
        )

    # files ------------------------------------------------------------------------------------

    def save(self, epoch: int, current_iter: int) -> None:
        """Also saves the discriminator.

        Raises:
            OSError: a file cannot be written.
        """
        self.save_network(self.net_d, "net_d", current_iter)
        super().save(epoch, current_iter)

    # validation -------------------------------------------------------------------------------

    def round_trip(
        self, net: nn.Module, name: str, gt: Tensor, case: tuple[float, float]
    ) -> dict[str, EvaluatedImage]:
        """As in stage 1, with ``half`` and ``quarter`` compared with bicubic targets.

        Metrics exclude a border of 16, 8 and 4 pixels for either factor.
        """
        assert isinstance(net, VQIR)
        assert self.evaluation is not None
        size, tile = (gt.shape[-2], gt.shape[-1]), self.opt["val"].get("tile")
        lr = self.evaluation.stored(name, downscale(net, gt, case, tile, self.effort))
        targets = _targets(gt)
        if tile is None:
            images: Sequence[Tensor] = net.levels(lr, size=size)
        else:
            images = collect(
                lambda read, *writes: net.levels_tiles(size, read, writes, tile),
                lr,
                *((target.shape[-2], target.shape[-1]) for target in targets),
            )
        evaluated = against_bicubic(identify(net.state_dict()), lr, gt, case, self.fingerprint)
        for which, image, target, edge in zip(
            ("hr", "half", "quarter"), images, targets, (16, 8, 4), strict=True
        ):
            evaluated[which] = EvaluatedImage(image, target, edge)
        evaluated["bicubic"] = replace(evaluated["bicubic"], border=16)
        return evaluated


def _targets(hr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return hr, bicubic_lr(hr, 2), bicubic_lr(hr, 4)

"""Training and validation of stage 2 of VQIR, its refinement, on top of stage 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import rescale_compat  # noqa: F401  first: it lets basicsr import
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
from rescale_model.models.vqir import ColorOrder, VQIRModel, contents
from rescale_model.option_types import Loss, Network, Optimizer
from rescale_model.training.critic import Critic


class VQIRRefineTrainOptions(DiscriminatorTrainOptions):
    """Training of stage 2."""

    pixel_opt: Loss = Field(description="loss of the images of three sizes; the paper's is L1Loss")
    edge_opt: Loss = Field(
        description="loss of their edges; the paper's is EdgeLoss of weight 0.05"
    )
    gan_opt: Loss = Field(
        description="loss of the discriminator; the paper's is GANLoss (hinge) of weight 0.1"
    )
    percep_opt: Loss | None = Field(
        None,
        description="perceptual loss of images in [0, 1], the paper's is LPIPSLoss; GradientLoss "
        "needs no weights; by default none",
    )
    optim_d: Optimizer = Field(description="optimiser of the discriminator, as `optim_g`")


class VQIRRefineOptions(
    RescalingOptions[VQIRRefineTrainOptions, TileOptions, DiscriminatorPathOptions]
):
    """An option file of stage 2."""

    color_order: ColorOrder = "rgb"
    network_d: Network | None = Field(
        None,
        description="the discriminator, such as BasicSR's `UNetDiscriminatorSN`; needed for "
        "training",
    )


class VQIRRefineModel(VQIRModel):
    """Stage 2, which trains the refinement of the decoder's features against a discriminator.

    Loss: ``pixel_opt`` and ``edge_opt``, each summed over the images of full, half and quarter
    size; ``percep_opt`` and, from ``gan_start`` on, ``gan_opt`` and ``feature_opt`` of the image of
    full size. Targets of the smaller sizes are bicubic, made on the device.
    """

    OPTIONS = VQIRRefineOptions
    stage = 2
    evaluated = ("hr", "half", "quarter", "lr", "bicubic")

    def check_start(self, path: Mapping[str, Any]) -> None:
        """Checks that training starts from weights.

        Raises:
            ValueError: it does not.
        """
        if not path.get("pretrain_network_g"):
            raise RescaleError(
                "option path: pretrain_network_g is missing: stage 2 starts from a file of stage 1"
            )

    def acceptable(self, factor: int) -> dict[str, str | None]:
        """Of stage 1 for a start, of stage 2 otherwise."""
        start: dict[str, str | None] = {contents(factor, 1): "refine"}
        same: dict[str, str | None] = {contents(factor, 2): None}
        return {**start, **same} if self.is_train and not self.resumes else same

    # training ---------------------------------------------------------------------------------

    def init_training_settings(self) -> None:
        """Builds the discriminator as well."""
        if not self.opt.get("network_d"):
            raise RescaleError("option network_d is missing: stage 2 trains with a discriminator")
        self.build_discriminator()
        super().init_training_settings()

    def build_losses(self) -> None:
        """Builds the losses; the perceptual one only where the options have it."""
        self.cri_pix = self.build_loss("pixel_opt")
        self.cri_edge = self.build_loss("edge_opt")
        self.cri_gan = self.build_loss("gan_opt")
        self.cri_percep = None
        if self.opt["train"].get("percep_opt"):
            self.cri_percep = self.build_loss("percep_opt")
        cri_feature = None
        if self.opt["train"].get("feature_opt"):
            cri_feature = self.build_loss("feature_opt")
        # bare: in the network's step there are no gradients of the discriminator to gather
        self.critic = Critic(self.get_bare_model(self.net_d), cri_feature)
        self.gan_start: int = self.opt["train"]["gan_start"]

    def setup_optimizers(self) -> None:
        """One for the refinement, one for the discriminator."""
        super().setup_optimizers()
        if not self.opt["train"].get("optim_d"):
            raise RescaleError("option train: optim_d is missing: the discriminator's optimiser")
        self.setup_discriminator_optimizer()

    def losses(self, current_iter: int) -> dict[str, Tensor]:
        """Those of the images of three sizes."""
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
        self.add_gradients(
            {
                "l_d_real": self.cri_gan(real, True, is_disc=True),
                "l_d_fake": self.cri_gan(restored, False, is_disc=True),
            }
        )

    # files ------------------------------------------------------------------------------------

    def save(self, epoch: int, current_iter: int) -> None:
        """Saves the discriminator as well.

        Raises:
            OSError: a file cannot be written.
        """
        self.save_network(self.net_d, "net_d", current_iter)
        super().save(epoch, current_iter)

    # validation -------------------------------------------------------------------------------

    def round_trip(
        self, net: nn.Module, name: str, gt: Tensor, case: tuple[float, float]
    ) -> dict[str, EvaluatedImage]:
        """As in stage 1; ``half`` and ``quarter`` against bicubic targets.

        The border that metrics leave out is 16, 8 and 4 pixels wide, whatever the factor.
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

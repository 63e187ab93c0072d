"""Training and validation of VQGAN (arXiv 2012.09841)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr
from rescale_compat.errors import RescaleError

import torch
import torch.distributed as dist
from basicsr.losses import build_loss
from pydantic import Field
from torch import Tensor, nn

from rescale_arch.images import from_unit
from rescale_model.evaluation.round_trip import EvaluatedImage
from rescale_model.models.base import RescalingModel
from rescale_model.models.base_options import (
    DiscriminatorPathOptions,
    DiscriminatorTrainOptions,
    RescalingOptions,
    ValOptions,
)
from rescale_model.models.discriminator import build_critic, build_discriminator
from rescale_model.option_types import Loss, Network, Optimizer

_MAX_ADAPTIVE_WEIGHT = 1e4


class VQGANTrainOptions(DiscriminatorTrainOptions):
    """Training of VQGAN."""

    pixel_opt: Loss = Field(
        description="loss of the restored image, in the paper L1Loss; computed on images in [-1, "
        "1], so that weights have the same meaning as in the paper"
    )
    percep_opt: Loss | None = Field(
        None,
        description="perceptual loss of images in [0, 1]: LPIPSLoss; GradientLoss, which needs no "
        "pretrained weights; or another loss of two images. Default: none",
    )
    codebook_opt: Loss = Field(description="loss of features and their codes: CodeBookLoss")
    gan_opt: Loss | None = Field(
        None,
        description="GAN loss, in the paper hinge. `network_d`, `gan_opt` and `optim_d` require "
        "one another",
    )
    optim_d: Optimizer | None = Field(
        None, description="optimizer of the discriminator, as `optim_g`"
    )
    adaptive_weight: bool = Field(
        True,
        description="true: the weight of the GAN loss adapts to the gradients at the decoder's "
        "last layer; false: it is `loss_weight`",
    )
    revive_codes: float = Field(
        0,
        ge=0,
        description="number of iterations after which codes that have not been the nearest to any "
        "feature vector are replaced by feature vectors of the current batch; the "
        "codebook of a new network is initialized likewise from its first batch. 0, "
        "as in the paper: neither",
    )


class VQGANOptions(RescalingOptions[VQGANTrainOptions, ValOptions, DiscriminatorPathOptions]):
    """An option file of VQGAN."""

    network_d: Network | None = Field(
        None,
        description="discriminator of images in [0, 1], such as BasicSR's `UNetDiscriminatorSN`",
    )


class VQGANModel(RescalingModel):
    """Loss: ``pixel + perceptual + codebook``, and from ``gan_start`` on ``+ weight * GAN``.

    With ``feature_opt``, feature matching is added from ``gan_start`` on as well.

    With ``adaptive_weight``, the weight is ``loss_weight`` of ``gan_opt`` times the ratio of two
    gradient norms at the decoder's last layer (equation 7 of the paper), at most 10,000: that of
    the pixel and perceptual losses over that of the GAN loss. Both then have equal influence there.

    The log contains ``codes_used``, the fraction of codes used since the previous line, and their
    ``perplexity``, the number of equally frequent codes that would have the same entropy.
    """

    OPTIONS = VQGANOptions
    evaluated = ("hr",)

    def build_losses(self) -> None:
        """Builds the losses and, if the options have one, the discriminator."""
        train_opt = self.opt["train"]
        self.cri_pix = self.build_loss("pixel_opt")
        self.cri_codebook = self.build_loss("codebook_opt")
        self.cri_percep = self.build_loss("percep_opt") if train_opt.get("percep_opt") else None
        self.revive_codes: int = train_opt["revive_codes"]
        book = self.get_bare_model(self.net_g).quantize.embedding
        self.logged_usage = CodeUsage(book.num_embeddings, self.device)
        self.usage = CodeUsage(book.num_embeddings, self.device)
        self._build_discriminator()

    def _build_discriminator(self) -> None:
        train_opt = self.opt["train"]
        given = {
            "network_d": self.opt.get("network_d"),
            "train: gan_opt": train_opt.get("gan_opt"),
            "train: optim_d": train_opt.get("optim_d"),
        }
        self.adversarial = any(given.values())
        if not self.adversarial:
            if train_opt.get("feature_opt"):
                raise RescaleError(
                    f"option train: feature_opt requires a discriminator: {_list(given)}"
                )
            return
        for name, value in given.items():
            if not value:
                raise RescaleError(
                    f"option {name} is missing: a discriminator requires {_list(given)}"
                )
        self.gan_start: int = train_opt["gan_start"]
        self.gan_weight: float = train_opt["gan_opt"].get("loss_weight", 1.0)
        self.adaptive_weight: bool = train_opt["adaptive_weight"]
        self.cri_gan = build_loss({**train_opt["gan_opt"], "loss_weight": 1.0}).to(self.device)
        self.net_d = build_discriminator(self)
        self.critic = build_critic(self)

    def setup_optimizers(self) -> None:
        """Sets up an optimizer for the network and one for the discriminator."""
        super().setup_optimizers()
        if self.adversarial:
            self.optimizer_d = self.add_optimizer("optim_d", self.net_d.parameters())

    # training ---------------------------------------------------------------------------------

    def losses(self, current_iter: int) -> dict[str, Tensor]:
        """The losses of the network; those of the discriminator follow in :meth:`backward`."""
        with self.autocast("train"):
            restored, z, codes, self.indices = self.net_g(self.gt)
        self.z, self.restored = z.detach(), restored.detach()
        restored = restored.float()
        losses = {"l_pix": self.cri_pix(from_unit(restored), from_unit(self.gt))}
        if self.cri_percep is not None:
            losses["l_percep"] = self.cri_percep(restored, self.gt)
        if self._is_adversarial(current_iter):
            losses |= self._adversarial_losses(restored, likeness=sum(losses.values()))
        losses["l_codebook"] = self.cri_codebook(z.float(), codes.float())
        return losses

    def backward(self, current_iter: int) -> None:
        """Gradients of the network, then of the discriminator."""
        super().backward(current_iter)
        if self._is_adversarial(current_iter):
            self._add_discriminator_gradients()

    def after_step(self, current_iter: int) -> None:
        """Updates the average network and the usage of codes, and revives unused codes."""
        super().after_step(current_iter)
        for usage in (self.usage, self.logged_usage):
            usage.add(self.indices)
        if self.revive_codes:
            is_new = self.opt["path"].get("pretrain_network_g") is None and current_iter == 1
            if is_new or self.usage.iterations >= self.revive_codes:
                self._revive_codes(current_iter)

    def get_current_log(self) -> dict[str, float]:
        """The losses of the last step, and the codebook usage since the last call."""
        log = super().get_current_log()
        if self.logged_usage.iterations:
            log["codes_used"] = self.logged_usage.share()
            log["perplexity"] = self.logged_usage.perplexity()
            self.logged_usage.clear()
        return log

    def _is_adversarial(self, current_iter: int) -> bool:
        return self.adversarial and current_iter >= self.gan_start

    def _adversarial_losses(self, restored: Tensor, likeness: Tensor) -> dict[str, Tensor]:
        """The weighted GAN loss and, if the options have it, feature matching.

        The adaptive weight compares the GAN loss with ``likeness``.
        """
        self.net_d.requires_grad_(False)
        score, features = self.critic(restored, self.gt, self.autocast("train"))
        loss: Tensor = self.cri_gan(score, True)
        self.gan_factor = loss.new_full((), self.gan_weight)
        if self.adaptive_weight:
            last_layer = self.get_bare_model(self.net_g).last_layer
            norms = [
                torch.autograd.grad(of, last_layer, retain_graph=True)[0].norm()
                for of in (likeness, loss)
            ]
            ratio = norms[0] / (norms[1] + 1e-4)
            self.gan_factor *= ratio.clamp(0, _MAX_ADAPTIVE_WEIGHT).detach()
        return {"l_gan": self.gan_factor * loss, **features}

    def _add_discriminator_gradients(self) -> None:
        self.net_d.requires_grad_(True)
        with self.autocast("train"):
            scores = self.net_d(torch.cat([self.gt, self.restored.to(self.gt.dtype)]))
        real, fake = scores.float().chunk(2)
        loss = self.cri_gan(real, True, is_disc=True) + self.cri_gan(fake, False, is_disc=True)
        self.step.add_gradients({"l_d": loss / 2})
        self.step.logged |= {
            "out_d_real": real.detach().mean(),
            "out_d_fake": fake.detach().mean(),
            "gan_weight": self.gan_factor,
        }

    @torch.no_grad()
    def _revive_codes(self, current_iter: int) -> None:
        """Replaces unused codes by feature vectors of the current batch."""
        dead = (self.usage.counts() == 0).nonzero()[:, 0]
        book = self.get_bare_model(self.net_g).quantize.embedding.weight
        vectors = self.z.permute(0, 2, 3, 1).flatten(0, 2).to(book.dtype)
        # a function of (seed, iteration), so that resuming is exact
        generator = torch.Generator().manual_seed(self.opt["manual_seed"] + current_iter)
        chosen = torch.randint(len(vectors), (len(dead),), generator=generator)
        book[dead] = vectors[chosen.to(self.device)]
        if self.opt["dist"]:
            dist.broadcast(book, src=0)  # ranks have different batches
        self.usage.clear()

    def training_state(self) -> dict[str, Any]:
        """Adds the code usage."""
        usages = {"usage": self.usage.state(), "logged_usage": self.logged_usage.state()}
        return {**super().training_state(), **usages}

    def resume_training(self, resume_state: Mapping[str, Any]) -> None:
        """Resumes from a training state.

        Raises:
            ValueError: it belongs to a training with other optimizers.
        """
        super().resume_training(resume_state)
        for name in ("usage", "logged_usage"):
            if name in resume_state:
                getattr(self, name).resume(resume_state[name], self.opt["rank"])

    def save(self, epoch: int, current_iter: int) -> None:
        """Saves the networks, then what resuming needs."""
        if self.adversarial:
            self.save_network(self.net_d, "net_d", current_iter)
        super().save(epoch, current_iter)

    # validation -------------------------------------------------------------------------------

    def validation_cases(self) -> dict[str, Any]:
        """One case: reconstruction."""
        return {"vq": None}

    def round_trip(
        self, net: nn.Module, name: str, gt: Tensor, case: Any
    ) -> dict[str, EvaluatedImage]:
        """Reconstructs ``gt`` as ``hr``, with a border of f pixels as for VQIR."""
        return {"hr": EvaluatedImage(net(gt).restored, gt, net.vq_factor)}  # type: ignore[arg-type]


class CodeUsage:
    """Counts how often each code is used.

    Args:
        size: number of codes.
        device: device of the indices.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._counts = torch.zeros(size, dtype=torch.int64, device=device)
        self.iterations = 0

    def add(self, indices: Tensor) -> None:
        """Counts the codes of a batch."""
        # bincount would synchronize with the GPU, to find the largest index
        indices = indices.flatten()
        self._counts.scatter_add_(0, indices, torch.ones_like(indices))
        self.iterations += 1

    def clear(self) -> None:
        """Forgets everything."""
        self._counts.zero_()
        self.iterations = 0

    def state(self) -> dict[str, Any]:
        """The state for :meth:`resume`, summed over all ranks, each of which must call it."""
        return {"counts": self.counts().cpu(), "iterations": self.iterations}

    def resume(self, state: Mapping[str, Any], rank: int) -> None:
        """Continues from a state; rank 0 takes over the counts of all ranks."""
        if rank == 0:
            self._counts.copy_(state["counts"])
        self.iterations = state["iterations"]

    def counts(self) -> Tensor:
        """The count of each code, summed over all ranks, each of which must call it."""
        counts = self._counts.clone()
        if dist.is_initialized():
            dist.all_reduce(counts)
        return counts

    def share(self) -> float:
        """The fraction of codes in use on any rank; all ranks must call it."""
        return float((self.counts() > 0).double().mean())

    def perplexity(self) -> float:
        """2 to the power of the codes' entropy in bits, over all ranks, which must all call it."""
        counts = self.counts().double()
        probabilities = counts / counts.sum()
        return float(torch.special.entr(probabilities).sum().exp())


def _list(names: Mapping[str, Any]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}"

"""Training and validation of VQIR, rescaling by 16 and 32, in its two stages.

Paper: Towards Extreme Image Rescaling with Generative Prior and Invertible Prior, IEEE TCSVT 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import rescale_compat  # noqa: F401  first: it lets basicsr import

import torch
from torch import Tensor, nn

from rescale_arch import VQIR, imresize
from rescale_arch.official_weights import (
    load_strictly,
    swap_color_order,
    vqgan_config,
    vqir_config,
)
from rescale_arch.scales import Size
from rescale_arch.vqgan_arch import from_unit
from rescale_arch.vqir_arch import Levels, Recovered
from rescale_arch.vqir_tiling import downscale_tiles, levels_tiles, upscale_tiles
from rescale_data.image_file import LRInfo
from rescale_model.evaluation import Judged
from rescale_model.rescaling_model import RescalingModel, move_average
from rescale_model.tiled import in_tiles

COLOR_ORDERS = ("rgb", "bgr")
_LR_BORDER = 1


class VQIRModel(RescalingModel):
    """Stage 1, which trains the invertible module on top of a frozen VQGAN.

    Loss: ``guide_opt(lr, bicubic LR) + code_opt(zb, zq) + gram_opt(zb, zq)``. As in the paper, and
    so that weights mean the same, losses of images are those of images in [-1, 1]: here and in
    stage 2 BasicSR's losses and the discriminator get such images, while EdgeLoss and LPIPSLoss
    convert the [0, 1] images that they take themselves.

    What is frozen gets no gradient, no optimiser state and no average: where ``ema_decay`` is over
    0, the averaged network consists of the trained part's average and of the very modules that are
    frozen. Files hold whole networks all the same.

    Options beyond :class:`~rescale_model.rescaling_model.RescalingModel`'s:
        ``path: pretrain_network_vqgan`` -- VQGAN to start from, with ``param_key_vqgan``;
        ``path: pretrain_network_g`` -- a file of stage 1 to start from instead;
        ``color_order`` -- ``rgb`` (default) or ``bgr``: what the weights to start from, or to test,
        were trained on. Files that training saves are always for RGB;
        ``train: guide_opt``, ``train: code_opt``, ``train: gram_opt`` -- see above; the paper's are
        MSELoss of weight 0.5, MSELoss, GramLoss;
        ``val: tile`` -- side of the tiles that images are validated in, which bounds the memory
        that they take; by default they are taken whole (see :mod:`rescale_arch.vqir_tiling`).
    """

    stage = 1

    def __init__(self, opt: dict[str, Any]) -> None:
        network, path = opt["network_g"], opt["path"]
        if network.get("type") != "VQIR":
            raise ValueError(
                f"option network_g: type is {network.get('type')!r}: {type(self).__name__} "
                "needs VQIR"
            )
        stage = network.get("stage", 1)
        if stage != self.stage:
            raise ValueError(
                f"option network_g: stage is {stage!r}, but {type(self).__name__} is for stage "
                f"{self.stage}: stage 1 has VQIRModel, stage 2 VQIRRefineModel"
            )
        if not path.get("strict_load_g", True):
            raise ValueError("option path: strict_load_g is false: VQIR loads whole files only")
        self.color_order: str = opt.get("color_order") or "rgb"
        if self.color_order not in COLOR_ORDERS:
            raise ValueError(
                f"option color_order is {self.color_order!r}: valid are {', '.join(COLOR_ORDERS)}"
            )
        self.resumes = bool(path.get("resume_state"))
        if opt["is_train"] and not self.resumes:
            self.check_start(path)
        elif not path.get("pretrain_network_g"):
            raise ValueError(
                "option path: pretrain_network_g is missing: the weights to test, or to resume with"
            )
        super().__init__(opt)

    def check_start(self, path: Mapping[str, Any]) -> None:
        """Checks that training starts from weights.

        Raises:
            ValueError: it does not.
        """
        starts = [path.get(f"pretrain_network_{label}") for label in ("vqgan", "g")]
        if bool(starts[0]) == bool(starts[1]):
            raise ValueError(
                "option path: stage 1 starts from pretrain_network_vqgan, the file of a VQGAN, or "
                f"from pretrain_network_g, one of stage 1; {'both' if starts[0] else 'none'} given"
            )

    # training ---------------------------------------------------------------------------------

    def init_training_settings(self) -> None:
        """Loads the VQGAN; the averaged network gets the frozen parts themselves."""
        path = self.opt["path"]
        if path.get("pretrain_network_vqgan") and not self.resumes:
            self._load(
                self.get_bare_model(self.net_g),
                path["pretrain_network_vqgan"],
                path.get("param_key_vqgan", "params"),
                {"a VQGAN": "icrm"},
            )
        super().init_training_settings()
        if self.ema_decay > 0:
            for name, part in self.get_bare_model(self.net_g).named_children():
                if name != self.net_g_ema.trained_part:
                    setattr(self.net_g_ema, name, part)

    def build_losses(self) -> None:
        """Builds the three losses."""
        self.cri_guide = self.build_loss("guide_opt")
        self.cri_code = self.build_loss("code_opt")
        self.cri_gram = self.build_loss("gram_opt")

    def losses(self, current_iter: int) -> dict[str, Tensor]:
        """Those of the LR image and of the codes that are recovered from it."""
        with self.autocast("train"):
            recovered = self.net_g(self.gt)
        assert isinstance(recovered, Recovered)
        guide = reduced(self.gt, self.get_bare_model(self.net_g).factor)
        zb, zq = recovered.zb.float(), recovered.zq.float()
        return {
            "l_guide": self.cri_guide(from_unit(recovered.lr.float()), from_unit(guide)),
            "l_code": self.cri_code(zb, zq),
            "l_gram": self.cri_gram(zb, zq),
        }

    def model_ema(self, decay: float = 0.999) -> None:
        """Moves the average of the trained part towards it."""
        net, average = self.get_bare_model(self.net_g), self.net_g_ema
        assert isinstance(average, VQIR)
        move_average(average.trained_parameters(), net.trained_parameters(), decay)

    # files ------------------------------------------------------------------------------------

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = "params"
    ) -> None:
        """Loads a file of this stage, or one that this stage may start from.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file holds something else, or does not fit; the message says what.
        """
        net = self.get_bare_model(net)
        if isinstance(net, VQIR):
            self._load(net, load_path, param_key, self.acceptable(net.factor))
        else:
            super().load_network(net, load_path, strict, param_key)

    def acceptable(self, factor: int) -> dict[str, str | None]:
        """What ``pretrain_network_g`` may hold, and which part of the network it lacks."""
        return {_vqir(factor, 1): None}

    def _load(
        self, net: VQIR, path: str, param_key: str | None, acceptable: Mapping[str, str | None]
    ) -> None:
        weights = self.read_network(path, param_key)
        content = _content(weights)
        if content not in acceptable:
            raise ValueError(f"{path} holds {content}: {' or '.join(acceptable)} is needed")
        if self.color_order == "bgr" and not self.resumes:
            weights = swap_color_order(weights)
        load_strictly(net, weights, path, without=acceptable[content])

    # validation -------------------------------------------------------------------------------

    def validation_cases(self) -> dict[str, int]:
        """The factor, as ``x16``."""
        factor: int = self.get_bare_model(self.net_g).factor
        return {f"x{factor}": factor}

    def round_trip(self, net: nn.Module, name: str, gt: Tensor, case: int) -> dict[str, Judged]:
        """``lr`` against bicubic LR; ``hr`` and ``bicubic`` (both ways) against ``gt``.

        The border that metrics leave out is as wide as the factor; of the LR image one pixel.
        """
        assert isinstance(net, VQIR)
        lr, judged = self._downscaled(net, name, gt)
        size = _size(gt)
        tile = self._tile(size)
        (restored,) = in_tiles(
            lambda read, write: upscale_tiles(net, size, read, write, tile), lr, size
        )
        return judged | {
            "hr": Judged(restored, gt, case),
            "bicubic": Judged(_bicubic(gt, case), gt, case),
        }

    def _downscaled(self, net: VQIR, name: str, gt: Tensor) -> tuple[Tensor, dict[str, Judged]]:
        assert self.evaluation is not None
        factor, size = net.factor, _size(gt)
        tile = self._tile(size)
        (unrounded,) = in_tiles(
            lambda read, write: downscale_tiles(net, size, read, write, tile), gt, net.lr_size(size)
        )
        lr = self.evaluation.stored(name, unrounded)
        info = LRInfo(f"vqir{factor}", (factor, factor), size, self.fingerprint)
        return lr, {"lr": Judged(lr, reduced(gt, factor), _LR_BORDER, info)}

    def _tile(self, size: Size) -> int:
        """By default one tile, which is as good as none."""
        return int(self.opt["val"].get("tile") or max(size))


class VQIRRefineModel(VQIRModel):
    """Stage 2, which trains the refinement of the decoder's features against a discriminator.

    Loss: ``pixel_opt`` and ``edge_opt``, each summed over the images of full, half and quarter
    size; ``percep_opt`` and ``gan_opt`` of the image of full size. Targets of the smaller sizes are
    bicubic, made on the device.

    Options:
        ``path: pretrain_network_g`` -- a file of stage 1, or one of stage 2 to go on with;
        ``path: pretrain_network_d`` -- the discriminator's weights, with ``param_key_d`` and
        ``strict_load_d``;
        ``network_d`` -- the discriminator, such as BasicSR's UNetDiscriminatorSN;
        ``train: optim_d`` -- its optimiser, as ``optim_g``;
        ``train: pixel_opt``, ``train: edge_opt``, ``train: gan_opt`` -- the paper's are L1Loss,
        EdgeLoss of weight 0.05, GANLoss (hinge) of weight 0.1;
        ``train: percep_opt`` -- the paper's is LPIPSLoss; left out where there is none;
        ``color_order`` -- as in stage 1.
    """

    stage = 2
    judged = ("hr", "half", "quarter", "lr", "bicubic")

    def check_start(self, path: Mapping[str, Any]) -> None:
        """Checks that training starts from weights.

        Raises:
            ValueError: it does not.
        """
        if not path.get("pretrain_network_g"):
            raise ValueError(
                "option path: pretrain_network_g is missing: stage 2 starts from a file of stage 1"
            )

    def acceptable(self, factor: int) -> dict[str, str | None]:
        """Of stage 1 for a start, of stage 2 otherwise."""
        start: dict[str, str | None] = {_vqir(factor, 1): "refine"}
        same: dict[str, str | None] = {_vqir(factor, 2): None}
        return {**start, **same} if self.is_train and not self.resumes else same

    # training ---------------------------------------------------------------------------------

    def init_training_settings(self) -> None:
        """Builds the discriminator as well."""
        if not self.opt.get("network_d"):
            raise ValueError("option network_d is missing: stage 2 trains with a discriminator")
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

    def setup_optimizers(self) -> None:
        """One for the refinement, one for the discriminator."""
        super().setup_optimizers()
        if not self.opt["train"].get("optim_d"):
            raise ValueError("option train: optim_d is missing: the discriminator's optimiser")
        self.setup_discriminator_optimizer()

    def losses(self, current_iter: int) -> dict[str, Tensor]:
        """Those of the images of three sizes."""
        with self.autocast("train"):
            levels = self.net_g(self.gt)
        assert isinstance(levels, Levels)
        images = Levels(*(level.float() for level in levels))
        self.restored = images.full.detach()
        with self.autocast("train"):
            # not by way of its wrapper: none of its gradients are shared in this step
            score = self.get_bare_model(self.net_d)(from_unit(images.full))
        l_pix = l_edge = self.gt.new_zeros(())
        for image, target in zip(images, _targets(self.gt), strict=True):
            l_pix = l_pix + self.cri_pix(from_unit(image), from_unit(target))
            l_edge = l_edge + self.cri_edge(image, target)
        losses = {
            "l_pix": l_pix,
            "l_edge": l_edge,
            "l_gan": self.cri_gan(score.float(), True, is_disc=False),
        }
        if self.cri_percep is not None:
            losses["l_percep"] = self.cri_percep(images.full, self.gt)
        return losses

    def backward(self, current_iter: int) -> None:
        """Gradients of the refinement, then of the discriminator."""
        self.net_d.requires_grad_(False)
        super().backward(current_iter)
        self.net_d.requires_grad_(True)
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

    def round_trip(self, net: nn.Module, name: str, gt: Tensor, case: int) -> dict[str, Judged]:
        """As in stage 1; ``half`` and ``quarter`` against bicubic targets.

        The border that metrics leave out is 16, 8 and 4 pixels wide, whatever the factor.
        """
        assert isinstance(net, VQIR)
        lr, judged = self._downscaled(net, name, gt)
        size, targets = _size(gt), _targets(gt)
        tile = self._tile(size)
        images = in_tiles(
            lambda read, *writes: levels_tiles(net, size, read, writes, tile),
            lr,
            *map(_size, targets),
        )
        judged |= {
            which: Judged(image, target, border)
            for which, image, target, border in zip(
                ("hr", "half", "quarter"), images, targets, (16, 8, 4), strict=True
            )
        }
        return judged | {"bicubic": Judged(_bicubic(gt, case), gt, judged["hr"].border)}


def reduced(hr: Tensor, reduction: int) -> Tensor:
    """``hr`` (B, 3, H, W) made smaller by bicubic resampling, unrounded.

    Shape:
        (B, 3, H, W) -> (B, 3, ceil(H / reduction), ceil(W / reduction))
    """
    height, width = _size(hr)
    with torch.no_grad():
        return imresize(hr, (-(-height // reduction), -(-width // reduction)), 1 / reduction)


def _targets(hr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return hr, reduced(hr, 2), reduced(hr, 4)


def _bicubic(hr: Tensor, factor: int) -> Tensor:
    """Bicubic to an 8-bit LR image and back."""
    rounded = (reduced(hr, factor).clamp(0, 1) * 255).round() / 255
    return imresize(rounded, _size(hr), factor)


def _size(image: Tensor) -> Size:
    return image.shape[-2], image.shape[-1]


def _vqir(factor: int, stage: int) -> str:
    return f"a VQIR of factor {factor}, stage {stage}"


def _content(weights: Mapping[str, Tensor]) -> str:
    """What kind of network ``weights`` are of."""
    try:
        if any(name.startswith("icrm.") for name in weights):
            config = vqir_config(weights)
            return _vqir(config["factor"], config["stage"])
        vqgan_config(weights)
    except ValueError:
        return "neither a VQGAN nor a VQIR"
    return "a VQGAN"

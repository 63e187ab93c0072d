"""Training and validation of VQIR (factors 16 and 32): stage 1, and the base of stage 2.

Paper: Towards Extreme Image Rescaling with Generative Prior and Invertible Prior, IEEE TCSVT 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import rescale_compat  # noqa: F401  must precede basicsr
from rescale_compat.errors import RescaleError

from pydantic import Field
from torch import Tensor, nn

from rescale_arch import VQGAN, VQIR
from rescale_arch.architecture import identify
from rescale_arch.bicubic import bicubic_lr
from rescale_arch.checkpoints import load_strictly
from rescale_arch.images import from_unit
from rescale_arch.vqgan.architecture import swap_color_order
from rescale_arch.vqir.network import Recovered
from rescale_data.option_schema import ExistingPath
from rescale_model.models.base import RescalingModel
from rescale_model.models.base_options import (
    FileOptions,
    PathOptions,
    RescalingOptions,
    TileOptions,
    TrainOptions,
)
from rescale_model.option_types import Loss
from rescale_model.training.checkpoints import read_network
from rescale_model.training.moving_average import move_average

COLOR_ORDERS = ("rgb", "bgr")


ColorOrder = Annotated[
    Literal["rgb", "bgr"],
    Field(
        description="channel order that the given weights were trained on; weights are always "
        "saved for RGB"
    ),
]


class VQIRPathOptions(PathOptions):
    """Files to start stage 1 from: a VQGAN, or a VQIR of stage 1 as ``pretrain_network_g``."""

    pretrain_network_vqgan: ExistingPath | None = Field(
        None, description="VQGAN to start from, instead of `pretrain_network_g`"
    )
    param_key_vqgan: str | None = Field("params", description="entry of that file")


class VQIRTrainOptions(TrainOptions):
    """Training of stage 1."""

    guide_opt: Loss = Field(
        description="loss of the LR image against the bicubic one; in the paper MSELoss with "
        "weight 0.5"
    )
    code_opt: Loss = Field(
        description="loss of the codes recovered from the LR image; in the paper MSELoss"
    )
    gram_opt: Loss = Field(
        description="loss of the recovered codes' Gram matrices; in the paper GramLoss"
    )


class VQIROptions(RescalingOptions[VQIRTrainOptions, TileOptions, VQIRPathOptions]):
    """An option file of stage 1."""

    color_order: ColorOrder = "rgb"


class VQIRModel(RescalingModel):
    """Stage 1: trains the invertible module on top of a frozen VQGAN.

    Loss: ``guide_opt(lr, bicubic LR) + code_opt(zb, zq) + gram_opt(zb, zq)``. As in the paper,
    losses are defined on images in [-1, 1], so that weights have the same meaning. In both stages,
    BasicSR's losses and the discriminator receive images in this range, while EdgeLoss and
    LPIPSLoss convert them from [0, 1] themselves.

    Frozen parts have no gradients, optimizer states or averages: with ``ema_decay`` above 0, the
    averaged network shares the frozen modules with the trained one. Files contain whole networks.
    """

    OPTIONS: ClassVar[type[FileOptions]] = VQIROptions
    stage = 1

    def __init__(self, opt: dict[str, Any]) -> None:
        network, path = opt["network_g"], opt["path"]
        if network.get("type") != "VQIR":
            raise RescaleError(
                f"option network_g: type is {network.get('type')!r}: {type(self).__name__} "
                "requires VQIR"
            )
        stage = network.get("stage", 1)
        if stage != self.stage:
            raise RescaleError(
                f"option network_g: stage is {stage!r}, but {type(self).__name__} is for stage "
                f"{self.stage}: use VQIRModel for stage 1, VQIRRefineModel for stage 2"
            )
        if not path.get("strict_load_g", True):
            raise RescaleError(
                "option path: strict_load_g is false: VQIR loads only complete files"
            )
        self.color_order: str = opt.get("color_order") or "rgb"
        if self.color_order not in COLOR_ORDERS:
            raise RescaleError(
                f"option color_order is {self.color_order!r}: expected one of "
                + ", ".join(COLOR_ORDERS)
            )
        self.resumes = bool(path.get("resume_state"))
        if opt["is_train"] and not self.resumes:
            self.check_start(path)
        elif not path.get("pretrain_network_g"):
            raise RescaleError(
                "option path: pretrain_network_g is missing: the weights to test or to resume from"
            )
        super().__init__(opt)

    def check_start(self, path: Mapping[str, Any]) -> None:
        """Checks that the options name the weights to start training from.

        Raises:
            ValueError: they do not.
        """
        starts = [path.get(f"pretrain_network_{label}") for label in ("vqgan", "g")]
        if bool(starts[0]) == bool(starts[1]):
            raise RescaleError(
                "option path: stage 1 starts from pretrain_network_vqgan, a VQGAN, or from "
                "pretrain_network_g, a VQIR of stage 1: "
                f"{'both are' if starts[0] else 'neither is'} given"
            )

    # training ---------------------------------------------------------------------------------

    def init_training_settings(self) -> None:
        """Loads the VQGAN; the averaged network shares its frozen parts."""
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
        """The losses of the LR image and of the codes recovered from it."""
        with self.autocast("train"):
            recovered = self.net_g(self.gt)
        assert isinstance(recovered, Recovered)
        guide = bicubic_lr(self.gt, self.get_bare_model(self.net_g).factor)
        zb, zq = recovered.zb.float(), recovered.zq.float()
        return {
            "l_guide": self.cri_guide(from_unit(recovered.lr.float()), from_unit(guide)),
            "l_code": self.cri_code(zb, zq),
            "l_gram": self.cri_gram(zb, zq),
        }

    def model_ema(self, decay: float = 0.999) -> None:
        """Updates the moving average of the trained part."""
        net, average = self.get_bare_model(self.net_g), self.net_g_ema
        assert isinstance(average, VQIR)
        move_average(average.trained_parameters(), net.trained_parameters(), decay)

    # files ------------------------------------------------------------------------------------

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = "params"
    ) -> None:
        """Loads weights of this stage, or weights that it can start from.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file contains other weights, or they do not match.
        """
        net = self.get_bare_model(net)
        if isinstance(net, VQIR):
            self._load(net, load_path, param_key, self.acceptable(net.factor))
        else:
            super().load_network(net, load_path, strict, param_key)

    def acceptable(self, factor: int) -> dict[str, str | None]:
        """Acceptable contents of ``pretrain_network_g`` -> the part that they lack, if any."""
        return {contents(factor, 1): None}

    def _load(
        self, net: VQIR, path: str, param_key: str | None, acceptable: Mapping[str, str | None]
    ) -> None:
        weights = read_network(path, param_key)
        content = _content(weights)
        if content not in acceptable:
            raise RescaleError(f"{path} contains {content}: expected {' or '.join(acceptable)}")
        if self.color_order == "bgr" and not self.resumes:
            weights = swap_color_order(weights)
        load_strictly(net, weights, path, without=acceptable[content])

    # validation -------------------------------------------------------------------------------

    def validation_cases(self) -> dict[str, tuple[float, float]]:
        """One case: the factor, such as ``x16``."""
        factor: int = self.get_bare_model(self.net_g).factor
        return {f"x{factor}": (float(factor), float(factor))}


def contents(factor: int, stage: int) -> str:
    """The name of a network in messages."""
    return f"a VQIR of factor {factor}, stage {stage}"


def _content(weights: Mapping[str, Tensor]) -> str:
    """The kind of network that ``weights`` belong to."""
    try:
        architecture = identify(weights)
    except ValueError:
        return "neither a VQGAN nor a VQIR"
    if architecture.network is VQGAN:
        return "a VQGAN"
    if architecture.network is VQIR:
        config = architecture.config(weights)
        return contents(config["factor"], config["stage"])
    return f"the weights of {architecture.title}"

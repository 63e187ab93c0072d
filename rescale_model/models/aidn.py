"""Training and validation of AIDN and AIDN+ (arXiv 2201.12576)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from rescale_compat.errors import RescaleError

import torch
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from torch import Tensor

from rescale_arch import AIDN, scale_pair
from rescale_arch.aidn.net2net import grow
from rescale_arch.architecture import load_network
from rescale_arch.bicubic import bicubic_lr
from rescale_arch.checkpoints import load_strictly
from rescale_arch.memory_format import channels_last
from rescale_data.option_schema import Called, DeclaredBy, ExistingPath
from rescale_data.weight_file import read_weights
from rescale_model.jpeg import JPEGSetting
from rescale_model.models.base import RescalingModel
from rescale_model.models.base_options import (
    PathOptions,
    RescalingOptions,
    TileOptions,
    TrainOptions,
)
from rescale_model.option_types import Loss
from rescale_model.signature_options import from_signature, no_text_numbers
from rescale_model.training.checkpoints import read_network
from rescale_model.training.random_jpeg import RandomJPEG
from rescale_model.training.scale_schedule import ScaleSchedule


def _check_schedule(scales: dict[Any, Any]) -> dict[Any, Any]:
    ScaleSchedule(**scales)
    return scales


def _check_jpeg(jpeg: dict[Any, Any]) -> dict[Any, Any]:
    RandomJPEG(**jpeg)
    return jpeg


def _check_pairs(scales: list[Any]) -> list[Any]:
    for scale in scales:
        try:
            scale_pair(scale)
        except TypeError as error:
            raise RescaleError(str(error)) from None
    return scales


def _check_guide_weights(given: Any) -> Any:
    try:
        read_guide_weights(given)
    except ValueError as error:
        text = str(error).removeprefix("option train: guide_weights ")
        raise PydanticCustomError("needed", "{text}", {"text": text}) from None
    return given


Scales = Annotated[
    dict[Any, Any],
    DeclaredBy(lambda _: from_signature(ScaleSchedule, ("seed",))),
    AfterValidator(_check_schedule),
]

JPEG = Annotated[
    dict[Any, Any],
    DeclaredBy(lambda _: from_signature(RandomJPEG, ("seed",))),
    AfterValidator(_check_jpeg),
]

GuideWeights = Annotated[
    Any,
    Called("a list or a mapping"),
    AfterValidator(no_text_numbers),
    AfterValidator(_check_guide_weights),
]


class AIDNPathOptions(PathOptions):
    """Files to start from."""

    pretrain_network_small: ExistingPath | None = Field(
        None,
        description="weights of a smaller AIDN; the network initially computes the same function",
    )
    param_key_small: str | None = Field("params", description="entry of that file")
    pretrain_network_teacher: ExistingPath | None = Field(
        None,
        description="weights of an AIDN with the same `up_net`, which is copied; its LR images "
        "are the targets up to `train: teacher_iter`",
    )


class AIDNTrainOptions(TrainOptions):
    """Training of AIDN."""

    pixel_opt: Loss = Field(description="loss of the restored image; in the paper L1Loss")
    guide_opt: Loss = Field(
        description="loss of the LR image before rounding, against the bicubic LR image; in the "
        "paper MSELoss"
    )
    guide_weights: GuideWeights | None = Field(
        None,
        description="schedule of the weight of `guide_opt`, iteration -> weight from there on, "
        "which replaces `loss_weight`: `[[0, 1], [2000, 100]]` or `{0: 1, 2000: 100}` "
        "(BasicSR's own `train.py` supports only the list)",
    )
    teacher_iter: int = Field(
        0,
        ge=0,
        description="last iteration of an initial phase in which only `down_net` is trained: "
        "`guide_opt` compares the LR image with that of `path: "
        "pretrain_network_teacher`. With a launcher, `find_unused_parameters: true` "
        "is required",
    )
    scales: Scales | None = Field(
        None,
        description="distribution of the training scales; see below. Has no effect if `network_g` "
        "has a `fixed_scale`",
    )
    jpeg: JPEG | None = Field(
        None,
        description="AIDN+: distribution of JPEG qualities in training, which replaces the "
        "differentiable JPEG of `network_g: jpeg_quality`; see below. `{}`: the "
        "defaults",
    )


class AIDNValOptions(TileOptions):
    """Validation and tests of AIDN."""

    scales: Annotated[list[Any], AfterValidator(_check_pairs)] | None = Field(
        None,
        examples=[[1.5, 2.5, 3.5]],
        description="factors, or pairs [vertical, horizontal], to validate at; required unless "
        "`network_g` has a `fixed_scale`",
    )


class AIDNModel(RescalingModel):
    """Loss: ``pixel_opt(restored, hr) + guide_opt(lr, bicubic(hr, 1 / scale))``.

    Up to ``teacher_iter``, the loss is ``guide_opt(lr, teacher's lr)``, and ``up_net`` is frozen.

    Attributes:
        teacher: network whose LR images are the targets up to ``teacher_iter``; None without one.
    """

    OPTIONS = RescalingOptions[AIDNTrainOptions, AIDNValOptions, AIDNPathOptions]
    teacher: AIDN | None = None

    def init_training_settings(self) -> None:
        """Initializes the network from a smaller one or from a teacher, if the options name one."""
        path = self.opt["path"]
        small, teacher = (path.get(f"pretrain_network_{name}") for name in ("small", "teacher"))
        names = [f"pretrain_network_{name}" for name in ("g", "small", "teacher")]
        starts = [name for name in names if path.get(name)]
        if len(starts) > 1 and not path.get("resume_state"):
            raise RescaleError(f"option path: specify only one of {', '.join(starts)}")
        if teacher:
            self._init_teacher(teacher)
        elif self.opt["train"].get("teacher_iter"):
            raise RescaleError("option train: teacher_iter requires path: pretrain_network_teacher")
        if small and not path.get("pretrain_network_g"):
            weights = read_network(small, path.get("param_key_small", "params"))
            try:
                grow(self.get_bare_model(self.net_g), weights)
            except ValueError as error:
                raise RescaleError(f"{small}: {error}") from None
        super().init_training_settings()

    def _init_teacher(self, path: str) -> None:
        loaded = load_network(read_weights(path), path)
        if not isinstance(loaded.network, AIDN):
            raise RescaleError(f"{path}: expected an AIDN as the teacher, not {loaded.title}")
        if not self.opt["path"].get("pretrain_network_g"):
            net = self.get_bare_model(self.net_g)
            up_net = {n: value for n, value in loaded.weights.items() if n.startswith("up_net.")}
            load_strictly(net, {**net.state_dict(), **up_net}, path)
        if self.opt["train"].get("teacher_iter"):
            if self.opt["dist"] and not self.opt.get("find_unused_parameters"):
                raise RescaleError(
                    "option find_unused_parameters: true is required for train: teacher_iter "
                    "with a launcher"
                )
            self.teacher = channels_last(loaded.network.to(self.device))

    def build_losses(self) -> None:
        """Builds both losses, and the schedules of their weights and of the scales."""
        self.cri_pix = self.build_loss("pixel_opt")
        self.cri_guide: Any = self.build_loss("guide_opt")
        self.guide_weights = read_guide_weights(self.opt["train"].get("guide_weights"))
        scales = self.opt["train"].get("scales") or {}
        self.schedule = ScaleSchedule(**scales, seed=self.opt["manual_seed"])
        jpeg = self.opt["train"].get("jpeg")
        self.jpeg = None if jpeg is None else RandomJPEG(**jpeg, seed=self.opt["manual_seed"])
        self.jpeg_setting: JPEGSetting | None = None
        if self.jpeg is not None and self.get_bare_model(self.net_g).jpeg_quality is None:
            raise RescaleError("option train: jpeg requires network_g: jpeg_quality")

    def losses(self, current_iter: int) -> dict[str, Tensor]:
        """The losses at the scale and JPEG quality of the iteration."""
        fixed = self.get_bare_model(self.net_g).fixed_scale
        self.scale = float(fixed) if fixed else self.schedule(current_iter)
        for start, weight in self.guide_weights:
            if start <= current_iter:
                self.cri_guide.loss_weight = weight
        if self.teacher is not None and current_iter <= self.opt["train"]["teacher_iter"]:
            with torch.no_grad():
                target = self.teacher.downscale(self.gt, self.scale)
            with self.autocast("train"):
                lr, _ = self.net_g(self.gt, self.scale, restore=False)
            return {"l_teacher": self.cri_guide(lr.float(), target)}
        channel = None
        if self.jpeg is not None:
            self.jpeg_setting = self.jpeg.setting(current_iter)
            channel = self.jpeg.channel(self.jpeg_setting)
        with self.autocast("train"):
            lr, restored = self.net_g(self.gt, self.scale, channel)
        guide = bicubic_lr(self.gt, self.scale)
        return {
            "l_pix": self.cri_pix(restored.float(), self.gt),
            "l_guide": self.cri_guide(lr.float(), guide),
        }

    def step_note(self) -> str:
        """The scale and the JPEG quality of the step."""
        jpeg = "" if self.jpeg_setting is None else f", {self.jpeg_setting}"
        return f"scale {self.scale:g}{jpeg}"

    def get_current_log(self) -> dict[str, float]:
        """The losses, and the scale and JPEG quality at which they were computed."""
        log = {**super().get_current_log(), "scale": self.scale}
        if self.jpeg_setting is not None:
            log |= {"jpeg": self.jpeg_setting.quality, "chroma": self.jpeg_setting.chroma}
        return log

    def validation_cases(self) -> dict[str, Any]:
        """The scales of ``val: scales``: ``x2.5``, or ``x2.5x1.5`` for a pair."""
        fixed = self.get_bare_model(self.net_g).fixed_scale
        scales = self.opt["val"].get("scales") or ([fixed] if fixed else [])
        if not scales:
            raise RescaleError("option val: scales is missing: a list such as [1.5, 2.5, 3.5]")
        cases = {}
        for scale in scales:
            pair = scale_pair(scale)
            label = f"x{pair[0]:g}" if pair[0] == pair[1] else f"x{pair[0]:g}x{pair[1]:g}"
            cases[label] = pair
        return cases


def read_guide_weights(given: Any) -> list[tuple[int, float]]:
    """The entries of ``train: guide_weights``, sorted by iteration.

    Args:
        given: pairs of an iteration and a weight, or a mapping from one to the other; None: none.

    Raises:
        ValueError: it is neither, or an iteration or weight is not a number.
    """
    pairs = given.items() if isinstance(given, Mapping) else given or []
    try:
        weights = sorted((float(start), float(weight)) for start, weight in pairs)
        valid = all(start.is_integer() and math.isfinite(weight) for start, weight in weights)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise RescaleError(
            f"option train: guide_weights is {given!r}: expected iterations and weights, as in "
            "[[0, 1], [2000, 100]] or {0: 1, 2000: 100}"
        )
    return [(int(start), weight) for start, weight in weights]

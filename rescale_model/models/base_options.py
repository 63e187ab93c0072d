"""The options that all models of this project have."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from rescale_compat.errors import RescaleError

from pydantic import Field, ValidationInfo, model_validator

from rescale_arch.bfloat16 import Precision
from rescale_data.option_schema import ExistingPath, Options, in_testing, in_training, needed
from rescale_model.evaluation.effort import read_effort
from rescale_model.evaluation.validation import EvaluationOptions
from rescale_model.option_types import Datasets, Loss, Network, Optimizer, Scheduler


class FileOptions(Options):
    """The top level of an option file of any model."""

    name: str = Field(
        description="results are in `experiments/<name>`, those of tests in `results/<name>`"
    )
    model_type: str = Field(description="the model; see below")
    plugin: Any = Field(
        None,
        description="`!!python/name:rescale_model.register` makes this project known to BasicSR's "
        "own runners",
    )
    num_gpu: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        description="number of GPUs; `auto`: a GPU where there is one, with a launcher all; 0: the "
        "CPU"
    )
    manual_seed: int | None = Field(
        None, ge=0, description="seed of crops, flips and scales, the same on every rank"
    )
    scale: Any = Field(
        None,
        description="not used by this project's networks; BasicSR copies it into every dataset",
    )
    datasets: Datasets = Field(
        description="for training `train`, `val`, `val_1` and so on; for testing `test`, `test_1`"
    )
    dist_params: dict[Any, Any] | None = Field(
        None, description="`port` of the first node, with `--launcher slurm`"
    )
    find_unused_parameters: bool = Field(
        False,
        description="true: allows distributed training of networks that leave parameters unused",
    )
    sync_bn: bool = Field(False, description="true: batch statistics over all ranks (GPU only)")


class PathOptions(Options):
    """Files to start from."""

    pretrain_network_g: Annotated[
        ExistingPath | None, needed(in_testing, ": the weights to test")
    ] = Field(None, description="weights to start from, or to test: .pth, .pth.tar, .safetensors")
    param_key_g: str | None = Field(
        "params",
        description="entry of that file: `params`; `params_ema` where there is an average",
    )
    strict_load_g: bool = Field(True, description="false: loads the entries that fit")
    resume_state: ExistingPath | None = Field(
        None, description="a .state file to resume from; `--auto_resume` finds the newest"
    )
    ignore_resume_networks: Any = Field(
        None, description="networks that resuming does not load, as `network_d`"
    )


class DiscriminatorPathOptions(PathOptions):
    """Files to start from where a discriminator is trained."""

    pretrain_network_d: ExistingPath | None = Field(None, description="the discriminator's weights")
    param_key_d: str | None = Field("params", description="entry of that file")
    strict_load_d: bool = Field(True, description="false: loads the entries that fit")


class TrainOptions(Options):
    """Training of any model; the losses are the model's."""

    total_iter: float = Field(ge=1, description="iterations of training")
    warmup_iter: float = Field(-1, ge=-1, description="iterations of linear warm-up; -1: none")
    ema_decay: float = Field(
        0,
        ge=0,
        description="0.999 keeps a moving average of the weights, which is validated and saved "
        "with them; 0: none",
    )
    precision: Precision = Field(
        "fp32",
        description="`bf16`: autocast, faster on recent GPUs and CPUs; `auto`: on those that have "
        "instructions for it. On a GPU, `fp32` "
        "convolutions are computed in TF32 in training, as is PyTorch's default",
    )
    compile: bool = Field(
        False,
        description="true: compiles the parts of the network whose sizes stay the same, in the "
        "first steps, which takes minutes. Meant for GPUs: on a CPU it gains little. Validation, "
        "whose images have any size, runs as without. A run that was stopped and resumed is the "
        "same up to rounding only",
    )
    skip_non_finite: bool = Field(
        False,
        description="true: leaves out steps with losses or gradients that are not finite, on all "
        "ranks alike, and counts them in the log as `skipped`; by default such losses stop the run",
    )
    optim_g: Optimizer = Field(
        description="optimiser: `type`, any of `torch.optim`, `lr` and its other keywords"
    )
    scheduler: Scheduler = Field(description="learning rate; see below")


class DiscriminatorTrainOptions(TrainOptions):
    """Training of a model with a discriminator."""

    gan_start: float = Field(
        1, ge=0, description="first iteration with discriminator, GAN loss and `feature_opt`"
    )
    feature_opt: Loss | None = Field(
        None,
        description="feature matching (pix2pixHD): loss of the discriminator's activations for "
        "restored and for real images, summed over its convolutions, such as L1Loss; by default "
        "none",
    )


class ValOptions(EvaluationOptions):
    """Validation and tests of any model."""

    val_freq: Annotated[float | None, needed(in_training)] = Field(
        None, ge=1, description="iterations from validation to validation; needed for training"
    )
    save_img: bool | None = Field(
        description="true: saves LR and restored images; the LR files carry what `rescale up` needs"
    )
    precision: Precision = Field(
        "auto",
        description="`bf16`: autocast; `auto`: on GPUs and CPUs that have instructions for it, and "
        "`fp32` on others. In validation and tests `fp32` is fp32 on a GPU too, not TF32",
    )


class TileOptions(ValOptions):
    """Validation of models that can take images in tiles."""

    tile: int | None = Field(
        None,
        ge=1,
        description="side of the tiles that images are validated in, in HR pixels, which bounds "
        "the memory; by default images are taken whole",
    )
    effort: int = Field(
        0,
        ge=0,
        description="steps in which each LR image is optimised for the network that restores it, "
        "as with `--effort` of the command; not for `lr_format: webp`",
    )

    @model_validator(mode="after")
    def _check_effort(self) -> Self:
        read_effort(self.effort, self.lr_format, self.lr_quality, self.lr_chroma)
        if self.effort and self.lr_folder is not None:
            raise RescaleError(f"effort is {self.effort}, but lr_folder has LR images already")
        return self


class WandbOptions(Options):
    """Weights & Biases, read by BasicSR."""

    project: str | None = Field(None, description="name of the project; by default it is not used")
    resume_id: str | None = Field(None, description="the run to resume")


class LoggerOptions(Options):
    """The log, read by BasicSR."""

    print_freq: Annotated[float | None, needed(in_training)] = Field(
        None, ge=1, description="iterations from line to line of the log; needed for training"
    )
    save_checkpoint_freq: Annotated[float | None, needed(in_training)] = Field(
        None, ge=1, description="iterations from checkpoint to checkpoint; needed for training"
    )
    use_tb_logger: Annotated[bool | None, needed(in_training)] = Field(
        None, description="true: curves for TensorBoard in `tb_logger`; needed for training"
    )
    wandb: WandbOptions | None = Field(
        None, description="Weights & Biases, which needs `use_tb_logger`"
    )


Train = TypeVar("Train", bound=TrainOptions)
Val = TypeVar("Val", bound=ValOptions)
Path = TypeVar("Path", bound=PathOptions)


class RescalingOptions(FileOptions, Generic[Train, Val, Path]):
    """An option file of a rescaling model, which gives the declarations of three sections."""

    network_g: Network = Field(description="the network; see below")
    path: Path = Field(description="see below")
    train: Annotated[Train | None, needed(in_training)] = Field(None, description="see below")
    val: Annotated[Val | None, needed(in_testing)] = Field(
        None, description="see below; without it nothing is validated"
    )
    logger: Annotated[LoggerOptions | None, needed(in_training)] = Field(
        None, description="see below"
    )

    @model_validator(mode="before")
    @classmethod
    def _leave_out_training(cls, given: Any, info: ValidationInfo) -> Any:
        if isinstance(given, dict) and in_testing(info):
            return {key: value for key, value in given.items() if key != "train"}
        return given

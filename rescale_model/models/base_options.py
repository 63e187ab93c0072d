"""The options common to all models of this project."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from rescale_compat.errors import RescaleError

from pydantic import Field, ValidationInfo, model_validator

from rescale_arch.bfloat16 import Precision
from rescale_data.option_schema import ExistingPath, Options, in_testing, in_training, needed
from rescale_model.evaluation.effort import read_effort
from rescale_model.evaluation.evaluation_options import EvaluationOptions
from rescale_model.option_types import Datasets, Loss, Network, Optimizer, Scheduler


class FileOptions(Options):
    """The top level of an option file of any model."""

    name: str = Field(
        description="name of the run: results are written to `experiments/<name>`, those of tests "
        "to `results/<name>`"
    )
    model_type: str = Field(description="class of the model; see below")
    plugin: Any = Field(
        None,
        description="`!!python/name:rescale_model.register` registers this project with BasicSR's "
        "own runners",
    )
    num_gpu: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        description="number of GPUs; `auto`: one GPU if available, or all GPUs with a launcher; "
        "0: the CPU"
    )
    manual_seed: int | None = Field(
        None, ge=0, description="seed of crops, flips and scales, the same on all ranks"
    )
    scale: Any = Field(
        None,
        description="not used by the networks of this project; BasicSR copies it to every dataset",
    )
    datasets: Datasets = Field(
        description="for training `train`, `val`, `val_1` and so on; for testing `test`, `test_1` "
        "and so on"
    )
    dist_params: dict[Any, Any] | None = Field(
        None, description="`port` of the first node, with `--launcher slurm`"
    )
    find_unused_parameters: bool = Field(
        False,
        description="true: allow distributed training of networks with unused parameters",
    )
    sync_bn: bool = Field(
        False, description="true: synchronize batch norm over all ranks (GPU only)"
    )


class PathOptions(Options):
    """Files to start from."""

    pretrain_network_g: Annotated[
        ExistingPath | None, needed(in_testing, ", the weights to test")
    ] = Field(None, description="weights to start from or to test: .pth, .pth.tar, .safetensors")
    param_key_g: str | None = Field(
        "params",
        description="entry of that file: `params`, or `params_ema` if it has a moving average",
    )
    strict_load_g: bool = Field(True, description="false: load only the entries that match")
    resume_state: ExistingPath | None = Field(
        None, description="a .state file to resume from; `--auto_resume` finds the newest"
    )
    ignore_resume_networks: Any = Field(
        None, description="networks that are not loaded when resuming, such as `network_d`"
    )


class DiscriminatorPathOptions(PathOptions):
    """Files to start from, including the discriminator."""

    pretrain_network_d: ExistingPath | None = Field(
        None, description="weights of the discriminator"
    )
    param_key_d: str | None = Field("params", description="entry of that file")
    strict_load_d: bool = Field(True, description="false: load only the entries that match")


class TrainOptions(Options):
    """Training of any model; models add their losses."""

    total_iter: float = Field(ge=1, description="number of training iterations")
    warmup_iter: float = Field(
        -1, ge=-1, description="number of iterations with linear warm-up; -1: none"
    )
    ema_decay: float = Field(
        0,
        ge=0,
        description="decay of a moving average of the weights, such as 0.999, which is validated "
        "and saved with them; 0: none",
    )
    precision: Precision = Field(
        "fp32",
        description="`bf16`: autocast, faster on recent GPUs and CPUs; `auto`: `bf16` on devices "
        "with instructions for it. On a GPU, `fp32` convolutions use TF32 in "
        "training, as is PyTorch's default",
    )
    compile: bool = Field(
        False,
        description="true: compile the parts of the network with inputs of constant size during "
        "the first steps, which takes minutes. Meant for GPUs; the gain on a CPU is "
        "small. Validation, with images of varying sizes, is not compiled. Resuming "
        "is exact only up to rounding",
    )
    skip_non_finite: bool = Field(
        False,
        description="true: skip steps with losses or gradients that are not finite, on all ranks, "
        "and log their number as `skipped`. Default: such losses stop the run",
    )
    optim_g: Optimizer = Field(
        description="optimizer: `type`, any class of `torch.optim`, `lr` and its other keywords"
    )
    scheduler: Scheduler = Field(description="schedule of the learning rate; see below")


class DiscriminatorTrainOptions(TrainOptions):
    """Training of a model with a discriminator."""

    gan_start: float = Field(
        1,
        ge=0,
        description="first iteration with the discriminator, the GAN loss and `feature_opt`",
    )
    feature_opt: Loss | None = Field(
        None,
        description="feature matching (pix2pixHD): loss between the discriminator's activations "
        "for restored and real images, such as L1Loss, summed over its convolutions. "
        "Default: none",
    )


class ValOptions(EvaluationOptions):
    """Validation and tests of any model."""

    val_freq: Annotated[float | None, needed(in_training)] = Field(
        None, ge=1, description="iterations between validations; required for training"
    )
    save_img: bool | None = Field(
        description="true: save LR and restored images; `rescale up` can restore the LR files"
    )
    precision: Precision = Field(
        "auto",
        description="`bf16`: autocast; `auto`: `bf16` on devices with instructions for it, and "
        "`fp32` on others. In validation and tests, `fp32` does not use TF32 on a GPU",
    )


class TileOptions(ValOptions):
    """Validation and tests of models whose networks support tiles."""

    tile: int | None = Field(
        None,
        ge=1,
        description="side of the tiles in HR pixels, which bounds the memory. Default: images are "
        "not divided",
    )
    effort: int = Field(
        0,
        ge=0,
        description="number of steps in which each LR image is optimized for the network that "
        "restores it, as with `--effort`; not supported with `lr_format: "
        "webp`",
    )

    @model_validator(mode="after")
    def _check_effort(self) -> Self:
        read_effort(self.effort, self.lr_format, self.lr_quality, self.lr_chroma)
        if self.effort and self.lr_folder is not None:
            raise RescaleError(
                f"effort is {self.effort}: the LR images in lr_folder are not optimized"
            )
        return self


class WandbOptions(Options):
    """Options of Weights & Biases, read by BasicSR."""

    project: str | None = Field(
        None, description="name of the project. Default: Weights & Biases is not used"
    )
    resume_id: str | None = Field(None, description="ID of the run to resume")


class LoggerOptions(Options):
    """Options of the log, read by BasicSR."""

    print_freq: Annotated[float | None, needed(in_training)] = Field(
        None, ge=1, description="iterations between lines of the log; required for training"
    )
    save_checkpoint_freq: Annotated[float | None, needed(in_training)] = Field(
        None, ge=1, description="iterations between checkpoints; required for training"
    )
    use_tb_logger: Annotated[bool | None, needed(in_training)] = Field(
        None, description="true: write curves for TensorBoard to `tb_logger`; required for training"
    )
    wandb: WandbOptions | None = Field(
        None, description="Weights & Biases; requires `use_tb_logger`"
    )


Train = TypeVar("Train", bound=TrainOptions)
Val = TypeVar("Val", bound=ValOptions)
Path = TypeVar("Path", bound=PathOptions)


class RescalingOptions(FileOptions, Generic[Train, Val, Path]):
    """An option file of a rescaling model, generic over the types of three sections."""

    network_g: Network = Field(description="the network; see below")
    path: Path = Field(description="see below")
    train: Annotated[Train | None, needed(in_training)] = Field(None, description="see below")
    val: Annotated[Val | None, needed(in_testing)] = Field(
        None, description="see below. Default: no validation"
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

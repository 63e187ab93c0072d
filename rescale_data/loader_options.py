"""The options of every dataset that BasicSR's runners and loaders read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo

from rescale_data.option_schema import Options, in_file, needed


def _trains(info: ValidationInfo) -> bool:
    return in_file(info) and info.data.get("phase") == "train"


class DatasetOptions(Options):
    """Options of a dataset that BasicSR's runners read or set."""

    phase: Literal["train", "val", "test"] = Field(description="set by BasicSR")
    name: Annotated[str | None, needed(in_file)] = Field(
        None, description="name in logs and folder names"
    )
    type: str | None = Field(None, description="class of the dataset")
    scale: Any = Field(
        None, description="set by BasicSR if the option file has one at the top level; unused"
    )
    pin_memory: bool | None = Field(
        None,
        description="true: pin batches, for faster copies to a GPU. Default: true for training on "
        "a GPU",
    )
    persistent_workers: bool | None = Field(
        None,
        description="true: keep worker processes between epochs. Default: true for training, "
        "except with `prefetch_mode: cpu`",
    )


class LoaderOptions(DatasetOptions):
    """Options of a dataset for training that BasicSR's loader reads."""

    batch_size_per_gpu: Annotated[int | None, needed(_trains)] = Field(
        None, ge=1, description="images per GPU in a batch; required for training"
    )
    num_worker_per_gpu: Annotated[int | None, needed(_trains)] = Field(
        None, ge=0, description="worker processes per GPU that read images; required for training"
    )
    dataset_enlarge_ratio: float = Field(
        1, gt=0, description="number of passes over the dataset that make up an epoch"
    )
    prefetch_mode: Literal["cpu", "cuda"] | None = Field(
        None, description="`cuda` requires `pin_memory`. Default: no prefetching"
    )
    num_prefetch_queue: int = Field(
        1, ge=1, description="number of batches to prefetch with `prefetch_mode: cpu`"
    )
    use_shuffle: Any = Field(None, description="unused: training always shuffles")

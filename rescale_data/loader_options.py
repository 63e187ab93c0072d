"""The options of every data set: those that BasicSR's runners and loaders read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo

from rescale_data.option_schema import Options, in_file, needed


def _trains(info: ValidationInfo) -> bool:
    return in_file(info) and info.data.get("phase") == "train"


class DatasetOptions(Options):
    """What BasicSR's runners read of a data set, or put into its options."""

    phase: Literal["train", "val", "test"] = Field(description="set by BasicSR")
    name: Annotated[str | None, needed(in_file)] = Field(
        None, description="name in logs and of folders"
    )
    type: str | None = Field(None, description="class of the dataset")
    scale: Any = Field(None, description="set by BasicSR, if there is one at the top; unused")
    pin_memory: bool | None = Field(
        None,
        description="true: batches are pinned, for copies to a GPU; the default in training with "
        "a GPU",
    )
    persistent_workers: bool | None = Field(
        None,
        description="true: reading processes outlive an epoch; the default in training, except "
        "with `prefetch_mode: cpu`",
    )


class LoaderOptions(DatasetOptions):
    """What BasicSR's loader reads of a data set that may be trained on."""

    batch_size_per_gpu: Annotated[int | None, needed(_trains)] = Field(
        None, ge=1, description="images for each GPU; needed for training"
    )
    num_worker_per_gpu: Annotated[int | None, needed(_trains)] = Field(
        None, ge=0, description="processes that read images; needed for training"
    )
    dataset_enlarge_ratio: float = Field(
        1, gt=0, description="an epoch is this many passes over the dataset"
    )
    prefetch_mode: Literal["cpu", "cuda"] | None = Field(
        None, description="`cuda` needs `pin_memory`; by default nothing is prefetched"
    )
    num_prefetch_queue: int = Field(
        1, ge=1, description="batches that are prefetched with `prefetch_mode: cpu`"
    )
    use_shuffle: Any = Field(None, description="unused: training always shuffles")

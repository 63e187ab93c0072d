"""Options of networks, models and datasets of a plugin."""

from collections.abc import Iterator
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr

import pytest
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY
from pydantic import Field
from torch import nn
from torch.utils.data import Dataset
from training import Check, changed

import rescale_model  # noqa: F401  registers
from rescale_model.models.base import RescalingModel
from rescale_model.models.base_options import (
    PathOptions,
    RescalingOptions,
    TrainOptions,
    ValOptions,
)


class OpenNetwork(nn.Module):
    def __init__(self, width: int = 8, **others: Any) -> None:
        super().__init__()


class OwnTrainOptions(TrainOptions):
    temperature: float = Field(1, gt=0, le=5, description="of nothing")


class OwnModel(RescalingModel):
    OPTIONS = RescalingOptions[OwnTrainOptions, ValOptions, PathOptions]


class OwnDataset(Dataset[Any]):
    """A dataset without declarations."""


@pytest.fixture
def plugin() -> Iterator[None]:
    """Classes of a third-party plugin."""
    registered = (ARCH_REGISTRY, OpenNetwork), (MODEL_REGISTRY, OwnModel)
    registered = (*registered, (DATASET_REGISTRY, OwnDataset))
    for registry, cls in registered:
        registry.register(cls)
    yield
    for registry, cls in registered:
        del registry._obj_map[cls.__name__]


@pytest.mark.usefixtures("plugin")
def test_a_network_with_kwargs_takes_any_option(valid_train: dict[str, Any], check: Check) -> None:
    network = {"type": "OpenNetwork", "width": 4, "depth": 3, "copy": {"a": 1}}
    check(changed(valid_train, {"network_g": network}))
    with pytest.raises(ValueError, match="network_g: width is 'wide': expected an integer"):
        check(changed(valid_train, {"network_g": network | {"width": "wide"}}))


@pytest.mark.usefixtures("plugin")
def test_a_plugin_declares_its_options(valid_train: dict[str, Any], check: Check) -> None:
    mine = changed(
        valid_train, {f"train: {key}": ... for key in ("scales", "pixel_opt", "guide_opt")}
    )
    mine = changed(mine, {"model_type": "OwnModel", "val: scales": ...})
    check(changed(mine, {"train: temperature": 2}))
    with pytest.raises(ValueError, match="temperature is 9: expected a number > 0 and <= 5"):
        check(changed(mine, {"train: temperature": 9}))
    with pytest.raises(ValueError, match=r"temprature is unknown \(nearest known: temperature\)"):
        check(changed(mine, {"train: temprature": 2}))
    with pytest.raises(ValueError, match="temperature is an option of OwnModel, not of AIDNModel"):
        check(changed(valid_train, {"train: temperature": 2}))
    with pytest.raises(
        ValueError, match=r"pixel_opt is an option of AIDNModel, .* not of OwnModel"
    ):
        check(changed(mine, {"train: pixel_opt": {"type": "L1Loss"}}))


@pytest.mark.usefixtures("plugin")
def test_of_a_dataset_without_declarations_the_loader_options_are_checked(
    valid_train: dict[str, Any], check: Check
) -> None:
    dataset = {"name": "own", "type": "OwnDataset", "crops": 5, "dataroot": "/nowhere"}
    workers = {"batch_size_per_gpu": 2, "num_worker_per_gpu": 0}
    check(changed(valid_train, {"datasets: train": dataset | workers, "datasets: val": dataset}))
    with pytest.raises(ValueError, match="datasets: train: batch_size_per_gpu is missing"):
        check(changed(valid_train, {"datasets: train": dataset}))

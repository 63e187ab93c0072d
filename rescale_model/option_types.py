"""Types of options that select a registered network, loss, optimizer, scheduler or dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import rescale_compat  # noqa: F401  must precede basicsr
from rescale_compat.errors import RescaleError

import torch
from basicsr.models import lr_scheduler
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    Registry,
)
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from rescale_data.loader_options import LoaderOptions
from rescale_data.option_problems import nearest
from rescale_data.option_schema import DeclaredBy, in_testing, in_training
from rescale_model.signature_options import Keywords, from_signature

SCHEDULERS: dict[str, Any] = {  # BasicSR's names for them
    "MultiStepLR": lr_scheduler.MultiStepRestartLR,
    "MultiStepRestartLR": lr_scheduler.MultiStepRestartLR,
    "CosineAnnealingRestartLR": lr_scheduler.CosineAnnealingRestartLR,
}
OPTIMIZERS: dict[str, Any] = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)
}
del OPTIMIZERS["Optimizer"]


class TypedKeywords(Keywords):
    """Keyword arguments together with the name of a class or function."""

    type: str = Field(description="name of the class or function")


class _OtherDataset(LoaderOptions):
    """Options of a dataset that does not declare any: only those of the loader are checked."""

    model_config = ConfigDict(extra="allow")


def find(registry: Registry | Mapping[str, Any], name: Any) -> Any:
    """Returns the entry ``name`` of a registry.

    Raises:
        ValueError: there is none.
    """
    # BasicSR registers some of its classes with a suffix that names need not have.
    key = f"{name}_basicsr" if f"{name}_basicsr" in registry else name
    if not isinstance(name, str) or key not in registry:
        known: Iterable[str] = registry.keys()
        raise RescaleError(f"type {name!r} is unknown{nearest(name, known)}")
    return registry.get(key)


def keywords_of(
    registry: Registry | Mapping[str, Any],
    supplied: tuple[str, ...] = (),
    required: tuple[str, ...] = (),
    base: type[BaseModel] = TypedKeywords,
) -> DeclaredBy:
    """Annotates a mapping that contains the ``type`` of a registered object and its keywords.

    For the arguments, see :func:`from_signature`.
    """

    def declaration(given: dict[Any, Any]) -> type[BaseModel]:
        target = find(registry, given.get("type"))
        return from_signature(target, supplied, required, base)

    return DeclaredBy(declaration)


def declaration_of(given: dict[Any, Any]) -> type[BaseModel]:
    """The options declared by the dataset ``type``; if it declares none, those of its loader."""
    cls = find(DATASET_REGISTRY, given.get("type"))
    declaration: type[BaseModel] = getattr(cls, "OPTIONS", _OtherDataset)
    return declaration


def _check_name(name: Any, info: ValidationInfo) -> Any:
    phase = str(name).partition("_")[0]
    if in_training(info) and not (name == "train" or phase == "val"):
        raise RescaleError("expected the names train, val, val_1, ..")
    if in_testing(info) and phase not in ("test", "val"):
        raise RescaleError("expected the names test, test_1, ..")
    return name


def _add_phases(datasets: Any, info: ValidationInfo) -> Any:
    """Adds ``phase`` to each dataset according to its name, like BasicSR."""
    if not isinstance(datasets, dict):
        return datasets
    if in_training(info) and "train" not in datasets:
        raise RescaleError("train is missing")
    return {
        name: {**dataset, "phase": "train" if in_training(info) and name == "train" else "val"}
        if isinstance(dataset, dict)
        else dataset
        for name, dataset in datasets.items()
    }


Network = Annotated[dict[Any, Any], keywords_of(ARCH_REGISTRY)]
Loss = Annotated[dict[Any, Any], keywords_of(LOSS_REGISTRY)]
Optimizer = Annotated[dict[Any, Any], keywords_of(OPTIMIZERS, ("params",), required=("lr",))]
Scheduler = Annotated[dict[Any, Any], keywords_of(SCHEDULERS, ("optimizer", "last_epoch"))]
Datasets = Annotated[
    dict[
        Annotated[Any, AfterValidator(_check_name)],
        Annotated[dict[Any, Any], DeclaredBy(declaration_of)],
    ],
    BeforeValidator(_add_phases),
]

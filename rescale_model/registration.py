"""Registers this project's classes with BasicSR's registries."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    Registry,
)

from rescale_arch.architecture import architectures
from rescale_data.benchmark_dataset import BenchmarkDataset
from rescale_data.hr_dataset import HRImageDataset
from rescale_model.evaluation.metrics import calculate_dists, calculate_lpips
from rescale_model.losses import CodeBookLoss, EdgeLoss, GradientLoss, GramLoss, LPIPSLoss
from rescale_model.models.aidn import AIDNModel
from rescale_model.models.benchmark import BenchmarkModel
from rescale_model.models.vqgan import VQGANModel
from rescale_model.models.vqir import VQIRModel
from rescale_model.models.vqir_refine import VQIRRefineModel

_REGISTERED: tuple[tuple[Registry, tuple[Callable[..., Any], ...]], ...] = (
    (DATASET_REGISTRY, (BenchmarkDataset, HRImageDataset)),
    (LOSS_REGISTRY, (CodeBookLoss, EdgeLoss, GradientLoss, GramLoss, LPIPSLoss)),
    (METRIC_REGISTRY, (calculate_dists, calculate_lpips)),
    (MODEL_REGISTRY, (AIDNModel, BenchmarkModel, VQGANModel, VQIRModel, VQIRRefineModel)),
)


def register() -> None:
    """Registers networks, datasets, models, losses and metrics with BasicSR; idempotent.

    Raises:
        AssertionError: another package has registered a class under the same name.
    """
    networks: tuple[type, ...] = tuple(
        dict.fromkeys(architecture.network for architecture in architectures())
    )
    registered: list[tuple[Registry, tuple[Any, ...]]]
    registered = [(ARCH_REGISTRY, networks), *_REGISTERED]
    for registry, classes in registered:
        for cls in classes:
            if cls.__name__ not in registry or registry.get(cls.__name__) is not cls:
                registry.register(cls)
    for architecture in architectures():
        if architecture.training is not None:
            importlib.import_module(architecture.training)

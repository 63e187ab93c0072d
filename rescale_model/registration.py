"""The one place where this project's classes meet BasicSR's registries."""

from __future__ import annotations

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

from rescale_arch import AIDN, VQGAN, VQIR
from rescale_data.benchmark_dataset import BenchmarkDataset
from rescale_data.hr_dataset import HRImageDataset
from rescale_model.aidn_model import AIDNModel
from rescale_model.benchmark_model import BenchmarkModel
from rescale_model.rescale_loss import CodeBookLoss, EdgeLoss, GramLoss, LPIPSLoss
from rescale_model.rescale_metric import calculate_dists, calculate_lpips
from rescale_model.vqgan_model import VQGANModel
from rescale_model.vqir_model import VQIRModel, VQIRRefineModel

_REGISTERED: tuple[tuple[Registry, tuple[Callable[..., Any], ...]], ...] = (
    (ARCH_REGISTRY, (AIDN, VQGAN, VQIR)),
    (DATASET_REGISTRY, (BenchmarkDataset, HRImageDataset)),
    (LOSS_REGISTRY, (CodeBookLoss, EdgeLoss, GramLoss, LPIPSLoss)),
    (METRIC_REGISTRY, (calculate_dists, calculate_lpips)),
    (MODEL_REGISTRY, (AIDNModel, BenchmarkModel, VQGANModel, VQIRModel, VQIRRefineModel)),
)


def register() -> None:
    """Registers networks, data sets, models, losses and metrics with BasicSR; again does nothing.

    Raises:
        AssertionError: another package has registered a class under the same name.
    """
    for registry, classes in _REGISTERED:
        for cls in classes:
            if cls.__name__ not in registry or registry.get(cls.__name__) is not cls:
                registry.register(cls)

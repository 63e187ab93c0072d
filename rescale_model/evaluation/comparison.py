"""Comparison of rescaling networks and bicubic interpolation at several scales."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from rescale_arch.bicubic import bicubic_lr
from rescale_data.image_file import LRInfo
from rescale_data.weight_file import fingerprint
from rescale_model.evaluation.comparison_plan import ComparisonPlan
from rescale_model.evaluation.comparison_report import ComparisonReport
from rescale_model.evaluation.cost import measure_cost
from rescale_model.evaluation.methods import load_method, optimized_lr
from rescale_model.evaluation.round_trip import EvaluatedImage, border


class Comparison:
    """Runs a plan, image by image.

    Args:
        plan: methods, scales and LR files.
        device: device of the computation.

    Raises:
        FileNotFoundError: a weights file does not exist.
        ValueError: a file does not contain the weights of a rescaling network.
    """

    def __init__(self, plan: ComparisonPlan, device: torch.device) -> None:
        self.plan = plan
        self._device = device
        self._methods = {
            name: load_method(weights, device) for name, weights in plan.weights.items()
        }
        self._fingerprints = {
            name: fingerprint(method.network.state_dict()) for name, method in self._methods.items()
        }

    def evaluate(self, sample: Mapping[str, Any], folder: str | None) -> list[dict[str, Any]]:
        """Evaluates all methods on an image, at every scale and through every kind of LR file.

        Args:
            sample: sample of a :class:`~rescale_data.benchmark_dataset.BenchmarkDataset`.
            folder: folder to save LR and restored images in; None: they are not saved.

        Returns:
            A row for each scale, method and kind of LR file: ``set``, ``image``, ``lr_file``,
            ``method``, ``scale`` and the metrics.
        """
        rows = []
        hr: Tensor = sample["gt"][None].to(self._device)
        size = (hr.shape[-2], hr.shape[-1])
        keys = {"set": sample["set"], "image": sample["image"]}
        for label, scale in self.plan.scales.items():
            guide, edge = bicubic_lr(hr, scale), border(scale)
            for network, method in self._methods.items():
                lr = method.network.downscale(hr, scale)
                info, lr_edge = None, edge
                if method.architecture is not None:
                    mark = self._fingerprints[network]
                    info = LRInfo(method.architecture.name, scale, size, mark)
                    if method.architecture.lr_border is not None:
                        lr_edge = method.architecture.lr_border
                for file, name, steps in self._cases(network):
                    evaluation = self.plan.evaluations[file]
                    effort = evaluation.effort(steps)
                    given = optimized_lr(method, lr, hr, scale, effort) if steps else lr
                    stored = evaluation.stored(sample["image"], given)
                    restored = method.network.upscale(stored, scale, size=size)
                    evaluated = {
                        "hr": EvaluatedImage(restored, hr, edge),
                        "lr": EvaluatedImage(stored, guide, lr_edge, info),
                    }
                    if folder is not None:
                        stem = os.path.join(folder, *keys.values())
                        suffix = f"_effort{steps}" if steps else ""
                        evaluation.save(f"{stem}_{label}_{file}_{network}{suffix}", evaluated)
                    place = {**keys, "lr_file": file, "method": name, "scale": label}
                    rows.append({**place, **evaluation.score(sample["gt_path"], evaluated)})
        return rows

    def _cases(self, network: str) -> Iterator[tuple[str, str, int]]:
        """Kind of LR file, name and number of steps of each method with a network."""
        for file in self.plan.evaluations:
            for name, (of, steps) in self.plan.methods(file).items():
                if of == network:
                    yield file, name, steps

    def report(self, rows: list[dict[str, Any]], pbar: bool = False) -> ComparisonReport:
        """Measures time and memory of each method, and adds them to the rows of all images.

        Args:
            rows: the rows of :meth:`evaluate`.
            pbar: whether to show a progress bar.

        Raises:
            MemoryError: there is not enough memory to measure a method.
        """
        size, device = self.plan.cost_size, self._device.type
        methods = tqdm(self.plan.methods().items(), unit="method", disable=not pbar)
        costs = {
            name: measure_cost(self.plan.weights[network], self.plan.scales, size, device, steps)
            for name, (network, steps) in methods
        }
        where = (
            torch.cuda.get_device_name()
            if device == "cuda"
            else f"the CPU, {torch.get_num_threads()} PyTorch threads"
        )
        metrics = next(iter(self.plan.evaluations.values())).metrics
        conditions = f"measured with {size} x {size} pixels on {where}"
        return ComparisonReport(metrics, rows, costs, conditions)

"""``model_type: BenchmarkModel``: AIDNs and bicubic, through PNG and JPEG, at several scales."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from glob import glob
from typing import Any

import rescale_compat  # noqa: F401  first: it lets basicsr import

import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from torch import Tensor
from tqdm import tqdm

from rescale_arch import scale_pair
from rescale_arch.inference_kernels import inference_kernels
from rescale_data.image_file import LRInfo
from rescale_data.weight_file import fingerprint
from rescale_model.aidn_model import bicubic_lr
from rescale_model.benchmark_cost import measure_cost
from rescale_model.benchmark_method import load_method
from rescale_model.benchmark_report import Report
from rescale_model.evaluation import Evaluation, Judged, border
from rescale_model.json_file import write_options

BICUBIC = "bicubic"
_COST_SIZE = 512


@dataclass(frozen=True)
class Plan:
    """What a benchmark is to do.

    Attributes:
        weights: method -> its file; None: bicubic.
        scales: label -> factors.
        evaluations: name of an LR file format -> how it is judged.
        cost_size: side of the picture that time and memory are measured with.
    """

    weights: dict[str, str | None]
    scales: dict[str, tuple[float, float]]
    evaluations: dict[str, Evaluation]
    cost_size: int


def read_plan(val: Mapping[str, Any]) -> Plan:
    """The plan of the section ``val:`` of an option file.

    Raises:
        ValueError: an option is missing or has no valid value.
        FileNotFoundError: there are no such weights.
    """
    size = val.get("cost_size", _COST_SIZE)
    if not isinstance(size, int) or size < 32:
        raise ValueError(f"option val: cost_size is {size!r}: a number from 32 is needed")
    scales = val.get("scales")
    if not scales or not isinstance(scales, list):
        raise ValueError(f"option val: scales is {scales!r}: a list such as [1.5, 2] is needed")
    if not val.get("metrics"):
        raise ValueError("option val: metrics is missing: what to measure")
    files = val.get("lr_files")
    if not files or not isinstance(files, Mapping):
        raise ValueError(
            f"option val: lr_files is {files!r}: PNG: {{lr_format: png}} is an example of what is "
            "needed"
        )
    evaluations = {}
    for name, options in files.items():
        if not isinstance(options, Mapping) or not options.keys() <= {"lr_format", "lr_quality"}:
            raise ValueError(
                f"option val: lr_files: {name} is {options!r}: lr_format and lr_quality are needed"
            )
        evaluations[str(name)] = Evaluation({**val, **options}, ("hr", "lr"))
    return Plan(_find_weights(val.get("weights")), _labelled(scales), evaluations, size)


def _labelled(scales: list[Any]) -> dict[str, tuple[float, float]]:
    labelled = {}
    for scale in scales:
        if not isinstance(scale, int | float):
            raise ValueError(f"option val: scales: {scale!r}: a number is needed")
        labelled[f"x{scale:g}"] = scale_pair(scale)
    return labelled


def _find_weights(patterns: Any) -> dict[str, str | None]:
    if not isinstance(patterns, list) or not all(isinstance(item, str) for item in patterns):
        raise ValueError(
            f"option val: weights is {patterns!r}: a list of files or patterns is needed"
        )
    found: dict[str, str | None] = {BICUBIC: None}
    for pattern in patterns:
        files = sorted(glob(os.path.expanduser(pattern)))
        if not files:
            raise FileNotFoundError(f"option val: weights: no such file: {pattern}")
        for file in files:
            name = os.path.basename(file).partition(".")[0]
            if found.setdefault(name, file) != file:
                raise ValueError(
                    f"option val: weights: {found[name] or BICUBIC} and {file} share a name"
                )
    return found


class BenchmarkModel(BaseModel):
    """Compares bicubic and AIDNs on the pictures of a ``BenchmarkDataset``.

    For testing only. Every picture is downscaled by every method at every scale, stored in every
    kind of LR file and restored; after that time and memory of each method are measured. The folder
    of the results gets ``benchmark.md``, ``.csv``, ``.json`` and ``.png``, and ``options.json``.

    Options:
        ``val: weights`` -- files of AIDNs, or patterns such as ``weights/*.safetensors``; bicubic
            always takes part;
        ``val: scales`` -- numbers;
        ``val: lr_files`` -- name -> ``lr_format`` and ``lr_quality``, as of
            :class:`~rescale_model.evaluation.Evaluation`;
        ``val: metrics`` -- as there, of the images ``hr`` and ``lr``; the first one is plotted;
        ``val: cost_size`` -- side of the picture that time and memory are measured with, default
            512.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        if opt["is_train"]:
            raise ValueError("option model_type: BenchmarkModel is for testing")
        if opt["dist"]:
            raise ValueError("a benchmark runs in one process: leave --launcher out")
        if opt["num_gpu"] and not torch.cuda.is_available():
            raise ValueError(f"option num_gpu is {opt['num_gpu']}, but PyTorch finds no GPU")
        super().__init__(opt)
        self.plan = read_plan(opt["val"])
        self.methods = {
            name: load_method(weights, self.device) for name, weights in self.plan.weights.items()
        }
        self.fingerprints = {
            name: fingerprint(method.state_dict()) for name, method in self.methods.items()
        }

    def validation(
        self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool = False
    ) -> None:
        """Runs the benchmark on a data set and writes what it found.

        Args:
            dataloader: of a ``BenchmarkDataset``.
            current_iter: not used, as is ``tb_logger``: BasicSR passes them.
            tb_logger: see there.
            save_img: whether LR and restored pictures are kept.
        """
        rows = []
        with torch.inference_mode(), inference_kernels():
            dataset = dataloader.dataset
            hidden = not self.opt["val"].get("pbar")
            for index in tqdm(range(len(dataset)), unit="image", disable=hidden):
                rows += self._judge(dataset[index], save_img)
        logger = get_root_logger()
        logger.info("Measuring time and memory")
        size, device = self.plan.cost_size, self.device.type
        costs = {
            name: measure_cost(weights, self.plan.scales, size, device)
            for name, weights in self.plan.weights.items()
        }
        where = (
            torch.cuda.get_device_name()
            if device == "cuda"
            else f"the CPU, PyTorch threads: {torch.get_num_threads()}"
        )
        metrics = next(iter(self.plan.evaluations.values())).metrics
        report = Report(metrics, rows, costs, f"measured with {size} x {size} pixels on {where}")
        folder = self.opt["path"]["results_root"]
        report.write(folder)
        write_options(folder, self.opt)
        first = next(iter(metrics))
        logger.info(f"{first}\n{report.table(first)}\nAll figures: {folder}/benchmark.md")

    def _judge(self, sample: Mapping[str, Any], save_img: bool) -> list[dict[str, Any]]:
        """A row for each scale, method and kind of LR file."""
        rows = []
        hr: Tensor = sample["gt"][None].to(self.device)
        size = (hr.shape[-2], hr.shape[-1])
        keys = {"set": sample["set"], "image": sample["image"]}
        stem = os.path.join(self.opt["path"]["visualization"], *keys.values())
        for label, scale in self.plan.scales.items():
            guide, edge = bicubic_lr(hr, scale), border(scale)
            for name, method in self.methods.items():
                lr = method.downscale(hr, scale)
                info = LRInfo("aidn", scale, size, self.fingerprints[name])
                for file, evaluation in self.plan.evaluations.items():
                    stored = evaluation.stored(sample["image"], lr)
                    restored = method.upscale(stored, scale, size=size)
                    judged = {
                        "hr": Judged(restored, hr, edge),
                        "lr": Judged(stored, guide, edge, None if name == BICUBIC else info),
                    }
                    if save_img:
                        evaluation.save(f"{stem}_{label}_{file}_{name}", judged)
                    place = {**keys, "lr_file": file, "method": name, "scale": label}
                    rows.append({**place, **evaluation.score(sample["gt_path"], judged)})
        return rows

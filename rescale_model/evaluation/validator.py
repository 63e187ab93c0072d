"""Validation of a model on datasets: distribution over ranks, tables, best values."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr

import torch
from basicsr.utils import get_root_logger
from torch import nn

from rescale_arch.inference_kernels import inference_kernels
from rescale_model.distributed import gather
from rescale_model.evaluation.validation import Evaluation, Means, RoundTrip
from rescale_model.json_file import write_options


class Validator:
    """Evaluates images, writes and logs the results, and tracks the best values of a training.

    Args:
        opt: all options of the run.
        evaluation: how its images are evaluated.

    Attributes:
        means: results of the last validation: ``<metric>_<case>`` -> mean over the images.
        best: dataset -> ``<metric>_<case>`` -> ``better``, ``val`` and ``iter``, in BasicSR's
            format.
    """

    def __init__(self, opt: Mapping[str, Any], evaluation: Evaluation) -> None:
        self._opt = opt
        self._evaluation = evaluation
        self.means: dict[str, float] = {}
        self.best: dict[str, dict[str, dict[str, Any]]] = {}

    def validate(
        self,
        dataset: Any,
        cases: Mapping[str, Any],
        round_trip: RoundTrip,
        current_iter: int | str,
        tb_logger: Any,
        save_img: bool,
    ) -> None:
        """Evaluates every image of a dataset in every case; all ranks must call it.

        Rank 0 writes a table to the log, CSV and JSON, for tests also the options, and updates the
        best values.

        Args:
            dataset: see :meth:`~rescale_model.evaluation.validation.Evaluation.run`.
            cases: see there.
            round_trip: see there.
            current_iter: iteration of the training.
            tb_logger: TensorBoard logger, or None.
            save_img: whether to save images.
        """
        name = dataset.opt["name"]
        rows = self._evaluation.run(
            dataset,
            cases,
            round_trip,
            rank=self._opt["rank"],
            world_size=self._opt["world_size"],
            folder=self._folder(name) if save_img else None,
            tag=self._tag(current_iter),
        )
        all_rows = [row for of_rank in gather(rows) for row in of_rank]
        if self._opt["rank"] == 0:
            self._report(name, all_rows, current_iter, tb_logger)

    def _report(
        self, dataset: str, rows: list[dict[str, Any]], current_iter: int | str, tb_logger: Any
    ) -> None:
        if not self._evaluation.metrics:
            return
        means = self._evaluation.means(rows)
        self.means = {
            f"{metric}_{case}": value
            for case, values in means.items()
            for metric, value in values.items()
        }
        self._update_best(dataset, means, current_iter)
        for metric, value in self.means.items():
            if tb_logger:
                tb_logger.add_scalar(f"metrics/{dataset}/{metric}", value, current_iter)
        best = self.best[dataset] if self._opt["is_train"] else None
        logger: logging.Logger = get_root_logger()
        logger.info(
            f"Validation {dataset}, {self._evaluation.protocol} protocol\n"
            + self._evaluation.table(means, best)
        )
        name = f"metrics{self._tag(current_iter)}"
        folder = self._folder(dataset)
        self._evaluation.write(folder, name, rows, means)
        if not self._opt["is_train"]:
            write_options(folder, self._opt)

    def restore_best(self, iteration: int) -> None:
        """Reads the best values up to ``iteration`` from the files of the run's validations."""
        files = Path(self._opt["path"]["visualization"]).glob("*/metrics_*.json")
        found = [(path.stem.removeprefix("metrics_"), path) for path in files]
        numbered = sorted((int(label), path) for label, path in found if label.isdecimal())
        for validated, path in numbered:
            if validated <= iteration:
                means = json.loads(path.read_text())["mean"]
                numbers = {
                    case: {metric: float(value) for metric, value in values.items()}
                    for case, values in means.items()
                }
                self._update_best(path.parent.name, numbers, validated)

    def _update_best(self, dataset: str, means: Means, current_iter: int | str) -> None:
        best = self.best.setdefault(dataset, {})
        for case, values in means.items():
            for metric, options in self._evaluation.metrics.items():
                if metric in values:
                    name, better = f"{metric}_{case}", options["better"]
                    sign = 1 if better == "higher" else -1
                    record = best.setdefault(
                        name, {"better": better, "val": -sign * float("inf"), "iter": -1}
                    )
                    if sign * values[metric] >= sign * record["val"]:
                        record.update(val=values[metric], iter=current_iter)

    def _folder(self, dataset: str) -> str:
        return os.path.join(self._opt["path"]["visualization"], dataset)

    def _tag(self, current_iter: int | str) -> str:
        return f"_{current_iter}" if self._opt["is_train"] else ""


@contextmanager
def evaluation_mode(
    net: nn.Module, precision: torch.autocast, *, compiled: bool
) -> Iterator[nn.Module]:
    """Context manager that sets a network to evaluation mode, without gradients.

    Args:
        net: the network.
        precision: autocast context of the computation.
        compiled: whether training compiles it; evaluation then runs it eagerly, since image sizes
            vary.
    """
    was_training = net.training
    net.eval()
    plain = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    try:
        with torch.inference_mode(), inference_kernels(), precision, plain:
            yield net
    finally:
        net.train(was_training)

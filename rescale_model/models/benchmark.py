"""``model_type: BenchmarkModel``: a comparison of methods, run by BasicSR's test runner."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import rescale_compat  # noqa: F401  must precede basicsr
from rescale_compat.errors import RescaleError

import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from pydantic import AfterValidator, Field, ValidationInfo
from tqdm import tqdm

from rescale_arch.inference_kernels import inference_kernels
from rescale_data.option_schema import Options, in_training
from rescale_model.device import check_gpus
from rescale_model.evaluation.comparison import Comparison
from rescale_model.evaluation.comparison_plan import BenchmarkValOptions, read_plan
from rescale_model.json_file import write_options
from rescale_model.models.base_options import FileOptions


def _for_testing(name: str, info: ValidationInfo) -> str:
    if in_training(info):
        raise RescaleError(f"{name} is for testing only")
    return name


class BenchmarkOptions(FileOptions):
    """An option file of :class:`BenchmarkModel`."""

    model_type: Annotated[str, AfterValidator(_for_testing)] = Field(description="`BenchmarkModel`")
    path: Options = Field(description="`{}`: it is not used")
    val: BenchmarkValOptions = Field(description="see below")


class BenchmarkModel(BaseModel):
    """Compares rescaling networks and bicubic interpolation on a ``BenchmarkDataset``.

    For testing only. Every method downscales every image at every scale, and restores it through
    every kind of LR file; then time and memory of each method are measured. The results are written
    to ``benchmark.md``, ``.csv``, ``.json`` and ``.png``, with ``options.json``.

    Options: see :class:`BenchmarkOptions`.
    """

    OPTIONS: ClassVar[type[BenchmarkOptions]] = BenchmarkOptions

    def __init__(self, opt: dict[str, Any]) -> None:
        if opt["is_train"]:
            raise RescaleError("option model_type: BenchmarkModel is for testing only")
        if opt["dist"]:
            raise RescaleError("a benchmark runs in a single process: omit --launcher")
        check_gpus(opt)
        super().__init__(opt)
        self.comparison = Comparison(read_plan(opt["val"]), self.device)

    def validation(
        self, dataloader: Any, current_iter: Any, tb_logger: Any, save_img: bool = False
    ) -> None:
        """Compares the methods on a dataset and writes the results.

        Args:
            dataloader: loader of a ``BenchmarkDataset``.
            current_iter: unused; passed by BasicSR.
            tb_logger: unused; passed by BasicSR.
            save_img: whether to save LR and restored images.
        """
        rows = []
        dataset, path = dataloader.dataset, self.opt["path"]
        pbar = bool(self.opt["val"].get("pbar"))
        with torch.inference_mode(), inference_kernels():
            for index in tqdm(range(len(dataset)), unit="image", disable=not pbar):
                folder = path["visualization"] if save_img else None
                rows += self.comparison.evaluate(dataset[index], folder)
        logger = get_root_logger()
        logger.info("Measuring time and memory")
        report = self.comparison.report(rows, pbar)
        report.write(path["results_root"])
        write_options(path["results_root"], self.opt)
        first = next(iter(report.metrics))
        table, file = report.table(first), f"{path['results_root']}/benchmark.md"
        logger.info(f"{first}\n{table}\nAll figures: {file}")

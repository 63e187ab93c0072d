"""The options of evaluations: metrics, protocol, and the files that LR images go through."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import rescale_compat  # noqa: F401  must precede basicsr
from rescale_compat.errors import RescaleError

from basicsr.utils.registry import METRIC_REGISTRY
from pydantic import AfterValidator, Field, ValidationInfo

from rescale_data.option_schema import Options
from rescale_model.evaluation.metrics import check_metric
from rescale_model.option_types import keywords_of

Protocol = Literal["8bit", "float"]
ImageName = Literal["hr", "lr", "bicubic", "half", "quarter"]


class MetricOptions(Options):
    """Options of every metric, in addition to its own keywords."""

    type: str = Field(description="name of the metric")
    image: ImageName = Field(
        "hr",
        description="image to evaluate: `hr`, the restored image; `lr`; `bicubic`, bicubic "
        "interpolation in both directions, for comparison; for VQIR with refinement "
        "also `half` and `quarter`",
    )
    better: Literal["higher", "lower"] | None = Field(
        None,
        description="whether higher or lower values are better. Default: depends on the metric",
    )
    protocol: Protocol | None = Field(None, description="replaces the protocol of `val`")
    crop_border: int | None = Field(
        None, ge=0, description="pixels to crop on every side. Default: chosen by the model"
    )


def _check_packages(metric: dict[Any, Any], info: ValidationInfo) -> dict[Any, Any]:
    if info.context is not None:
        try:
            check_metric(metric)
        except FileNotFoundError as error:
            raise RescaleError(str(error)) from None
    return metric


Metric = Annotated[
    dict[Any, Any],
    keywords_of(METRIC_REGISTRY, ("img", "img2"), base=MetricOptions),
    AfterValidator(_check_packages),
]


class LRFileOptions(Options):
    """The file that an LR image goes through."""

    lr_format: Literal["png", "jpeg", "webp"] | None = Field(
        None,
        description="compress and decompress the LR image as in a file: `jpeg`, or lossy `webp`; "
        "`png` is lossless, as is the default",
    )
    lr_quality: int = Field(90, ge=1, le=100, description="quality of JPEG or WebP")
    lr_chroma: Literal[420, 444] = Field(
        420, description="chroma of JPEG: 420, half resolution (4:2:0), or 444, full resolution"
    )


class ScoreOptions(Options):
    """Metrics and protocol."""

    metrics: dict[Any, Metric] | None = Field(
        None, description="name -> `type` and its keywords; see below"
    )
    protocol: Protocol = Field(
        "8bit",
        description="`8bit`: all images are rounded as in files; `float`: restored images and the "
        "bicubic reference are not rounded, as in the AIDN authors' evaluation",
    )
    pbar: bool = Field(False, description="true: show a progress bar")
    suffix: Any = Field(None, description="suffix of the names of saved images")


class EvaluationOptions(ScoreOptions, LRFileOptions):
    """Options of :class:`~rescale_model.evaluation.validation.Evaluation`."""

    lr_folder: str | None = Field(
        None,
        description="restore from the LR files in this folder, named as by a test run: "
        "`<image>_x<scale>_lr.png` (or `.jpg`), with any suffix after `lr` if it is "
        "unambiguous",
    )

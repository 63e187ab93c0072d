"""The plan of a comparison of methods, read from its options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from glob import glob
from typing import Annotated, Any, Self

from rescale_compat.errors import RescaleError

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from rescale_arch import scale_pair
from rescale_data.option_problems import validated
from rescale_model.evaluation.effort import read_effort
from rescale_model.evaluation.evaluation_options import LRFileOptions, Metric, ScoreOptions
from rescale_model.evaluation.validation import Evaluation

BICUBIC = "bicubic"


@dataclass(frozen=True)
class ComparisonPlan:
    """Methods, scales and LR files to compare.

    Attributes:
        weights: name of a network -> its file; None: bicubic interpolation.
        scales: label -> factors (vertical, horizontal).
        evaluations: name of a kind of LR file -> its evaluation.
        efforts: name of a kind of LR file -> numbers of steps in which LR images are optimized.
        cost_size: side of the image for measuring time and memory.
    """

    weights: dict[str, str | None]
    scales: dict[str, tuple[float, float]]
    evaluations: dict[str, Evaluation]
    efforts: dict[str, list[int]]
    cost_size: int

    def methods(self, file: str | None = None) -> dict[str, tuple[str, int]]:
        """Name of a method -> its network and number of steps.

        Args:
            file: name of a kind of LR file; None: all methods.
        """
        efforts = [
            steps for name, of in self.efforts.items() if file in (None, name) for steps in of
        ]
        return {
            method_name(network, steps): (network, steps)
            for network, weights in self.weights.items()
            for steps in sorted(set(efforts))
            if steps == 0 or weights is not None
        }


def method_name(network: str, steps: int) -> str:
    """``aidn-small``, or ``aidn-small, effort 10``."""
    return f"{network}, effort {steps}" if steps else network


def _check_factors(scales: list[float]) -> list[float]:
    for scale in scales:
        scale_pair(scale)
    return scales


def _check_files(patterns: list[str], info: ValidationInfo) -> list[str]:
    if info.context is not None:
        try:
            _find_weights(patterns)
        except FileNotFoundError as error:
            raise RescaleError(str(error)) from None
    return patterns


def _check_images(metrics: dict[Any, Any]) -> dict[Any, Any]:
    for name, metric in metrics.items():
        if metric.get("image") not in (None, "hr", "lr"):
            raise RescaleError(f"{name}: image is {metric['image']!r}: expected one of hr, lr")
    return metrics


class BenchmarkFileOptions(LRFileOptions):
    """A kind of LR file."""

    efforts: list[Annotated[int, Field(ge=0)]] = Field(
        [0],
        min_length=1,
        description="numbers of steps in which LR images are optimized for the network that "
        "restores them, as with `--effort`; each network is evaluated "
        "with each",
    )

    @model_validator(mode="after")
    def _check_efforts(self) -> Self:
        for steps in self.efforts:
            read_effort(steps, self.lr_format, self.lr_quality, self.lr_chroma)
        return self


class BenchmarkValOptions(ScoreOptions):
    """The ``val`` section of a comparison."""

    weights: Annotated[list[str], AfterValidator(_check_files)] = Field(
        description="weights files, or patterns such as `weights/*.safetensors`; bicubic "
        "interpolation is always included"
    )
    scales: Annotated[list[float], AfterValidator(_check_factors)] = Field(
        min_length=1, examples=[[1.5, 2]], description="scale factors"
    )
    lr_files: dict[Any, BenchmarkFileOptions] = Field(
        min_length=1,
        description="files that LR images go through, such as `png: {lr_format: png}`: name -> "
        "`lr_format`, `lr_quality`, `lr_chroma` and `efforts`",
    )
    metrics: Annotated[dict[Any, Metric], AfterValidator(_check_images)] = Field(
        min_length=1,
        description="name -> `type` and its keywords, for the images `hr` and `lr`; the first one "
        "is plotted",
    )
    cost_size: int = Field(
        512, ge=32, description="side of the image for measuring time and memory"
    )
    save_img: bool | None = Field(description="true: save LR and restored images")


def read_plan(val: Mapping[str, Any]) -> ComparisonPlan:
    """Reads the ``val`` section of the options of a ``BenchmarkModel``.

    Raises:
        ValueError: an option is missing or invalid.
        FileNotFoundError: a weights file does not exist.
    """
    options = validated(BenchmarkValOptions, val, "option val: ")
    try:
        weights = _find_weights(options.weights)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"option val: weights: {error}") from None
    return ComparisonPlan(
        weights,
        {f"x{scale:g}": scale_pair(scale) for scale in options.scales},
        {
            str(name): Evaluation({**val, **file.model_dump()}, ("hr", "lr"))
            for name, file in options.lr_files.items()
        },
        {str(name): file.efforts for name, file in options.lr_files.items()},
        options.cost_size,
    )


def _find_weights(patterns: list[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {BICUBIC: None}
    for pattern in patterns:
        files = sorted(glob(os.path.expanduser(pattern)))
        if not files:
            raise FileNotFoundError(f"no such file: {pattern}")
        for file in files:
            name = os.path.basename(file).partition(".")[0]
            if found.setdefault(name, file) != file:
                raise RescaleError(f"{found[name] or BICUBIC} and {file} have the same name")
    return found

"""Reads the results of ``rescale test``: metrics, files of images, and options."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rescale_compat.errors import RescaleError

BICUBIC = "bicubic"
"""The baseline method of a benchmark."""

_Place = tuple[str, str, str, str]

_OPTIONS = "options.json"
_TEST = "visualization/*/metrics.json"
_BENCHMARK = "benchmark.json"


@dataclass(frozen=True)
class Outcome:
    """The result for an image at a scale.

    Attributes:
        set: name of the dataset.
        image: name of the image in it.
        scale: label, as ``x2.5``, or ``x1.5x3`` for a pair (vertical, horizontal).
        method: name of the network or of its weights.
        lr_file: in a benchmark, the kind of file that the LR image was stored in; otherwise empty.
        figures: metric -> value.
        lr: file of the LR image, if it was saved.
        restored: file of the restored image, if it was saved.
    """

    set: str
    image: str
    scale: str
    method: str
    lr_file: str
    figures: Mapping[str, float]
    lr: Path
    restored: Path

    @property
    def variant(self) -> str:
        """Method and, in a benchmark, kind of LR file."""
        return f"{self.method}, {self.lr_file}" if self.lr_file else self.method


@dataclass(frozen=True)
class Results:
    """The results of a test run.

    Attributes:
        folder: folder of the results.
        options: options of the run.
        date: date of the test.
        outcomes: all results, set by set and image by image.
        costs: in a benchmark, method -> time and memory.
        conditions: how these were measured.
    """

    folder: Path
    options: Mapping[str, Any]
    date: str
    outcomes: tuple[Outcome, ...]
    costs: Mapping[str, Mapping[str, Any]]
    conditions: str = ""

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.options["name"])

    @property
    def is_benchmark(self) -> bool:
        """Whether several methods were compared."""
        return bool(self.costs)

    @property
    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """Name -> options of a metric."""
        metrics: Mapping[str, Mapping[str, Any]] = self.options["val"]["metrics"]
        return metrics

    @cached_property
    def main_metric(self) -> str | None:
        """The first PSNR of restored images, if any."""
        return next(iter(psnrs(self.metrics, ("hr",))), None)

    @cached_property
    def compared_metric(self) -> tuple[str, str] | None:
        """The first PSNR of restored images with a counterpart for bicubic, and that counterpart.

        In a benchmark these are the same, of different methods.
        """
        if self.is_benchmark:
            has_bicubic = BICUBIC in self.values("method")
            return (
                (self.main_metric, self.main_metric) if self.main_metric and has_bicubic else None
            )
        for name in psnrs(self.metrics, ("hr",)):
            for other in psnrs(self.metrics, ("bicubic",)):
                if _without_image(self.metrics[name]) == _without_image(self.metrics[other]):
                    return name, other
        return None

    def gain(
        self, figures: Mapping[str, float], bicubic: Mapping[str, float] | None
    ) -> float | None:
        """Gain of a result over bicubic in dB, if it is known.

        Args:
            figures: metric -> value.
            bicubic: in a benchmark, the corresponding values of bicubic; otherwise ``figures``.
        """
        if self.compared_metric is None or bicubic is None:
            return None
        own, other = self.compared_metric
        gain = figures[own] - bicubic[other]
        return None if math.isnan(gain) else gain

    def rank(self, outcome: Outcome) -> float:
        """The main metric of an outcome; 0 without one."""
        return outcome.figures[self.main_metric] if self.main_metric else 0

    @cached_property
    def means(self) -> dict[_Place, dict[str, float]]:
        """(set, LR file, method, scale) -> metric -> mean over the images."""
        groups: dict[_Place, list[Outcome]] = {}
        for outcome in self.outcomes:
            place = (outcome.set, outcome.lr_file, outcome.method, outcome.scale)
            groups.setdefault(place, []).append(outcome)
        return {
            place: {
                metric: math.fsum(outcome.figures[metric] for outcome in group) / len(group)
                for metric in self.metrics
            }
            for place, group in groups.items()
        }

    def values(self, attribute: str) -> list[str]:
        """The distinct values of an attribute of the outcomes, in order."""
        return distinct(getattr(outcome, attribute) for outcome in self.outcomes)


def load(folder: Path) -> Results:
    """Reads the metrics of a test run and finds its images.

    Args:
        folder: ``results/<name>``.

    Raises:
        FileNotFoundError: the folder does not exist or contains no results of a test run.
        ValueError: a file in it was not written by a test run.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    tables = sorted(folder.glob(_TEST)) or sorted(folder.glob(_BENCHMARK))
    if not tables:
        raise FileNotFoundError(
            f"{folder}: contains no results of `rescale test`: neither {_TEST} nor {_BENCHMARK}"
        )
    options = _read_options(tables[0].with_name(_OPTIONS))  # the same in each folder
    outcomes: list[Outcome] = []
    content: dict[str, Any] = {}
    for table in tables:
        with _reading(table):
            content = json.loads(table.read_text(encoding="utf-8"))
            read = _of_benchmark if table.name == _BENCHMARK else _of_test
            outcomes += [read(table, row, options) for row in content["images"]]
    return Results(
        folder,
        options,
        options["date"],
        tuple(outcomes),
        content.get("cost", {}),
        content.get("cost_conditions", ""),
    )


def distinct(values: Iterable[str]) -> list[str]:
    """The distinct values, in order."""
    return list(dict.fromkeys(values))


def psnrs(metrics: Mapping[str, Mapping[str, Any]], images: Iterable[str]) -> list[str]:
    """Names of the metrics that are a PSNR of one of these images (``hr``: the restored one)."""
    return [
        name
        for name, options in metrics.items()
        if options["type"] == "calculate_psnr" and options.get("image", "hr") in tuple(images)
    ]


def _without_image(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != "image"}


def factors(scale: str) -> tuple[float, float]:
    """The factors (vertical, horizontal) that a scale's label represents."""
    numbers = [float(number) for number in scale.removeprefix("x").split("x")]
    return numbers[0], numbers[-1]


def factor(scale: str) -> float:
    """The factor that a scale's label represents; for a pair, the geometric mean."""
    return math.sqrt(math.prod(factors(scale)))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        text = f"{type(error).__name__}: {error}"
        raise RescaleError(f"{path}: was not written by `rescale test` ({text})") from error


def _of_test(table: Path, row: Mapping[str, Any], options: Mapping[str, Any]) -> Outcome:
    stem = f"{row['image']}_{row['case']}"
    return Outcome(
        table.parent.name,
        row["image"],
        row["case"],
        options["network_g"]["type"],
        "",
        {metric: float(row[metric]) for metric in options["val"]["metrics"]},
        *_saved(table.parent, stem, options),
    )


def _of_benchmark(table: Path, row: Mapping[str, Any], options: Mapping[str, Any]) -> Outcome:
    # files of the method "aidn, effort 10" are those of aidn_effort10
    method = row["method"].replace(", effort ", "_effort")
    stem = "_".join([row["image"], row["scale"], row["lr_file"], method])
    return Outcome(
        row["set"],
        row["image"],
        row["scale"],
        row["method"],
        row["lr_file"],
        {metric: float(row[metric]) for metric in options["val"]["metrics"]},
        *_saved(table.parent / "visualization" / row["set"], stem, options),
    )


def _saved(folder: Path, stem: str, options: Mapping[str, Any]) -> tuple[Path, Path]:
    """The files of the LR and of the restored image."""
    suffix = options["val"].get("suffix")
    ending = f"_{suffix}.png" if suffix else ".png"
    return folder / f"{stem}_lr{ending}", folder / f"{stem}_hr{ending}"


def _read_options(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; `rescale test` of version 0.1 wrote none: run the test again"
        )
    with _reading(path):
        options: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"date", "name", "datasets", "path", "val"} - options.keys()
        if missing or not options["val"].get("metrics") or "results_root" not in options["path"]:
            raise RescaleError("options are missing")
    return options

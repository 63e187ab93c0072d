"""The evaluation of round trips, as the section ``val:`` of the options says."""

from __future__ import annotations

import csv
import inspect
import io
import math
import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from glob import escape, glob
from typing import Annotated, Any, Literal, get_args

import rescale_compat  # noqa: F401  first: it lets basicsr import
from rescale_compat.errors import RescaleError

import numpy as np
from basicsr.utils.registry import METRIC_REGISTRY
from pydantic import AfterValidator, Field, ValidationInfo
from torch import Tensor
from tqdm import tqdm

from rescale_data.image_file import read_image, write_file, write_image
from rescale_data.lossy import through_jpeg, through_webp
from rescale_data.option_problems import validated
from rescale_data.option_schema import Options, declared
from rescale_data.pixels import to_pixels, to_tensor
from rescale_model.evaluation.effort import Effort, read_effort
from rescale_model.evaluation.metrics import LEAST_SIZES, LOWER_IS_BETTER, check_metric
from rescale_model.evaluation.round_trip import EvaluatedImage
from rescale_model.json_file import write_json
from rescale_model.option_types import keywords_of

Protocol = Literal["8bit", "float"]
ImageName = Literal["hr", "lr", "bicubic", "half", "quarter"]
IMAGES = get_args(ImageName)
_SUFFIXES = (".png", ".jpg", ".jpeg")


RoundTrip = Callable[[str, Tensor, Any], dict[str, EvaluatedImage]]
Means = dict[str, dict[str, float]]


class MetricOptions(Options):
    """What a metric has beside its own keywords."""

    type: str = Field(description="name of the metric")
    image: ImageName = Field(
        "hr",
        description="the image that is evaluated: `hr`, restored; `lr`; `bicubic`, bicubic both "
        "ways, for comparison; of VQIR with refinement also `half` and `quarter`",
    )
    better: Literal["higher", "lower"] | None = Field(
        None, description="which values are better; by default what the metric means"
    )
    protocol: Protocol | None = Field(None, description="in place of that of `val`")
    crop_border: int | None = Field(
        None, ge=0, description="pixels that are left out on every side; by default the model's"
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
        description="the LR image is compressed as in a file and decompressed: `jpeg`, or `webp` "
        "(lossy); `png` and the default are lossless",
    )
    lr_quality: int = Field(90, ge=1, le=100, description="quality of the JPEG or WebP")
    lr_chroma: Literal[420, 444] = Field(
        420, description="chroma of the JPEG: at half resolution (4:2:0) or whole (4:4:4)"
    )


class ScoreOptions(Options):
    """How images are scored."""

    metrics: dict[Any, Metric] | None = Field(
        None, description="name: `type` and its keywords; see below"
    )
    protocol: Protocol = Field(
        "8bit",
        description="`8bit` rounds all images as files do; `float` leaves restored images and the "
        "bicubic reference unrounded, as the AIDN authors score",
    )
    pbar: bool = Field(False, description="true: a progress bar")
    suffix: Any = Field(None, description="end of the names of saved images")


class EvaluationOptions(ScoreOptions, LRFileOptions):
    """What :class:`Evaluation` reads."""

    lr_folder: str | None = Field(
        None,
        description="restores from the LR files of this folder, named as a test run saves them, "
        "`<image>_x<scale>_lr.png` (or `.jpg`), with any suffix behind `lr` if one file is meant",
    )


class Evaluation:
    """The ``val:`` section of an option file.

    Options: those of :class:`EvaluationOptions`. A metric gets ``img2`` (the reference),
    ``crop_border`` and ``better`` only if it takes them; without ``crop_border``, it gets images
    without their border.

    Args:
        opt: these options.
        images: those that there will be.

    Raises:
        ValueError: an option has no valid value, or a metric needs a package that is not installed.
        FileNotFoundError: a metric needs weights that are not there.
    """

    def __init__(
        self, opt: Mapping[str, Any], images: Collection[str] = get_args(ImageName)
    ) -> None:
        known = declared(EvaluationOptions)
        given = {key: value for key, value in opt.items() if key in known}
        options = validated(EvaluationOptions, given, "option val: ")
        self.protocol = options.protocol
        self.metrics: dict[str, dict[str, Any]] = {
            str(name): {
                "better": _better(metric),
                "image": "hr",
                "protocol": self.protocol,
                **{key: value for key, value in metric.items() if value is not None},
            }
            for name, metric in (options.metrics or {}).items()
        }
        for name, metric in self.metrics.items():
            if metric["image"] not in images:
                raise RescaleError(
                    f"option val: metrics: {name}: image is {metric['image']!r}: valid are "
                    + ", ".join(images)
                )
            check_metric(metric)
        self.lr_format = options.lr_format
        self.lr_quality = options.lr_quality
        self.lr_chroma = options.lr_chroma
        self.lr_folder = options.lr_folder
        self.pbar = options.pbar
        self.suffix = f"_{options.suffix}" if options.suffix else ""

    def run(
        self,
        dataset: Any,
        cases: Mapping[str, Any],
        round_trip: RoundTrip,
        *,
        rank: int = 0,
        world_size: int = 1,
        folder: str | None = None,
        tag: str = "",
    ) -> list[dict[str, Any]]:
        """Evaluates every ``world_size``-th image of ``dataset`` at every case.

        Args:
            dataset: yields ``gt`` (3, H, W) and ``gt_path``.
            cases: label -> value for ``round_trip``.
            round_trip: (file stem of the LR image, gt of (1, 3, H, W), case) -> evaluated images.
            rank: first image.
            world_size: step from image to image.
            folder: images go there; None: none are saved.
            tag: end of the files' names.

        Returns:
            A row per image and case: ``image``, ``case`` and the metrics.
        """
        rows = []
        indices = range(rank, len(dataset), world_size)
        for index in tqdm(indices, unit="image", disable=not self.pbar or rank != 0):
            data = dataset[index]
            name = _image_name(data["gt_path"], dataset.opt["dataroot_gt"])
            for label, case in cases.items():
                evaluated = round_trip(f"{name}_{label}", data["gt"].unsqueeze(0), case)
                if folder is not None:
                    self.save(os.path.join(folder, f"{name}_{label}"), evaluated, tag)
                rows.append({"image": name, "case": label, **self.score(name, evaluated)})
        return rows

    def stored(self, stem: str, lr: Tensor) -> Tensor:
        """The LR image as a file keeps it.

        Args:
            stem: its file name without ``_lr`` and suffix.
            lr: (1, 3, h, w), unrounded.

        Returns:
            The image in 8 bits; after lossy compression or from ``lr_folder`` where the options
            say so.

        Raises:
            FileNotFoundError: ``lr_folder`` has no such file.
            ValueError: the file has another size, or several could be meant.
        """
        if self.lr_folder is not None:
            found = _find(os.path.join(self.lr_folder, f"{stem}_lr"), self.suffix)
            image = read_image(found)
            if image.shape[:2] != tuple(lr.shape[-2:]):
                raise RescaleError(
                    f"{found} is {image.shape[0]} x {image.shape[1]} (height x width), but "
                    f"{lr.shape[-2]} x {lr.shape[-1]} is needed"
                )
        else:
            image = to_pixels(lr)
            if self.lr_format == "jpeg":
                image = through_jpeg(image, self.lr_quality, self.lr_chroma)
            elif self.lr_format == "webp":
                image = through_webp(image, self.lr_quality)
        return to_tensor(image, lr.device)

    def effort(self, steps: int) -> Effort:
        """How LR images are optimised for the file that they go through.

        Raises:
            ValueError: there is no optimisation for that file.
        """
        return read_effort(steps, self.lr_format, self.lr_quality, self.lr_chroma)

    def means(self, rows: list[dict[str, Any]]) -> Means:
        """Case -> metric -> mean over the images."""
        means: Means = {}
        for case in dict.fromkeys(row["case"] for row in rows):
            of_case = [row for row in rows if row["case"] == case]
            means[case] = {
                # fsum: the same whatever the order, in which ranks hand in their images
                metric: math.fsum(row[metric] for row in of_case) / len(of_case)
                for metric in self.metrics
            }
        return means

    def table(self, means: Means, best: Mapping[str, Any] | None = None) -> str:
        """The means as text; ``best`` adds the best value so far and its iteration."""
        cells = [["", *self.metrics]]
        for case, values in means.items():
            row = [case]
            for metric, value in values.items():
                record = best[f"{metric}_{case}"] if best else None
                note = f" (best {record['val']:.4f} @ {record['iter']})" if record else ""
                row.append(f"{value:.4f}{note}")
            cells.append(row)
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "\t" + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in cells
        )

    def write(self, folder: str, name: str, rows: list[dict[str, Any]], means: Means) -> None:
        """Writes ``name``.csv (a line per image and case) and ``name``.json (also the means).

        What is infinite, as the PSNR of equal images, JSON has as text: ``"inf"``.
        """
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, name)
        rows = sorted(rows, key=lambda row: row["image"])
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, ["image", "case", *self.metrics])
        writer.writeheader()
        writer.writerows(rows)
        write_file(f"{path}.csv", table.getvalue().encode())
        write_json(f"{path}.json", {"protocol": self.protocol, "mean": means, "images": rows})

    def score(self, name: str, evaluated: Mapping[str, EvaluatedImage]) -> dict[str, float]:
        """The metrics of the images of a round trip.

        Args:
            name: of the image, for the error.
            evaluated: the images.

        Raises:
            ValueError: they are too small for a metric.
        """
        scores = {}
        for metric, options in self.metrics.items():
            pair = evaluated[options["image"]]
            keywords = {"crop_border": pair.border, **options}
            for key in ("type", "image", "protocol"):
                del keywords[key]
            border = keywords["crop_border"]
            inner = sorted(side - 2 * border for side in pair.image.shape[-2:])
            least = LEAST_SIZES.get(options["type"], (1, 1))
            if inner[0] < least[0] or inner[1] < least[1]:
                raise RescaleError(
                    f"{name}: too small to be scored within a border of {border}: {metric} needs "
                    f"{least[0]} x {least[1]} pixels there"
                )
            function = METRIC_REGISTRY.get(options["type"])
            scored = partial(
                _scored,
                protocol=options["protocol"],
                border=0 if _takes(function, "crop_border") else border,
            )
            keywords["img2"] = scored(pair.reference)
            for key in ("img2", "crop_border", "better"):
                if not _takes(function, key):
                    del keywords[key]
            scores[metric] = float(function(img=scored(pair.image), **keywords))
        return scores

    def save(self, stem: str, evaluated: Mapping[str, EvaluatedImage], tag: str = "") -> None:
        """Saves the images of a round trip as ``<stem>_<name><suffix><tag>.png``."""
        os.makedirs(os.path.dirname(stem), exist_ok=True)
        for which, pair in evaluated.items():
            if which == "bicubic":
                continue
            path = f"{stem}_{which}{self.suffix}{tag}.png"
            write_image(path, to_pixels(pair.image), info=pair.info)


def _better(options: Mapping[str, Any]) -> str:
    """Which values of a metric are better, ``higher`` or ``lower``."""
    return "lower" if options.get("type") in LOWER_IS_BETTER else "higher"


def _takes(function: Callable[..., Any], keyword: str) -> bool:
    """Whether ``function`` has this keyword, or takes any."""
    parameters = inspect.signature(function).parameters
    return keyword in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def _scored(image: Tensor, protocol: str, border: int) -> np.ndarray:
    """BGR in [0, 255], as BasicSR's metrics take it, without its border."""
    image = image[..., border : image.shape[-2] - border, border : image.shape[-1] - border]
    if protocol == "8bit":
        return to_pixels(image)[..., ::-1]
    clamped = image[0].float().clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(clamped[..., ::-1] * 255)


def _image_name(path: str, root: str) -> str:
    """The path below ``root`` without suffix; an LMDB key is one already."""
    relative = os.path.relpath(path, root) if path.startswith(root) else path
    return os.path.splitext(relative)[0]


def _find(stem: str, suffix: str) -> str:
    for exact in (f"{stem}{suffix}", stem):
        for ending in _SUFFIXES:
            if os.path.isfile(exact + ending):
                return exact + ending
    others = [path for path in glob(f"{escape(stem)}_*") if path.endswith(_SUFFIXES)]
    if not others:
        raise FileNotFoundError(f"no LR file {stem}.png (or {', '.join(_SUFFIXES[1:])})")
    if others[1:]:
        raise RescaleError(
            f"{stem}.png is not there, and {', '.join(sorted(others))} are several: say which by "
            "val: suffix"
        )
    return others[0]

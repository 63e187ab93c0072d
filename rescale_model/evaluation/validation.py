"""Evaluation of round trips according to the ``val`` section of the options."""

from __future__ import annotations

import csv
import inspect
import io
import math
import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from glob import escape, glob
from typing import Any, get_args

import rescale_compat  # noqa: F401  must precede basicsr
from rescale_compat.errors import RescaleError

import numpy as np
from basicsr.utils.registry import METRIC_REGISTRY
from torch import Tensor
from tqdm import tqdm

from rescale_data.image_file import read_image, write_file, write_image
from rescale_data.lossy import through_jpeg, through_webp
from rescale_data.option_problems import validated
from rescale_data.option_schema import declared
from rescale_data.pixels import to_pixels, to_tensor
from rescale_model.evaluation.effort import Effort, read_effort
from rescale_model.evaluation.evaluation_options import EvaluationOptions, ImageName
from rescale_model.evaluation.metrics import LEAST_SIZES, LOWER_IS_BETTER, check_metric
from rescale_model.evaluation.round_trip import EvaluatedImage
from rescale_model.json_file import write_json

_SUFFIXES = (".png", ".jpg", ".jpeg")

RoundTrip = Callable[[str, Tensor, Any], dict[str, EvaluatedImage]]
Means = dict[str, dict[str, float]]


class Evaluation:
    """Evaluates images with the metrics of the ``val`` section of an option file.

    Options: see :class:`~rescale_model.evaluation.evaluation_options.EvaluationOptions`. A metric
    is passed ``img2`` (the reference), ``crop_border`` and ``better`` only if it accepts them; if
    it does not accept ``crop_border``, its images are cropped before.

    Args:
        opt: the section.
        images: names of the images that will be evaluated.

    Raises:
        ValueError: an option is invalid, or a metric requires a package that is not installed.
        FileNotFoundError: the weights that a metric requires do not exist.
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
                    f"option val: metrics: {name}: image is {metric['image']!r}: expected one of "
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
        """Evaluates every ``world_size``-th image of ``dataset`` in every case.

        Args:
            dataset: yields ``gt`` (3, H, W) and ``gt_path``.
            cases: label -> value to pass to ``round_trip``.
            round_trip: function of the LR image's file name without ``_lr`` and suffix, the HR
                image (1, 3, H, W) and the case that returns the images to evaluate.
            rank: index of the first image.
            world_size: distance between images.
            folder: folder to save images in; None: they are not saved.
            tag: suffix of their names.

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
        """The LR image as it is read from a file.

        Args:
            stem: file name without ``_lr`` and suffix.
            lr: (1, 3, h, w), not rounded.

        Returns:
            The image in 8 bits; depending on the options, after lossy compression or from
            ``lr_folder``.

        Raises:
            FileNotFoundError: ``lr_folder`` has no such file.
            ValueError: the file has another size, or the name is ambiguous.
        """
        if self.lr_folder is not None:
            found = _find(os.path.join(self.lr_folder, f"{stem}_lr"), self.suffix)
            image = read_image(found)
            if image.shape[:2] != tuple(lr.shape[-2:]):
                raise RescaleError(
                    f"{found} is {image.shape[0]} x {image.shape[1]} (height x width): expected "
                    f"{lr.shape[-2]} x {lr.shape[-1]}"
                )
        else:
            image = to_pixels(lr)
            if self.lr_format == "jpeg":
                image = through_jpeg(image, self.lr_quality, self.lr_chroma)
            elif self.lr_format == "webp":
                image = through_webp(image, self.lr_quality)
        return to_tensor(image, lr.device)

    def effort(self, steps: int) -> Effort:
        """How LR images are optimized for the kind of file that stores them.

        Raises:
            ValueError: optimization does not support this kind of file.
        """
        return read_effort(steps, self.lr_format, self.lr_quality, self.lr_chroma)

    def means(self, rows: list[dict[str, Any]]) -> Means:
        """Case -> metric -> mean over the images."""
        means: Means = {}
        for case in dict.fromkeys(row["case"] for row in rows):
            of_case = [row for row in rows if row["case"] == case]
            means[case] = {
                # fsum: independent of the order, which depends on the number of ranks
                metric: math.fsum(row[metric] for row in of_case) / len(of_case)
                for metric in self.metrics
            }
        return means

    def table(self, means: Means, best: Mapping[str, Any] | None = None) -> str:
        """A table of means; ``best`` adds the best values so far and their iterations."""
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

        JSON represents infinite values, such as the PSNR of equal images, as ``"inf"``.
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
        """Computes the metrics of the images of a round trip.

        Args:
            name: name of the image, for error messages.
            evaluated: the images.

        Raises:
            ValueError: an image is too small for a metric.
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
                    f"{name}: too small: {metric} needs {least[0]} x {least[1]} pixels inside a "
                    f"border of {border}"
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
    """Whether ``higher`` or ``lower`` values of a metric are better."""
    return "lower" if options.get("type") in LOWER_IS_BETTER else "higher"


def _takes(function: Callable[..., Any], keyword: str) -> bool:
    """Whether ``function`` accepts a keyword."""
    parameters = inspect.signature(function).parameters
    return keyword in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def _scored(image: Tensor, protocol: str, border: int) -> np.ndarray:
    """The image without its border, BGR in [0, 255] as BasicSR's metrics expect."""
    image = image[..., border : image.shape[-2] - border, border : image.shape[-1] - border]
    if protocol == "8bit":
        return to_pixels(image)[..., ::-1]
    clamped = image[0].float().clamp(0, 1).permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(clamped[..., ::-1] * 255)


def _image_name(path: str, root: str) -> str:
    """The path relative to ``root`` without suffix; LMDB keys are returned unchanged."""
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
            f"no LR file {stem}.png, and several with a suffix: {', '.join(sorted(others))}; "
            "select one with val: suffix"
        )
    return others[0]

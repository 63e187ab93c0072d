"""The original images of a test run, from its datasets or from given folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rescale_compat.errors import RescaleError

import numpy as np
from numpy.typing import NDArray

from rescale_app.report.results import Results
from rescale_data.hr_dataset import HRImageDataset, Sample

Pixels = NDArray[np.uint8]


class Originals:
    """The originals of a dataset, read one at a time and cropped as for the test.

    Access by name is possible after iterating over them once.

    Args:
        dataset: the dataset.
    """

    def __init__(self, dataset: HRImageDataset) -> None:
        self.root = str(dataset.opt["dataroot_gt"])
        self._dataset = dataset
        self._at: dict[str, int] = {}

    def __iter__(self) -> Iterator[tuple[str, Pixels]]:
        """Yields name and image, (H, W, 3) RGB.

        Raises:
            OSError: an image is broken.
        """
        for index in range(len(self._dataset)):
            sample = self._dataset[index]
            name = os.path.splitext(os.path.relpath(sample["gt_path"], self.root))[0]
            self._at[name] = index
            yield name, _pixels(sample)

    def __contains__(self, name: str) -> bool:
        return name in self._at

    def __getitem__(self, name: str) -> Pixels:
        return _pixels(self._dataset[self._at[name]])


def find(results: Results, set_name: str, folders: Sequence[Path]) -> Originals:
    """Finds the originals of a dataset.

    Args:
        results: of the test.
        set_name: name of the dataset.
        folders: replace the folder in the options, if not empty: the folder of the images, or one
            that contains it as ``<set>/HR`` or ``<set>``.

    Raises:
        FileNotFoundError: there is no such folder, or it has no images.
        ValueError: the options of the dataset are invalid.
    """
    options = _dataset_options(results, set_name)
    within = [Path(set_name, "HR"), Path(set_name)]
    if folders:
        places = [folder / part for folder in folders for part in (*within, Path())]
        options.pop("io_backend", None)
    else:
        # BasicSR ran in the folder that contains `results`
        run_in = Path(results.options["path"]["results_root"]).parents[1]
        root = run_in / str(options.get("dataroot_gt"))
        places = [root / part for part in within] if results.is_benchmark else [root]
    found = next(filter(Path.is_dir, places), None)
    if found is None:
        raise FileNotFoundError(f"no folder {' or '.join(map(str, places))}")
    return Originals(HRImageDataset({**options, "dataroot_gt": str(found)}))


def _dataset_options(results: Results, set_name: str) -> dict[str, Any]:
    for options in results.options["datasets"].values():
        # a benchmark has one dataset, which consists of several sets
        if results.is_benchmark or options["name"] == set_name:
            known = HRImageDataset.OPTIONS.model_fields
            return {key: value for key, value in options.items() if key in known}
    raise RescaleError(f"{results.folder}: its options have no dataset {set_name}")


def _pixels(sample: Sample) -> Pixels:
    gt = sample["gt"]
    if gt.is_floating_point():  # uint8 with the dataset's option dtype: uint8
        gt = (gt * 255).round().byte()
    return np.ascontiguousarray(gt.permute(1, 2, 0).numpy())

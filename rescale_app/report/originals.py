"""The original pictures of a test run, from where its data sets were or from given folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rescale_app.report.results import Results
from rescale_data.hr_dataset import HRImageDataset, Sample

Pixels = NDArray[np.uint8]


class Originals:
    """The originals of a data set, read one at a time and cropped as for the test.

    Going through them comes first; after that, each can be had by its name.

    Args:
        dataset: reads them.
    """

    def __init__(self, dataset: HRImageDataset) -> None:
        self.root = str(dataset.opt["dataroot_gt"])
        self._dataset = dataset
        self._at: dict[str, int] = {}

    def __iter__(self) -> Iterator[tuple[str, Pixels]]:
        """Yields name and picture, (H, W, 3) RGB.

        Raises:
            OSError: a picture is broken.
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
    """The originals of a data set.

    Args:
        results: of the test.
        set_name: of the data set.
        folders: take the place of that in the options, if there are any: the pictures' folder, or
            one in which it is ``<set>/HR`` or ``<set>``.

    Raises:
        FileNotFoundError: there is no such folder, or it has no pictures.
        ValueError: the options of the data set do not fit.
    """
    options = _dataset_options(results, set_name)
    within = [Path(set_name, "HR"), Path(set_name)]
    if folders:
        places = [folder / part for folder in folders for part in (*within, Path())]
        options.pop("io_backend", None)
    else:
        # BasicSR ran in the folder that has `results` in it
        run_in = Path(results.options["path"]["results_root"]).parents[1]
        root = run_in / str(options.get("dataroot_gt"))
        places = [root / part for part in within] if results.is_benchmark else [root]
    found = next(filter(Path.is_dir, places), None)
    if found is None:
        raise FileNotFoundError(f"no folder {' or '.join(map(str, places))}")
    return Originals(HRImageDataset({**options, "dataroot_gt": str(found)}))


def _dataset_options(results: Results, set_name: str) -> dict[str, Any]:
    for options in results.options["datasets"].values():
        # a benchmark has one data set, of several sets
        if results.is_benchmark or options["name"] == set_name:
            return {key: value for key, value in options.items() if key in HRImageDataset.OPTIONS}
    raise ValueError(f"{results.folder}: its options have no data set {set_name}")


def _pixels(sample: Sample) -> Pixels:
    pixels = (sample["gt"] * 255).round().byte().permute(1, 2, 0)
    return np.ascontiguousarray(pixels.numpy())

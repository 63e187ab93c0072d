"""Images of a benchmark: several sets in one folder, some of which may be missing."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch.utils.data import Dataset

from rescale_data.hr_dataset import HRImageDataset, SourceFolder
from rescale_data.loader_options import DatasetOptions
from rescale_data.option_problems import validated


class BenchmarkDatasetOptions(DatasetOptions):
    """Options of :class:`BenchmarkDataset`."""

    dataroot_gt: SourceFolder = Field(
        description="folder of all sets. The images of a set are in `<set>/HR` or, if there is no "
        "such folder, in `<set>`"
    )
    sets: list[str] = Field(
        min_length=1,
        examples=[["Set5", "Set14"]],
        description="names of the sets. Sets without a folder are skipped, which is logged",
    )
    mod_crop: int = Field(1, ge=1, description="crop images to sides that are multiples of this")


class BenchmarkDataset(Dataset[dict[str, Any]]):
    """The images of all available `sets`, set by set, for BasicSR's test runner.

    Options: see `BenchmarkDatasetOptions`.

    Attributes:
        opt: The options.
        sets: Names of the available sets.

    Shape:
        `gt`: (3, H, W), RGB, float32 in [0, 1]; `set` and `image`: names; `gt_path`: the file.

    Raises:
        ValueError: If an option is unknown or invalid, or `sets` is missing.
        FileNotFoundError: If none of the sets is available, or one of them has no images.
    """

    OPTIONS: ClassVar[type[BenchmarkDatasetOptions]] = BenchmarkDatasetOptions

    def __init__(self, opt: Mapping[str, Any]) -> None:
        """Lists the images without reading them.

        Args:
            opt: options of a dataset in an option file, with `phase`.
        """
        super().__init__()
        self.opt = dict(opt)
        rest = {key: value for key, value in opt.items() if key != "sets"}
        options = validated(self.OPTIONS, opt)
        root, sets = options.dataroot_gt, options.sets
        self._parts: dict[str, HRImageDataset] = {}
        for name in dict.fromkeys(sets):
            folders = [os.path.join(root, name, "HR"), os.path.join(root, name)]
            found = next(filter(os.path.isdir, folders), None)
            if found is None:
                logging.getLogger("basicsr").info(
                    f"{name} is skipped: there is no folder {folders[1]}"
                )
            else:
                self._parts[name] = HRImageDataset({**rest, "dataroot_gt": found})
        if not self._parts:
            raise FileNotFoundError(f"{root}: none of the sets is available: {', '.join(sets)}")
        self.sets = list(self._parts)
        self._places = [
            (name, index) for name, part in self._parts.items() for index in range(len(part))
        ]

    def __len__(self) -> int:
        """Returns the number of images in all sets."""
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads an image."""
        name, within = self._places[index]
        sample = self._parts[name][within]
        image = os.path.splitext(os.path.basename(sample["gt_path"]))[0]
        return dict(sample, set=name, image=image)

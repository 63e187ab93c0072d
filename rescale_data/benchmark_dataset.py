"""The images of the benchmark: several sets in one folder, of which some may be missing."""

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
        description="folder of all sets. The images of a set are in `<set>/HR` or, where there is "
        "no such folder, in `<set>`"
    )
    sets: list[str] = Field(
        min_length=1,
        examples=[["Set5", "Set14"]],
        description="names of the sets. One that has no folder is left out, which is logged",
    )
    mod_crop: int = Field(
        1, ge=1, description="images are cropped to sides that are multiples of it"
    )


class BenchmarkDataset(Dataset[dict[str, Any]]):
    """The images of all `sets` that are present, set by set, for BasicSR's test runner.

    Options: those of `BenchmarkDatasetOptions`.

    Attributes:
        opt: The options.
        sets: Names of the sets that are present.

    Shape:
        `gt` (3, H, W), float32 in [0, 1], RGB; `set` and `image` are names, `gt_path` is the file.

    Raises:
        ValueError: For an unknown option, or no `sets`.
        FileNotFoundError: If none of the sets is present, or one of them has no images.
    """

    OPTIONS: ClassVar[type[BenchmarkDatasetOptions]] = BenchmarkDatasetOptions

    def __init__(self, opt: Mapping[str, Any]) -> None:
        """Lists the images without reading them.

        Args:
            opt: options of a data set in an option file, with `phase`.
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
                logging.getLogger("basicsr").info(f"{name} is skipped: no folder {folders[1]}")
            else:
                self._parts[name] = HRImageDataset({**rest, "dataroot_gt": found})
        if not self._parts:
            raise FileNotFoundError(f"{root}: none of the sets is present: {', '.join(sets)}")
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

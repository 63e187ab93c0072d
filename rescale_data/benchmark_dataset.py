"""The benchmark's pictures: several sets below one folder, of which some may be missing."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from torch.utils.data import Dataset

from rescale_data.hr_dataset import HRImageDataset


class BenchmarkDataset(Dataset[dict[str, Any]]):
    """The pictures of those of the `sets` that are there, set by set, for BasicSR's test runner.

    Options:
        dataroot_gt: The folder of all sets. The pictures of a set are in `<set>/HR` or, where there
            is no such folder, in `<set>`.
        sets: Names of the sets. One that has no folder is left out, which is logged.
        mod_crop: As of `HRImageDataset`.

    Attributes:
        opt: The options.
        sets: Names of the sets that are there.

    Shape:
        `gt` (3, H, W), float32 in [0, 1], RGB; `set` and `image` are names, `gt_path` is the file.

    Raises:
        ValueError: For an unknown option, or no `sets`.
        FileNotFoundError: If none of the sets is there, or one of them has no pictures.
    """

    OPTIONS: ClassVar[frozenset[str]] = frozenset(
        {"name", "type", "phase", "scale", "dataroot_gt", "sets", "mod_crop"}
    )

    def __init__(self, opt: Mapping[str, Any]) -> None:
        """Finds the pictures; none is read yet.

        Args:
            opt: BasicSR's options of a dataset.
        """
        super().__init__()
        self.opt = dict(opt)
        rest = {key: value for key, value in opt.items() if key != "sets"}
        root, sets = str(opt.get("dataroot_gt")), opt.get("sets")
        if not isinstance(sets, list) or not all(isinstance(name, str) for name in sets or [0]):
            raise ValueError(f"sets is {sets!r}: a list such as [Set5, Set14] is needed")
        self._parts: dict[str, HRImageDataset] = {}
        for name in dict.fromkeys(sets):
            folders = [os.path.join(root, name, "HR"), os.path.join(root, name)]
            found = next(filter(os.path.isdir, folders), None)
            if found is None:
                logging.getLogger("basicsr").info(f"{name} is left out: no folder {folders[1]}")
            else:
                self._parts[name] = HRImageDataset({**rest, "dataroot_gt": found})
        if not self._parts:
            raise FileNotFoundError(f"{root}: none of the sets is there: {', '.join(sets)}")
        self.sets = list(self._parts)
        self._places = [
            (name, index) for name, part in self._parts.items() for index in range(len(part))
        ]

    def __len__(self) -> int:
        """Returns the number of pictures of all sets."""
        return len(self._places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads a picture."""
        name, within = self._places[index]
        sample = self._parts[name][within]
        image = os.path.splitext(os.path.basename(sample["gt_path"]))[0]
        return dict(sample, set=name, image=image)

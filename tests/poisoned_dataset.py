"""A dataset with an image that is not a number, under a name that option files can give."""

from typing import ClassVar

import rescale_compat  # noqa: F401  must precede basicsr

import torch
from basicsr.utils.registry import DATASET_REGISTRY

from rescale_data.hr_dataset import HRImageDataset, Sample


@DATASET_REGISTRY.register()
class PoisonedDataset(HRImageDataset):
    """One of the images is not a number."""

    culprit: ClassVar[str]
    """How its file name ends."""

    def __getitem__(self, index: int | tuple[int, int]) -> Sample:
        sample = super().__getitem__(index)
        if sample["gt_path"].endswith(self.culprit):
            sample["gt"] = sample["gt"] * torch.nan
        return sample

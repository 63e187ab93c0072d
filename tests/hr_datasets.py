"""Small HR data sets, and their samples as pixels."""

import os

import numpy as np
import torch

from rescale_data.hr_dataset import HRImageDataset


def options(root, **changes) -> dict:
    opt = {
        "name": "Test",
        "type": "HRImageDataset",
        "phase": "train",
        "dataroot_gt": os.fspath(root),
        "io_backend": {"type": "lmdb" if os.fspath(root).endswith(".lmdb") else "disk"},
        "gt_size": 32,
        "use_hflip": True,
        "use_rot": True,
        "num_worker_per_gpu": 2,
        "batch_size_per_gpu": 2,
    }
    return {key: value for key, value in (opt | changes).items() if value != "absent"}


def dataset(root, **changes) -> HRImageDataset:
    return HRImageDataset(options(root, **changes))


def to_pixels(tensor: torch.Tensor) -> np.ndarray:
    return np.round(tensor.permute(1, 2, 0).numpy() * 255).astype(np.uint8)

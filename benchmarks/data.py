"""Reading and preparing training data."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler

from benchmarks.probe import peak_memory, seconds
from rescale_data.hr_dataset import HRImageDataset
from rescale_data.prepare import build_lmdb

_IMAGES = ("astronaut", "chelsea", "coffee", "rocket")


def make(folder: str, count: int, side: int) -> dict[str, float]:
    """Fills ``folder`` with ``count`` PNG images of ``side``, cropped from scikit-image."""
    from skimage import data

    sources = [np.ascontiguousarray(getattr(data, name)()[..., ::-1]) for name in _IMAGES]
    draw = np.random.RandomState(0)
    os.makedirs(folder)
    for index in range(count):
        source = sources[index % len(sources)]
        if min(source.shape[:2]) < side:
            scale = side / min(source.shape[:2])
            source = cv2.resize(source, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        top, left = (draw.randint(0, extent - side + 1) for extent in source.shape[:2])
        path = os.path.join(folder, f"{index:07d}.png")
        crop = source[top : top + side, left : left + side]
        if not cv2.imwrite(path, crop, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
            raise OSError(f"{path}: cannot be written")
    return {"images": count}


def prepare(folder: str, lmdb: str) -> dict[str, float]:
    """Stores the images of ``folder`` in an LMDB."""
    result: dict[str, float] = {}
    with peak_memory("cpu", result):
        result["seconds"] = seconds(lambda: build_lmdb(folder, lmdb), "cpu")
    images = sum(1 for _ in Path(folder).iterdir())
    result["ms_per_image"] = 1000 * result["seconds"] / images
    return result


def read(root: str, gt_size: int, count: int, workers: int = 0) -> dict[str, float]:
    """Reads ``count`` crops in random order, as training does.

    Args:
        root: folder or LMDB.
        gt_size: side of the crops.
        count: number of crops, after a warm-up.
        workers: number of processes; 0 reads in the main process.
    """
    result: dict[str, float] = {}
    with peak_memory("cpu", result):
        dataset = HRImageDataset(
            {
                "dataroot_gt": root,
                "phase": "train",
                "gt_size": gt_size,
                "use_hflip": True,
                "use_rot": True,
            }
        )
        batch = 16
        warm = max(1, workers)
        batches = count // batch + warm
        torch.manual_seed(0)
        loader = iter(
            DataLoader(
                dataset,
                batch,
                sampler=RandomSampler(dataset, replacement=True, num_samples=batches * batch),
                num_workers=workers,
            )
        )
        for _ in range(warm):
            next(loader)

        def rest() -> None:
            for _ in loader:
                pass

        result["seconds"] = seconds(rest, "cpu")
    result["images"] = (batches - warm) * batch / result["seconds"]
    return result

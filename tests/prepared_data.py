"""Images to prepare for training, and what was written from them."""

import os
from pathlib import Path

import lmdb
import numpy as np


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def stored(folder: Path) -> dict[str, bytes]:
    with (
        lmdb.open(os.fspath(folder), readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        return {key.decode(): bytes(value) for key, value in transaction.cursor()}

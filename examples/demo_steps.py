"""Steps of the demo: creating the dataset, training and testing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import skimage.data

from rescale_data.cores import usable_cores
from rescale_data.image_file import write_image

TRAIN = (
    "astronaut",
    "brick",
    "camera",
    "coins",
    "grass",
    "gravel",
    "immunohistochemistry",
    "rocket",
)
HELD_OUT = ("chelsea", "coffee")

OPTIONS = Path(__file__).parents[1] / "options"
FOLDER = Path("demo")
TEST = FOLDER / "datasets" / "test"

Means = dict[str, dict[str, float]]


def make_data_set() -> None:
    """Creates ``datasets/train.lmdb`` and ``datasets/test`` from scikit-image's images."""
    datasets = FOLDER / "datasets"
    for subset, names in (("train", TRAIN), ("test", HELD_OUT)):
        (datasets / subset).mkdir(parents=True, exist_ok=True)
        for name in names:
            pixels = getattr(skimage.data, name)()  # uint8, RGB or gray
            if pixels.ndim == 2:
                pixels = np.repeat(pixels[..., None], 3, axis=2)
            write_image(datasets / subset / f"{name}.png", np.ascontiguousarray(pixels))
    steps = (
        ("sub-images", "train", "train_sub", "--size", "240", "--step", "120"),
        ("lmdb", "train_sub", "train.lmdb"),
    )
    for command, source, out, *options in steps:
        if not (datasets / out).exists():
            _rescale("prepare", command, f"datasets/{source}", f"datasets/{out}", *options)


def train(name: str, iterations: int | None) -> Path:
    """Trains ``options/train/<name>.yml``; an earlier experiment of that name is deleted.

    Args:
        name: name of the option file and of the experiment.
        iterations: overrides the number of iterations in the option file.

    Returns:
        The file of the trained weights.
    """
    experiment = FOLDER / "experiments" / name
    shutil.rmtree(experiment, ignore_errors=True)
    force = ["--force_yml", f"train:total_iter={iterations}"] if iterations else []
    _rescale("train", "-opt", str(OPTIONS / "train" / f"{name}.yml"), *force)
    return experiment / "models" / "net_g_latest.pth"


def last_validation(name: str) -> Means:
    """Mean metrics over the held-out images at the end of the training ``name``."""
    tables = (FOLDER / "experiments" / name / "visualization" / "held_out").glob("metrics_*.json")
    return _means(max(tables, key=lambda table: table.stat().st_mtime_ns))


def test(name: str) -> tuple[Path, Means]:
    """Runs ``options/test/<name>.yml``.

    Returns:
        The folder of the images, and the mean metrics.
    """
    results = FOLDER / "results" / name
    shutil.rmtree(results, ignore_errors=True)
    _rescale("test", "-opt", str(OPTIONS / "test" / f"{name}.yml"))
    images = results / "visualization" / "scikit-image"
    return images, _means(images / "metrics.json")


def _means(table: Path) -> Means:
    means: Means = json.loads(table.read_text())["mean"]
    return means


def _rescale(*arguments: str) -> None:
    """Runs the command ``rescale`` in the demo's folder."""
    print("$ rescale", *arguments, flush=True)
    # One core is left for data loading and other processes. PyTorch's threads wait for each other,
    # so a single thread that has to share its core makes a step several times slower.
    threads = str(max(1, usable_cores() - 1))
    subprocess.run(
        [sys.executable, "-m", "rescale_app.cli", *arguments],
        cwd=FOLDER,
        env={"OMP_NUM_THREADS": threads, **os.environ},
        check=True,
    )

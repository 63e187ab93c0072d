"""What the parts of the demo share: its folder and data set, and how they run the command."""

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
    """Makes ``datasets/train.lmdb`` and ``datasets/test`` of scikit-image's own pictures."""
    datasets = FOLDER / "datasets"
    for subset, names in (("train", TRAIN), ("test", HELD_OUT)):
        (datasets / subset).mkdir(parents=True, exist_ok=True)
        for name in names:
            pixels = getattr(skimage.data, name)()  # uint8, RGB or grey
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
    """Trains what ``options/train/<name>.yml`` says, anew.

    Args:
        name: of the option file and of the experiment.
        iterations: instead of what the option file says.

    Returns:
        The file of the trained weights.
    """
    experiment = FOLDER / "experiments" / name
    shutil.rmtree(experiment, ignore_errors=True)
    force = ["--force_yml", f"train:total_iter={iterations}"] if iterations else []
    _rescale("train", "-opt", str(OPTIONS / "train" / f"{name}.yml"), *force)
    return experiment / "models" / "net_g_latest.pth"


def last_validation(name: str) -> Means:
    """Means over the held-out pictures at the end of the training ``name``."""
    tables = (FOLDER / "experiments" / name / "visualization" / "held_out").glob("metrics_*.json")
    return _means(max(tables, key=lambda table: table.stat().st_mtime_ns))


def test(name: str) -> tuple[Path, Means]:
    """Tests what ``options/test/<name>.yml`` says.

    Returns:
        The folder of the pictures, and the means over them.
    """
    results = FOLDER / "results" / name
    shutil.rmtree(results, ignore_errors=True)
    _rescale("test", "-opt", str(OPTIONS / "test" / f"{name}.yml"))
    pictures = results / "visualization" / "scikit-image"
    return pictures, _means(pictures / "metrics.json")


def _means(table: Path) -> Means:
    means: Means = json.loads(table.read_text())["mean"]
    return means


def _rescale(*arguments: str) -> None:
    """Runs the command in the demo's folder, as a user would."""
    print("$ rescale", *arguments, flush=True)
    # One core is left to reading images and to whatever else runs. PyTorch's threads wait for each
    # other, and one that must share its core makes steps several times as long.
    threads = str(max(1, usable_cores() - 1))
    subprocess.run(
        [sys.executable, "-m", "rescale_app.cli", *arguments],
        cwd=FOLDER,
        env={"OMP_NUM_THREADS": threads, **os.environ},
        check=True,
    )

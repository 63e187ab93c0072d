"""The whole way in a few minutes: data set, training, test, restored pictures (``make demo``).

Pictures are those that scikit-image carries. The network is small and trained briefly: it shows
that everything works, not how good AIDN is.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import skimage.data

from rescale_app.picture import comparison_panel
from rescale_app.rescaler import Rescaler, shipped_weights
from rescale_data.image_file import read_image, write_image

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
PANEL_SCALE = 2.5

OPTIONS = Path(__file__).parents[1] / "options"
FOLDER = Path("demo")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo in the folder ``demo``.

    Args:
        argv: ``--iterations N`` trains for so long instead of what the option file says.

    Returns:
        0 if the trained network is ahead of bicubic on average at every scale, otherwise 1.

    Raises:
        FileNotFoundError: not run from a checkout of the project.
    """
    parser = argparse.ArgumentParser(prog="python -m rescale_app.demo")
    parser.add_argument("--iterations", type=int, metavar="N", help="of training")
    iterations = parser.parse_args(argv).iterations
    if not OPTIONS.is_dir():
        raise FileNotFoundError(f"{OPTIONS}: the demo runs from a checkout of the project")
    start = time.perf_counter()
    _make_data_set()
    for left_over in ("experiments/aidn_demo", "results/aidn_demo"):
        shutil.rmtree(FOLDER / left_over, ignore_errors=True)
    force = ["--force_yml", f"train:total_iter={iterations}"] if iterations else []
    _rescale("train", "-opt", str(OPTIONS / "train" / "aidn_demo.yml"), *force)
    trained = Path("experiments/aidn_demo/models/net_g_latest.pth")
    _rescale("test", "-opt", str(OPTIONS / "test" / "aidn_demo.yml"))
    results = FOLDER / "results" / "aidn_demo" / "visualization" / "scikit-image" / "metrics.json"
    means = json.loads(results.read_text())["mean"]

    shipped = shipped_weights()
    rescaler = Rescaler(shipped[0] if shipped else FOLDER / trained)
    panel = FOLDER / "panel.png"
    picture = read_image(FOLDER / "datasets" / "test" / f"{HELD_OUT[0]}.png")
    write_image(panel, comparison_panel(rescaler.compare(picture, PANEL_SCALE)))

    print(f"\nMean over {', '.join(HELD_OUT)}, which the training has not seen; dB:\n")
    print(_table(means))
    print(
        "\nThese weights are a demonstration: a small network after minutes of training. "
        "The paper's network trains for days.\n"
        f"HR, LR, restored, bicubic and errors side by side at {PANEL_SCALE}: {panel}, restored "
        + (f"with the shipped weights {shipped[0]}" if shipped else "with the weights just trained")
        + f"\nLR and restored pictures at all scales: {results.parent}"
        f"\nWeights: {FOLDER / trained}"
        f"\nDone in {math.ceil(time.perf_counter() - start)} seconds."
    )
    ahead = all(mean["psnr_y"] > mean["bicubic_psnr_y"] for mean in means.values())
    if not ahead:
        print("The network is not ahead of bicubic at every scale.", file=sys.stderr)
    return 0 if ahead else 1


def _make_data_set() -> None:
    """``datasets/train.lmdb`` and ``datasets/test``, from scikit-image's own pictures."""
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


def _rescale(*arguments: str) -> None:
    """Runs the command in the demo's folder, as a user would."""
    print("$ rescale", *arguments, flush=True)
    # One core is left to reading images and to whatever else runs. PyTorch's threads wait for each
    # other, and one that must share its core makes steps several times as long.
    threads = str(max(1, (os.cpu_count() or 2) - 1))
    subprocess.run(
        [sys.executable, "-m", "rescale_app.cli", *arguments],
        cwd=FOLDER,
        env={"OMP_NUM_THREADS": threads, **os.environ},
        check=True,
    )


def _table(means: dict[str, dict[str, float]]) -> str:
    columns = {
        "scale": "",
        "bicubic PSNR-Y": "bicubic_psnr_y",
        "AIDN PSNR-Y": "psnr_y",
        "gain": "",
        "LR PSNR-Y against bicubic": "lr_psnr_y",
    }
    lines = ["  ".join(columns)]
    for case, mean in means.items():
        values = {**mean, "": mean["psnr_y"] - mean["bicubic_psnr_y"]}
        cells = [case.rjust(len("scale"))]
        cells += [f"{values[key]:{len(name)}.2f}" for name, key in list(columns.items())[1:]]
        lines.append("  ".join(cells))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

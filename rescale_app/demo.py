"""The whole way in a few minutes: data set, training, test, restored pictures (``make demo``).

Pictures are those that scikit-image carries. The networks are small and trained briefly: it shows
that everything works, not how good AIDN and VQIR are.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence

from rescale_app.demo_steps import (
    FOLDER,
    HELD_OUT,
    OPTIONS,
    TEST,
    Means,
    make_data_set,
    test,
    train,
)
from rescale_app.demo_vqir import run_vqir
from rescale_app.picture import comparison_panel
from rescale_app.rescaler import Rescaler, shipped_weights
from rescale_data.image_file import read_image, write_image

PANEL_SCALE = 2.5


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo in the folder ``demo``.

    Args:
        argv: ``--iterations N`` makes each training that long instead of what its option file says.

    Returns:
        0 if the trained AIDN is ahead of bicubic on average at every scale and VQIR's stages did
        what they are for, otherwise 1.

    Raises:
        FileNotFoundError: not run from a checkout of the project.
    """
    parser = argparse.ArgumentParser(prog="python -m rescale_app.demo")
    parser.add_argument("--iterations", type=int, metavar="N", help="of each training")
    iterations = parser.parse_args(argv).iterations
    if not OPTIONS.is_dir():
        raise FileNotFoundError(f"{OPTIONS}: the demo runs from a checkout of the project")
    start = time.perf_counter()
    make_data_set()
    aidn, ahead = _run_aidn(iterations)
    vqir, as_meant = run_vqir(iterations)
    print(f"\n{aidn}\n\n{vqir}\n\nDone in {math.ceil(time.perf_counter() - start)} seconds.")
    if not ahead:
        print("AIDN is not ahead of bicubic at every scale.", file=sys.stderr)
    if not as_meant:
        print("VQIR's stages are not where they should be.", file=sys.stderr)
    return 0 if ahead and as_meant else 1


def _run_aidn(iterations: int | None) -> tuple[str, bool]:
    """Trains and tests; returns what there is to tell, and whether AIDN is ahead of bicubic."""
    trained = train("aidn_demo", iterations)
    pictures, means = test("aidn_demo")
    shipped = shipped_weights()
    rescaler = Rescaler(shipped[0] if shipped else trained)
    panel = FOLDER / "panel.png"
    picture = read_image(TEST / f"{HELD_OUT[0]}.png")
    write_image(panel, comparison_panel(rescaler.compare(picture, PANEL_SCALE)))
    report = (
        f"AIDN, mean over {', '.join(HELD_OUT)}, which the training has not seen; dB:\n\n"
        + _table(means)
        + "\n\nThese weights are a demonstration: a small network after minutes of training. "
        "The paper's network trains for days.\n"
        f"HR, LR, restored, bicubic and errors side by side at {PANEL_SCALE}: {panel}, restored "
        + (f"with the shipped weights {shipped[0]}" if shipped else "with the weights just trained")
        + f"\nLR and restored pictures at all scales: {pictures}"
        f"\nWeights: {trained}"
    )
    return report, all(mean["psnr_y"] > mean["bicubic_psnr_y"] for mean in means.values())


def _table(means: Means) -> str:
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

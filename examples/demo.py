"""End-to-end demo in a few minutes: dataset, training, test, restored images (``make demo``).

The images are included in scikit-image. The networks are small and trained briefly: the demo shows
that everything works, not the quality of AIDN and VQIR.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence

from examples.demo_steps import (
    FOLDER,
    HELD_OUT,
    OPTIONS,
    TEST,
    Means,
    make_data_set,
    test,
    train,
)
from examples.demo_vqir import run_vqir
from rescale_app.included_weights import included_weights
from rescale_app.panel import comparison_panel
from rescale_app.rescaler import Rescaler
from rescale_data.image_file import read_image, write_image

PANEL_SCALE = 2.5


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo in the folder ``demo``.

    Args:
        argv: ``--iterations N`` overrides the number of iterations of each training.

    Returns:
        0 if the mean PSNR of the trained AIDN exceeds bicubic's at every scale and VQIR's
        results are as expected, otherwise 1.

    Raises:
        FileNotFoundError: not run from a checkout of the project.
    """
    parser = argparse.ArgumentParser(prog="python -m examples.demo")
    parser.add_argument("--iterations", type=int, metavar="N", help="iterations of each training")
    iterations = parser.parse_args(argv).iterations
    if not OPTIONS.is_dir():
        raise FileNotFoundError(f"{OPTIONS}: the demo runs from a checkout of the project")
    start = time.perf_counter()
    make_data_set()
    aidn, is_better = _run_aidn(iterations)
    vqir, is_expected = run_vqir(iterations)
    print(f"\n{aidn}\n\n{vqir}\n\nDone in {math.ceil(time.perf_counter() - start)} seconds.")
    if not is_better:
        print("AIDN is not better than bicubic at every scale.", file=sys.stderr)
    if not is_expected:
        print("VQIR's results are not as expected.", file=sys.stderr)
    return 0 if is_better and is_expected else 1


def _run_aidn(iterations: int | None) -> tuple[str, bool]:
    """Trains and tests; returns a report, and whether AIDN is better than bicubic."""
    trained = train("aidn_demo", iterations)
    images, means = test("aidn_demo")
    included = included_weights()
    rescaler = Rescaler(included[0] if included else trained)
    panel = FOLDER / "panel.png"
    image = read_image(TEST / f"{HELD_OUT[0]}.png")
    write_image(panel, comparison_panel(rescaler.compare(image, PANEL_SCALE)))
    report = (
        f"AIDN, mean over the held-out images {', '.join(HELD_OUT)}; dB:\n\n"
        + _table(means)
        + "\n\nThese weights are a demonstration: a small network after minutes of training. "
        "The paper's network trains for days.\n"
        f"HR, LR, restored, bicubic and errors side by side at {PANEL_SCALE}: {panel}, restored "
        + (
            f"with the included weights {included[0]}"
            if included
            else "with the weights just trained"
        )
        + f"\nLR and restored images at all scales: {images}"
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

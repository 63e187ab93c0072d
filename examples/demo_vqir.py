"""Second part of the demo: VQIR x16, with included weights, and its three training steps."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from examples.demo_steps import FOLDER, HELD_OUT, TEST, last_validation, test, train
from rescale_app.panel import Pixels, enlarge, side_by_side
from rescale_app.quality import Comparison
from rescale_app.rescaler import Rescaler
from rescale_data.image_file import read_image, write_image

WEIGHTS = "vqir16-small"
VQGAN, STAGE_1, STAGE_2 = "vqgan_tiny", "vqir16_tiny_stage1", "vqir16_tiny_stage2"
MAX_LOSS = 3.0
"""Maximum loss of PSNR in dB of stage 1 relative to the VQGAN's own reconstruction."""


def run_vqir(iterations: int | None) -> tuple[str, bool]:
    """Restores images with the included weights, then trains and tests a tiny VQIR.

    Args:
        iterations: overrides the number of iterations of each training.

    Returns:
        A report, and whether the results are as expected: the included weights are better than
        bicubic interpolation, the tiny stage 1 loses less than `MAX_LOSS`, and stage 2 is better
        than stage 1.
    """
    rescaler = Rescaler(WEIGHTS)
    compared = [rescaler.compare(read_image(TEST / f"{name}.png")) for name in HELD_OUT]
    panel = FOLDER / "panel_vqir16.png"
    write_image(panel, _panel(compared))
    bicubic = mean(one.bicubic_quality.psnr_y for one in compared)
    restored = mean(one.quality.psnr_y for one in compared)
    height, width = compared[0].lr.pixels.shape[:2]

    _, _, weights = (train(name, iterations) for name in (VQGAN, STAGE_1, STAGE_2))
    images, means = test("vqir16_tiny")
    steps = {
        "VQGAN alone, without LR image": last_validation(VQGAN)["vq"]["psnr_y"],
        "VQIR, stage 1": last_validation(STAGE_1)["x16"]["psnr_y"],
        "VQIR, stage 2": means["x16"]["psnr_y"],
    }
    vqgan, recovered, final = steps.values()
    report = (
        f"VQIR x16, included weights {WEIGHTS}: {HELD_OUT[0]} as an LR image of {width} x "
        f"{height} pixels. PSNR-Y in dB, mean as above:\n\n"
        f"{bicubic:6.2f}  bicubic both ways\n"
        f"{restored:6.2f}  {WEIGHTS}\n"
        f"{mean(one.lr_psnr_y for one in compared):6.2f}  LR image against bicubic\n\n"
        f"HR, LR, bicubic and restored images side by side: {panel}\n\n"
        "The three training steps, with a tiny network for minutes: a check that they work, not of "
        "quality. PSNR-Y in dB:\n\n"
        + "\n".join(f"{value:6.2f}  {name}" for name, value in steps.items())
        + f"\n\nLR and restored images of the tiny network: {images}\nIts weights: {weights}"
    )
    return report, restored > bicubic and recovered > vqgan - MAX_LOSS and final > recovered


def _panel(compared: Sequence[Comparison]) -> Pixels:
    """A row for each image: HR, LR, bicubic, restored."""
    cells = []
    for one in compared:
        size, small = (one.hr.shape[0], one.hr.shape[1]), one.lr.pixels
        cells += [
            (f"HR {size[1]}x{size[0]}", one.hr),
            (f"LR {small.shape[1]}x{small.shape[0]}, pixels repeated", enlarge(small, size)),
            (f"bicubic {one.bicubic_quality.psnr_y:.2f} dB (Y)", one.bicubic),
            (f"{WEIGHTS} {one.quality.psnr_y:.2f} dB (Y)", one.restored),
        ]
    return side_by_side(cells, columns=4)

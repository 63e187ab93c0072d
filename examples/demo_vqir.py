"""Second part of the demo: VQIR by 16 in three steps, VQGAN, stage 1 and stage 2."""

from __future__ import annotations

from pathlib import Path

from examples.demo_steps import FOLDER, HELD_OUT, TEST, last_validation, test, train
from rescale_app.panel import Pixels, enlarge, side_by_side
from rescale_app.rescaler import Rescaler
from rescale_data.image_file import read_image, write_image

VQGAN, STAGE_1, STAGE_2 = "vqgan_tiny", "vqir16_tiny_stage1", "vqir16_tiny_stage2"
MAX_LOSS = 3.0
"""Maximum loss of PSNR in dB of stage 1 relative to the VQGAN's own reconstruction."""


def run_vqir(iterations: int | None) -> tuple[str, bool]:
    """Trains a tiny VQGAN and both stages of a VQIR on it, and tests them.

    Args:
        iterations: overrides the number of iterations of each training.

    Returns:
        A report, and whether the results are as expected: stage 1 loses less than `MAX_LOSS`, and
        stage 2 is better than stage 1.
    """
    _, stage_1, stage_2 = (train(name, iterations) for name in (VQGAN, STAGE_1, STAGE_2))
    images, means = test("vqir16_tiny")
    refined = means["x16"]
    psnr = {
        "bicubic both ways": refined["bicubic_psnr_y"],
        "VQGAN alone, without LR image": last_validation(VQGAN)["vq"]["psnr_y"],
        "VQIR, stage 1": last_validation(STAGE_1)["x16"]["psnr_y"],
        "VQIR, stage 2": refined["psnr_y"],
    }
    vqgan, recovered, final = list(psnr.values())[1:]
    panel = FOLDER / "panel_vqir16.png"
    pixels, lr_size = _panel(read_image(TEST / f"{HELD_OUT[0]}.png"), stage_1, stage_2)
    write_image(panel, pixels)
    report = (
        f"VQIR by 16: {HELD_OUT[0]} as an LR image of {lr_size[1]} x {lr_size[0]} pixels. "
        "PSNR-Y in dB, mean as above:\n\n"
        + "\n".join(f"{value:6.2f}  {name}" for name, value in psnr.items())
        + f"\n{refined['lr_psnr_y']:6.2f}  LR image against bicubic\n\n"
        "This VQIR is a toy, trained in minutes on a handful of images: expect wrong colours, and "
        "PSNR below\nbicubic. Each step contributes, but good results need a VQGAN "
        "trained on millions of images."
        f"\nHR, LR, bicubic and both stages side by side: {panel}"
        f"\nLR and restored images: {images}"
        f"\nWeights: {stage_2}"
    )
    return report, recovered > vqgan - MAX_LOSS and final > recovered


def _panel(hr: Pixels, stage_1: Path, stage_2: Path) -> tuple[Pixels, tuple[int, int]]:
    """A panel of both stages and bicubic, and the size (h, w) of the LR image."""
    first, second = (Rescaler(weights).compare(hr) for weights in (stage_1, stage_2))
    size, small = (hr.shape[0], hr.shape[1]), second.lr.pixels
    panel = side_by_side(
        [
            (f"HR {size[1]}x{size[0]}", hr),
            (f"LR {small.shape[1]}x{small.shape[0]}, pixels repeated", enlarge(small, size)),
            (f"bicubic {second.bicubic_quality.psnr_y:.2f} dB (Y)", second.bicubic),
            (f"VQIR16 stage 1 {first.quality.psnr_y:.2f} dB (Y)", first.restored),
            (f"VQIR16 stage 2 {second.quality.psnr_y:.2f} dB (Y)", second.restored),
        ],
        columns=3,
    )
    return panel, (small.shape[0], small.shape[1])

"""Quality of the short trainings of the tiny option files, on held-out images."""

from pathlib import Path
from statistics import fmean

import pytest

from examples import demo_steps
from examples.demo_vqir import MAX_LOSS, STAGE_1, STAGE_2, VQGAN
from rescale_app.rescaler import Rescaler
from rescale_data.image_file import read_image


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_each_stage_improves_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    demo_steps.make_data_set()
    files = {name: demo_steps.train(name, None) for name in (VQGAN, STAGE_1, STAGE_2)}
    validated = {name: demo_steps.last_validation(name) for name in files}
    vqgan = validated[VQGAN]["vq"]["psnr_y"]
    assert vqgan > 18, "the VQGAN itself has learned too little for a comparison"

    images = [read_image(demo_steps.TEST / f"{name}.png") for name in demo_steps.HELD_OUT]
    psnr = {}
    for name in (STAGE_1, STAGE_2):
        rescaler = Rescaler(files[name])
        psnr[name] = fmean(rescaler.compare(image).quality.psnr_y for image in images)
        # results with the file equal those of the validation in training
        assert psnr[name] == pytest.approx(validated[name]["x16"]["psnr_y"], abs=0.05)
    assert psnr[STAGE_1] > vqgan - MAX_LOSS
    assert psnr[STAGE_2] > psnr[STAGE_1]

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples import demo
from examples.demo_steps import HELD_OUT, last_validation
from examples.demo_vqir import STAGE_1, VQGAN
from rescale_app.rescaler import Rescaler
from rescale_data.image_file import read_image, read_info


@pytest.mark.slow
def test_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = demo.main(["--iterations", "30"])
    printed = capsys.readouterr().out
    results = tmp_path / "demo" / "results" / "aidn_demo" / "visualization" / "scikit-image"
    means = json.loads((results / "metrics.json").read_text())["mean"]
    assert list(means) == ["x2.5", "x3", "x3.5"]
    for case, mean in means.items():
        assert f"{mean['psnr_y']:.2f}" in printed
        # bicubic, antialiased and with the true scale, on chelsea and coffee
        assert 25 < mean["bicubic_psnr_y"] < 35
        for name in HELD_OUT:
            info = read_info(results / f"{name}_{case}_lr.png")
            assert info is not None
            restored = read_image(results / f"{name}_{case}_hr.png")
            assert restored.shape[:2] == info.size
    assert "These weights are a demonstration" in printed
    panel = read_image(tmp_path / "demo" / "panel.png")
    assert panel.shape[0] > 2 * 300

    results = tmp_path / "demo" / "results" / "vqir16_tiny" / "visualization" / "scikit-image"
    refined = json.loads((results / "metrics.json").read_text())["mean"]["x16"]
    psnr = [last_validation(VQGAN)["vq"]["psnr_y"], last_validation(STAGE_1)["x16"]["psnr_y"]]
    for value in (*psnr, refined["psnr_y"]):
        assert f"{value:.2f}  " in printed
    # the included weights: better than bicubic on images that they were not trained on
    hr = [read_image(tmp_path / "demo" / "datasets" / "test" / f"{name}.png") for name in HELD_OUT]
    compared = [Rescaler("vqir16-small").compare(image) for image in hr]
    restored = sum(one.quality.psnr_y for one in compared) / 2
    bicubic = sum(one.bicubic_quality.psnr_y for one in compared) / 2
    assert restored > bicubic + 0.5
    assert f"{restored:.2f}  vqir16-small\n" in printed
    assert f"{bicubic:.2f}  bicubic both ways\n" in printed
    # chelsea is 451 x 300: 1/16 of that, rounded up
    assert compared[0].lr.pixels.shape == (19, 29, 3)
    assert "LR image of 29 x 19 pixels" in printed
    assert read_image(tmp_path / "demo" / "panel_vqir16.png").shape[0] > 2 * 300

    as_promised = psnr[1] > psnr[0] - 3 and refined["psnr_y"] > psnr[1]
    ahead = all(mean["psnr_y"] > mean["bicubic_psnr_y"] for mean in means.values())
    assert code == (0 if ahead and as_promised else 1)

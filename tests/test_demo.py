from __future__ import annotations

import json
from pathlib import Path

import pytest

from rescale_app import demo
from rescale_data.image_file import read_image, read_info


@pytest.mark.slow
def test_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    demo.main(["--iterations", "30"])
    printed = capsys.readouterr().out
    results = tmp_path / "demo" / "results" / "aidn_demo" / "visualization" / "scikit-image"
    means = json.loads((results / "metrics.json").read_text())["mean"]
    assert list(means) == ["x2.5", "x3", "x3.5"]
    for case, mean in means.items():
        assert f"{mean['psnr_y']:.2f}" in printed
        # bicubic, antialiased and with the true scale, on chelsea and coffee
        assert 25 < mean["bicubic_psnr_y"] < 35
        for name in demo.HELD_OUT:
            info = read_info(results / f"{name}_{case}_lr.png")
            assert info is not None
            restored = read_image(results / f"{name}_{case}_hr.png")
            assert restored.shape[:2] == info.size
    assert "These weights are a demonstration" in printed
    panel = read_image(tmp_path / "demo" / "panel.png")
    assert panel.shape[0] > 2 * 300

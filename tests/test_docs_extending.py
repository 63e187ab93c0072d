"""The example of a new network in docs/extending.md works, from files to a page."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from documentation import EXAMPLE, blocks, hr_image

from rescale_data.image_file import read_image, read_info, write_image

PAGE = """
from pathlib import Path
from rescale_app.page import results
from rescale_app.page.computing import Source
from rescale_app.page.round_trip import through_jpeg, through_png
from rescale_app.page.weights import load_rescalers

rescaler = load_rescalers(["tiny.safetensors"], "cpu")["tiny.safetensors"]
folder = Path("page")
folder.mkdir()
source = Source(Path("held_out/chelsea.png"), "chelsea.png")
trip = through_png(source, rescaler, None, folder, lambda step, done: None, 10**6)
print(results.png_html(trip, "Tiny"))
jpeg = through_jpeg(trip, rescaler, 90, folder, lambda step, done: None)
print(results.jpeg_html(trip, jpeg, "Tiny"))
"""


@pytest.mark.slow
def test_the_example_of_a_new_network(tmp_path: Path) -> None:
    for name, content in blocks(EXAMPLE, "python", "yaml", "toml"):
        assert name is not None
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    for folder, names in {"photos": ("astronaut", "coffee"), "held_out": ("chelsea",)}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            write_image(tmp_path / folder / f"{name}.png", hr_image(name, 200, 240))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PIP_TARGET": str(tmp_path / "site"),  # an environment of its own would take minutes
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONPATH": os.pathsep.join(
            [str(tmp_path / "site"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        ),
    }
    for _, content in blocks(EXAMPLE, "sh"):
        result = subprocess.run(
            ["bash", "-e"],
            input=content,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
    results = tmp_path / "results" / "tiny" / "visualization" / "held_out"
    mean = yaml.safe_load((results / "metrics.json").read_text())["mean"]["x2"]
    assert mean["psnr_y"] > mean["bicubic_psnr_y"] + 0.1
    assert mean["lr_psnr_y"] > 35
    assert read_image(results / "chelsea_x2_hr.png").shape == (200, 240, 3)
    assert read_image(tmp_path / "restored.png").shape == (200, 240, 3)
    info = read_info(tmp_path / "small.png")
    assert info is not None
    assert (info.network, info.scale) == ("tiny", (2.0, 2.0))
    table = (tmp_path / "results" / "tiny_compare" / "benchmark.md").read_text()
    assert "tiny" in table
    page = subprocess.run(
        [sys.executable, "-c", PAGE], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert page.returncode == 0, page.stderr
    assert "As JPEG of quality 90" in page.stdout

"""Images for the command, the report of a test, and the page of ``rescale demo``."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import demo_page
import numpy as np
import pytest
import report_page
import skimage.data
from command_line import ODD_SIZES

from rescale_app import cli
from rescale_app.page.weights import load_rescalers
from rescale_app.rescaler import Rescaler
from rescale_data.image_file import write_image


@pytest.fixture
def hr_image(tmp_path: Path, hr_folder: Path) -> str:
    path = tmp_path / "picture.png"
    path.write_bytes((hr_folder / "coffee.png").read_bytes())
    return str(path)


@pytest.fixture
def folder(tmp_path: Path, hr_folder: Path) -> Path:
    """A folder with an odd-sized JPEG, a 16-bit PNG, a gray and an RGBA image."""
    coffee = cv2.imread(str(hr_folder / "coffee.png"))
    crops = {name: coffee[:height, :width] for name, (height, width) in ODD_SIZES.items()}
    result = tmp_path / "in"
    result.mkdir()
    cv2.imwrite(str(result / "jpeg.jpg"), crops["jpeg"])
    cv2.imwrite(str(result / "deep.png"), crops["deep"].astype(np.uint16) * 257)
    cv2.imwrite(str(result / "gray.png"), crops["gray"][..., 0])
    alpha = np.full(crops["rgba"].shape[:2], 200, np.uint8)
    cv2.imwrite(str(result / "rgba.png"), np.dstack([crops["rgba"], alpha]))
    return result


@pytest.fixture(scope="session")
def tested(tmp_path_factory: pytest.TempPathFactory, hr_folder: Path, weights: str) -> Path:
    """The folder of a test of three images: data in it, results below it."""
    folder = tmp_path_factory.mktemp("tested")
    (folder / "data").mkdir()
    for name in ("astronaut", "rocket"):
        shutil.copy(hr_folder / f"{name}.png", folder / "data")
    write_image(
        folder / "data" / f"{report_page.ODD}.png",
        np.ascontiguousarray(skimage.data.coffee()[:230, :250]),
    )
    report_page.run_test(folder, weights, **{"datasets: test_1: mod_crop": 12})
    return folder


@pytest.fixture(scope="session")
def report(tested: Path) -> report_page.Report:
    """The report of that test, which is beside its results."""
    assert cli.main(["report", str(tested / "results" / "evaluated")]) == 0
    return report_page.Report(tested / "results" / "evaluated" / "report.html")


@pytest.fixture
def own_results(tested: Path, tmp_path: Path) -> Path:
    """A copy of the results to modify; their originals are still found."""
    return Path(shutil.copytree(tested / "results" / "evaluated", tmp_path / "evaluated"))


@pytest.fixture(scope="session")
def demo_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files to upload: small ones, one that takes minutes, and one that is too large."""
    folder = tmp_path_factory.mktemp("demo_images")
    astronaut = skimage.data.astronaut()
    write_image(folder / "small.png", astronaut[40:116, 160:260])
    write_image(folder / "other.png", astronaut[140:200, 160:240])
    (folder / "odd").mkdir()
    (folder / "odd" / demo_page.ODD).write_bytes((folder / "small.png").read_bytes())
    write_image(folder / "medium.png", astronaut)
    write_image(folder / "minutes.png", np.tile(astronaut, (3, 3, 1)))
    write_image(folder / "huge.png", np.zeros((1600, 1600, 3), np.uint8))
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def demo_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("gradio", reason="needs the extra demo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "server.log"
    command = [sys.executable, "-m", "rescale_app.cli", "demo", "--port", str(port)]
    with log.open("w") as out:
        server = subprocess.Popen(
            [*command, "--max-megapixels", str(demo_page.MEGAPIXELS)],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        demo_page.until(
            lambda: "The page is at" in log.read_text() or server.poll() is not None, 180
        )
        assert server.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    assert code == 0, log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="session")
def demo_rescaler() -> Rescaler:
    """The default of the page of ``rescale demo``."""
    return next(iter(load_rescalers([]).values()))


@pytest.fixture
def demo(browser: Any, demo_address: str) -> demo_page.DemoPage:
    return demo_page.DemoPage(browser, demo_address)

"""Shared by all tests: few threads, fixed seeds, and some real images."""

import os
import random
import shutil

# Workers share the cores. Torch reads this when it is imported; child processes inherit it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

# Another profile: pytest --hypothesis-profile=default
settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _auto_is_fp32() -> Iterator[None]:
    """``precision: auto`` is fp32 in this process: results are compared with other computations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rescale_arch.bfloat16.bfloat16_is_native", lambda device: False)
        yield


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a tiny AIDN with random weights; test modules may override it."""
    from tiny_networks import AIDN_TINY

    from rescale_arch import AIDN
    from rescale_data.weight_file import save_weights

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, AIDN(**AIDN_TINY).state_dict(), config=AIDN_TINY)
    return str(path)


@pytest.fixture(scope="session")
def hr_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four small PNG images, RGB and 8-bit, of even and odd sizes.

    Session-wide: copy it before writing into it.
    """
    from PIL import Image
    from skimage import data

    folder = tmp_path_factory.mktemp("pictures")
    crops = {
        "astronaut": data.astronaut()[20:116, 160:256],
        "chelsea": data.chelsea()[60:157, 120:241],
        "coffee": data.coffee()[150:246, 200:344],
        "rocket": data.rocket()[100:229, 280:376],
    }
    for name, crop in crops.items():
        Image.fromarray(crop).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="session")
def lmdb(hr_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images in an LMDB."""
    from rescale_data.prepare import build_lmdb

    path = tmp_path_factory.mktemp("data") / "train.lmdb"
    build_lmdb(hr_folder, path)
    return path


BROWSER_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,900",
)


@pytest.fixture
def browser_flags() -> tuple[str, ...]:
    """Further flags of `browser`; modules override it."""
    return ()


@pytest.fixture
def browser(tmp_path: Path, browser_flags: tuple[str, ...]) -> Iterator[Any]:
    """Headless Chromium, driven by selenium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    for name, path in programs.items():
        if path is None:
            pytest.skip(f"needs {name}")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for flag in (*BROWSER_FLAGS, *browser_flags, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(programs["chromedriver"])
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.set_page_load_timeout(60)
        yield driver
    finally:
        driver.quit()

"""Images to read and images to prepare."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from prepared_data import noise

from rescale_data.image_file import write_image


@pytest.fixture(scope="session")
def hr_image() -> np.ndarray:
    return skimage.data.astronaut()[:120, 60:210]


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    write_image(folder / "a.png", noise(50, 70, 1))
    write_image(folder / "b c.jpg", noise(40, 41, 2))
    Image.fromarray(noise(25, 90, 3)).convert("L").save(folder / "d.bmp")
    return folder

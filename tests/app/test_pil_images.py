"""PIL images with side data, downscaled and restored by ``Rescaler``."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from side_data_images import HEIGHT, P3, RGB, SOURCES, TRANSPARENT, WIDTH, rgba

from rescale_app import Rescaler
from rescale_app.rescaler import RescaleWarning


@pytest.fixture(scope="module")
def rescaler(weights: str) -> Rescaler:
    return Rescaler(weights, device="cpu")


@pytest.mark.parametrize("carrier", ["png", "jpg", "webp"])
@pytest.mark.parametrize("source", SOURCES)
def test_pil_images_there_and_back(
    source: str, carrier: str, rescaler: Rescaler, tmp_path: Path, recwarn: Any
) -> None:
    image = Image.open(io.BytesIO(SOURCES[source]()))
    before = dict(image.info)
    lr = rescaler.downscale(image, 2)
    assert image.info == before
    lost = [str(w.message) for w in recwarn.list if w.category is RescaleWarning]
    assert lost == (
        ["CMYK colors are converted to RGB, without a color profile"]
        if source == "cmyk.jpg"
        else []
    )
    path = tmp_path / f"lr.{carrier}"
    if source in TRANSPARENT and carrier == "jpg":
        with pytest.raises(ValueError, match="has transparency"):
            lr.save(path)
        return
    lr.save(path)
    restored = rescaler.upscale(Image.open(path))
    direct = rescaler.upscale(lr)
    for result in (restored, direct):
        assert isinstance(result, Image.Image)
        assert result.mode == ("RGBA" if source in TRANSPARENT else "RGB")
        assert result.info.get("icc_profile") == (P3 if source == "p3.jpg" else None)
    if carrier != "jpg":
        np.testing.assert_array_equal(np.asarray(restored), np.asarray(direct))
    if source == "turned.jpg":
        result.save(tmp_path / "back.jpg", exif=restored.getexif())
        with Image.open(tmp_path / "back.jpg") as back:
            assert back.size == (HEIGHT, WIDTH)
            assert back.getexif()[271] == "Maker"
            assert 0x9213 not in back.getexif()  # the record


def test_arrays_stay_plain(rescaler: Rescaler) -> None:
    lr = rescaler.downscale(RGB, 2)
    assert lr.side_data is None
    assert isinstance(rescaler.upscale(lr), np.ndarray)
    np.testing.assert_array_equal(
        np.asarray(rescaler.upscale(rescaler.downscale(Image.fromarray(RGB), 2))),
        rescaler.upscale(lr),
    )


def test_pil_images_without_a_record(rescaler: Rescaler) -> None:
    lr = rescaler.downscale(rgba(), (2.0, 1.5))
    assert lr.side_data is not None
    bare = Image.fromarray(np.dstack([lr.pixels, lr.side_data.alpha]))
    with pytest.raises(ValueError, match="specify both"):
        rescaler.upscale(bare)
    restored = rescaler.upscale(bare, (2.0, 1.5), (HEIGHT, WIDTH))
    np.testing.assert_array_equal(np.asarray(restored), np.asarray(rescaler.upscale(lr)))
    with pytest.raises(ValueError, match="depth 16 is for arrays"):
        rescaler.upscale(bare, (2.0, 1.5), (HEIGHT, WIDTH), depth=16)
    with pytest.raises(ValueError, match="depth is 12: expected one of 8, 16"):
        rescaler.upscale(lr, depth=12)


def test_pil_images_of_other_modes(rescaler: Rescaler) -> None:
    gray = Image.fromarray(RGB[..., 0])
    expected = rescaler.downscale(RGB[..., 0], 2).pixels
    deep = Image.fromarray(RGB[..., 0].astype(np.uint16) * 257)
    for image in (gray, gray.convert("I;16").point(lambda v: v * 257), deep, gray.convert("LA")):
        np.testing.assert_array_equal(rescaler.downscale(image, 2).pixels, expected)
    with pytest.raises(ValueError, match="PIL image of mode F"):
        rescaler.downscale(gray.convert("F"), 2)
    turned = Image.open(io.BytesIO(SOURCES["turned.jpg"]()))
    assert rescaler.downscale(turned, 2).info.size == (WIDTH, HEIGHT)

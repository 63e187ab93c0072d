"""Lossless and lossy formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import features
from PIL.Image import Image, fromarray

from rescale_data.lossless import is_lossless


def image(alpha: bool = False) -> Image:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3 + alpha), np.uint8)
    return fromarray(pixels)


@pytest.mark.parametrize(
    ("suffix", "options", "expected"),
    [
        ("png", {}, True),
        ("bmp", {}, True),
        ("tif", {}, True),
        ("tif", {"compression": "tiff_lzw"}, True),
        ("ppm", {}, True),
        ("webp", {"lossless": True}, True),
        ("webp", {"lossless": True, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}, True),
        ("webp", {"lossless": True, "save_all": True, "append_images": [image()]}, True),
        ("webp", {}, False),
        ("webp", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}, False),
        ("webp", {"save_all": True, "append_images": [image()]}, False),
        ("jpg", {"quality": 100}, False),
        ("gif", {}, False),
    ],
)
def test_formats(suffix: str, options: dict[str, Any], expected: bool, tmp_path: Path) -> None:
    path = tmp_path / "image"  # the suffix is not what decides
    image().save(path, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()), **options)
    assert is_lossless(path) is expected


@pytest.mark.parametrize("lossless", [True, False])
def test_webp_with_transparency(lossless: bool, tmp_path: Path) -> None:
    image(alpha=True).save(tmp_path / "image.webp", lossless=lossless)
    assert is_lossless(tmp_path / "image.webp") is lossless


@pytest.mark.skipif(not features.check("avif"), reason="needs a Pillow with AVIF")
def test_avif(tmp_path: Path) -> None:
    image().save(tmp_path / "image.avif")
    assert not is_lossless(tmp_path / "image.avif")


@pytest.mark.parametrize("data", [b"", b"P", b"RIFF", b"RIFF\0\0\0\0WEBP", b"RIFF\0\0\0\0WEBPVP8X"])
def test_what_is_cut_off_is_not_taken_for_lossless(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(data)
    assert not is_lossless(tmp_path / "image")

"""Side data of image files, down and up through every format."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from encoded_images import encoded
from PIL import Image
from side_data_images import (
    ALPHA,
    HEIGHT,
    MAKER_NOTE,
    P3,
    RGB,
    SOURCES,
    TRANSPARENT,
    WIDTH,
    camera_exif,
)

from rescale_app import Rescaler
from rescale_app.cli import main
from rescale_data.exif import carried_exif
from rescale_data.image_file import LRInfo, read_image, read_info, write_image
from rescale_data.losses import Loss
from rescale_data.side_data import SideData, flattened, read_side_data

CARRIERS = {"png": [], "jpg": [], "webp": [], "lossy.webp": ["--quality", "90"]}
WARNINGS = {
    "deep.png": Loss.DEPTH,
    "deep_gray.png": Loss.DEPTH,
    "cmyk.jpg": Loss.COLORS,
}


@pytest.fixture
def rescale(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Callable[..., tuple[int, list[str]]]:
    """Runs the command in a folder with all sources; returns exit code and messages."""
    monkeypatch.chdir(tmp_path)
    for name, make in SOURCES.items():
        Path(name).write_bytes(make())

    def run(*arguments: str) -> tuple[int, list[str]]:
        code = main([*arguments, "--weights", weights])
        return code, capsys.readouterr().err.splitlines()

    return run


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("source", SOURCES)
def test_there_and_back(source: str, carrier: str, rescale: Any, weights: str) -> None:
    lr, back = f"lr.{carrier}", f"back.{carrier.rpartition('.')[2]}"
    code, messages = rescale("down", source, "-s", "2", "-o", lr, *CARRIERS[carrier])
    if source in TRANSPARENT and carrier == "jpg":
        assert code == 1
        (message,) = messages
        assert f"{source}: has transparency, which a JPEG file cannot hold" in message
        assert "--background" in message
        assert not Path(lr).exists()
        return
    assert code == 0
    expected = [WARNINGS[source].value] if source in WARNINGS else []
    assert messages == [f"rescale: warning: {source}: {text}" for text in expected]
    code, messages = rescale("up", lr, "-o", back)
    assert (code, messages) == (0, [])
    with Image.open(lr) as small, Image.open(back) as large:
        upright = (HEIGHT, WIDTH) if source == "turned.jpg" else (WIDTH, HEIGHT)
        assert large.size == upright
        assert small.size == (-(-upright[0] // 2), -(-upright[1] // 2))
        for image in (small, large):
            assert image.mode == ("RGBA" if source in TRANSPARENT else "RGB")
            assert image.info.get("icc_profile") == (P3 if source == "p3.jpg" else None)
            if source == "turned.jpg":
                check_camera_exif(image)
        if source in TRANSPARENT:
            original = np.asarray(Image.open(source).convert("RGBA"), float)
            error = np.abs(np.asarray(large, float)[..., 3] - original[..., 3])
            assert error.mean() < (2 if source == "rgba.png" else 30)
    # the network sees the numbers of the file as they are
    rescaler = Rescaler(weights)
    if carrier in ("png", "webp"):
        plain = rescaler.downscale(read_image(source), 2)
        np.testing.assert_array_equal(read_image(lr), plain.pixels)
        np.testing.assert_array_equal(read_image(back), rescaler.upscale(plain))


def check_camera_exif(image: Image.Image) -> None:
    exif = image.getexif()
    assert 274 not in exif
    assert exif[271] == "Maker"
    assert exif[315].encode("latin-1").decode() == "Jürgen"
    assert not exif.get_ifd(1)  # the thumbnail
    details = exif.get_ifd(34665)
    assert details[33434] == pytest.approx(0.01)
    assert details[37380] == pytest.approx(-0.5)
    assert details[37500] == MAKER_NOTE
    assert (details[40962], details[40963]) == image.size
    assert exif.get_ifd(34853)[2] == (48.0, 51.0, pytest.approx(29.6))


def test_thumbnail_and_orientation_leave_no_bytes() -> None:
    thumbnail = encoded(Image.fromarray(RGB[:16, :16]), "JPEG")
    assert thumbnail in camera_exif()
    carried = carried_exif(camera_exif())
    assert carried is not None
    assert thumbnail not in carried
    # makers refer to places in the file
    assert carried.index(MAKER_NOTE) == camera_exif()[6:].index(MAKER_NOTE)
    assert carried_exif(carried) == carried


@pytest.mark.parametrize("direction", ["down", "up"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_strip_drops_exif_but_not_the_record(direction: str, suffix: str, rescale: Any) -> None:
    for step, source, target in (
        ("down", "turned.jpg", f"lr.{suffix}"),
        ("up", f"lr.{suffix}", "x.png"),
    ):
        options = ["-s", "2"] if step == "down" else []
        strip = ["--strip"] if step == direction else []
        assert rescale(step, source, "-o", target, *options, *strip) == (0, [])
        with Image.open(target) as image:
            assert (271 in image.getexif()) is (direction == "up" and step == "down")
    assert Image.open("x.png").size == (HEIGHT, WIDTH)


@pytest.mark.parametrize("source", TRANSPARENT)
def test_a_background_makes_a_jpeg_of_a_transparent_image(source: str, rescale: Any) -> None:
    down = ["down", source, "-s", "2", "-o"]
    assert rescale(*down, "lr.jpg", "--background", "#ff8000") == (0, [])
    assert rescale(*down, "lr.png", "--background", "#ff8000") == (0, [])
    over = Image.new("RGBA", (WIDTH, HEIGHT), "#ff8000")
    over.alpha_composite(Image.open(source).convert("RGBA"))
    write_image("over.png", np.asarray(over.convert("RGB")))
    assert rescale("down", "over.png", "-s", "2", "-o", "expected.png") == (0, [])
    assert Image.open("lr.png").mode == "RGB"
    assert np.abs(read_image("lr.png").astype(int) - read_image("expected.png")).max() <= 3
    # restored first, then put over the color
    assert rescale(*down, "clear.webp") == (0, [])
    assert rescale("up", "clear.webp", "-o", "back.jpg")[0] == 1
    assert rescale("up", "clear.webp", "-o", "back.jpg", "--background", "white") == (0, [])
    assert (read_image("back.jpg")[:, :3] > 180).all() or source != "rgba.png"


def test_an_invalid_color_is_named(rescale: Any) -> None:
    code, (message,) = rescale("down", "rgba.png", "-s", "2", "-o", "a.jpg", "--background", "x")
    assert code == 2
    assert (
        "'x' is not a color: expected a name such as white, or a number such as #ff8000" in message
    )


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_colors_under_transparent_parts_are_kept(suffix: str, rescale: Any, weights: str) -> None:
    hidden = np.dstack([RGB, np.zeros_like(ALPHA)])
    Image.fromarray(hidden).save("hidden.png")
    assert rescale("down", "hidden.png", "-s", "2", "-o", f"lr.{suffix}") == (0, [])
    lr = np.asarray(Image.open(f"lr.{suffix}"))
    np.testing.assert_array_equal(lr[..., :3], Rescaler(weights).downscale(RGB, 2).pixels)
    assert not lr[..., 3].any()


@pytest.mark.parametrize("channels", [3, 4])
def test_depth_16_is_the_unrounded_result(channels: int, rescale: Any, weights: str) -> None:
    source = "deep.png" if channels == 3 else "rgba.png"
    rescale("down", source, "-s", "2.5", "-o", "lr.png")
    assert rescale("up", "lr.png", "-o", "16.png", "--depth", "16") == (0, [])
    assert rescale("up", "lr.png", "-o", "8.png") == (0, [])
    assert Path("16.png").read_bytes()[24] == 16
    deep, plain = read_image("16.png"), read_image("8.png")
    assert deep.dtype == np.uint16
    np.testing.assert_array_equal((deep / 257).round(), plain)
    assert len(np.unique(deep)) > 1000
    assert (read_side_data(Path("16.png").read_bytes()).alpha is not None) is (channels == 4)
    expected = Rescaler(weights).upscale(read_image("lr.png"), 2.5, (HEIGHT, WIDTH), depth=16)
    np.testing.assert_array_equal(deep, expected)
    code, (message,) = rescale("up", "lr.png", "-o", "16.jpg", "--depth", "16")
    assert code == 2
    assert "--depth 16 requires PNG files, not .jpg" in message


def test_side_data_in_png_of_16_bits(tmp_path: Path) -> None:
    exif = carried_exif(camera_exif())
    info = LRInfo("aidn", (2, 2), (HEIGHT, WIDTH), "sha256:0")
    pixels = RGB.astype(np.uint16) * 257 + 3
    write_image(tmp_path / "a.png", pixels, info=info, side_data=SideData(ALPHA, P3, exif))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)
    assert read_info(tmp_path / "a.png") == info
    found = read_side_data((tmp_path / "a.png").read_bytes())
    np.testing.assert_array_equal(found.alpha, ALPHA)
    assert found.profile == P3
    check = Image.open(tmp_path / "a.png")
    check.load()
    check_camera_exif(check)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_upright_as_the_image_is(
    kind: str, orientation: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.img"
    exif = Image.Exif()
    exif[274] = orientation
    gray = np.dstack([ALPHA, ALPHA, ALPHA, ALPHA])
    gray[:5, :7, 3] = gray[:5, :7, :1].max()
    gray[:5, :7, :3] = gray[:5, :7, :1].max()
    options: dict[str, Any] = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    Image.fromarray(gray).save(path, kind, exif=exif, **options)
    alpha = read_side_data(path.read_bytes()).alpha
    np.testing.assert_array_equal(alpha, read_image(path)[..., 0])


@pytest.mark.parametrize("big", [False, True])
def test_tags_of_a_tiff_become_exif(big: bool, rescale: Any) -> None:
    tags = [(271, 2, 6, "Maker", True), (315, 2, 5, "Anna", True)]
    tifffile.imwrite(
        "scan.tif", RGB, photometric="rgb", bigtiff=big, extratags=tags, metadata=None,
        resolution=(300, 300),
    )  # fmt: skip
    assert rescale("down", "scan.tif", "-s", "2", "-o", "lr.webp") == (0, [])
    assert rescale("up", "lr.webp", "-o", "back.jpg") == (0, [])
    for name in ("lr.webp", "back.jpg"):
        exif = Image.open(name).getexif()
        assert (exif[271], exif[315], exif[282]) == ("Maker", "Anna", 300)
        assert not {256, 257, 273, 279} & set(exif)


def test_exif_that_a_jpeg_cannot_hold_is_refused(rescale: Any) -> None:
    exif = Image.Exif()
    exif[271] = "Maker"
    exif.get_ifd(34665)[37500] = bytes(70_000)
    Image.fromarray(RGB).save("long.png", exif=exif)
    code, (message,) = rescale("down", "long.png", "-s", "2", "-o", "a.jpg")
    assert code == 1
    assert "long.png: " in message
    assert "a JPEG file holds at most 65527; drop it (--strip)" in message
    assert rescale("down", "long.png", "-s", "2", "-o", "a.jpg", "--strip") == (0, [])
    assert rescale("down", "long.png", "-s", "2", "-o", "a.webp") == (0, [])


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool")
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_exiftool_finds_the_same_tags(suffix: str, rescale: Any) -> None:
    assert rescale("down", "turned.jpg", "-s", "2", "-o", f"lr.{suffix}") == (0, [])
    assert rescale("up", f"lr.{suffix}", "-o", f"back.{suffix}") == (0, [])

    def tags(path: str) -> dict[str, str]:
        command = ["exiftool", "-j", "-EXIF:all", "-n", path]
        result = subprocess.run(command, capture_output=True, check=True, text=True)
        (found,) = json.loads(result.stdout)
        changed = ("SourceFile", "ExifImageWidth", "ExifImageHeight", "ImageHistory")
        return {key: value for key, value in found.items() if key not in changed}

    before, after = tags("turned.jpg"), tags(f"back.{suffix}")
    dropped = {"Orientation", "Compression", "ThumbnailOffset", "ThumbnailLength", "ThumbnailImage"}
    assert set(before) - set(after) == dropped
    assert after == {key: value for key, value in before.items() if key in after}
    assert tags(f"lr.{suffix}") == after


def test_flattening_rounds_as_the_formula() -> None:
    for pixels in (RGB, RGB.astype(np.uint16) * 257):
        most = np.iinfo(pixels.dtype).max
        share = ALPHA[..., None] / 255
        expected = pixels * share + np.array([255, 128, 0]) / 255 * most * (1 - share)
        got = flattened(pixels, ALPHA, (255, 128, 0))
        assert got.dtype == pixels.dtype
        assert np.abs(got - expected).max() <= 0.51

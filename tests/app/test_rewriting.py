"""LR files that other programs have rewritten, stripped, renamed or resized."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from rescale_app import Rescaler
from rescale_app.cli import main
from rescale_data.image_file import LRInfo, read_image, read_info, write_image
from rescale_data.lr_info import NameHint, hint_in_name, name_with_hint, name_without_hint

RGB = np.ascontiguousarray(data.astronaut()[20:84, 60:139])
INFO = LRInfo("aidn", (2.5, 4 / 3), (301, 400), "sha256:0123456789abcdef")


@pytest.fixture
def rescale(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Callable[..., tuple[int, list[str]]]:
    """Runs the command in a folder with LR files of all formats; returns exit code and messages."""
    monkeypatch.chdir(tmp_path)
    write_image("photo.png", RGB)

    def run(*arguments: str) -> tuple[int, list[str]]:
        code = main([*arguments, "--weights", weights])
        return code, capsys.readouterr().err.splitlines()

    for suffix in ("png", "jpg", "webp"):
        assert run("down", "photo.png", "-s", "2.5", "-o", f"lr.{suffix}") == (0, [])
    return run


def program(name: str, *arguments: str) -> None:
    """Runs a program; where it is absent, the test is skipped by its name."""
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}")
    result = subprocess.run([name, *arguments], capture_output=True, text=True)
    if name == "exiftool" and "Can't write RIFF" in result.stderr:
        pytest.skip("needs an exiftool that writes WebP")
    assert result.returncode == 0, result.stderr


def imagemagick(source: str, target: str, *options: str) -> None:
    for name in ("magick", "convert"):
        if shutil.which(name) is not None:
            break
    else:
        pytest.skip("needs ImageMagick")
    version = subprocess.run([name, "-version"], capture_output=True, text=True).stdout
    if "ImageMagick" not in version:
        pytest.skip("needs ImageMagick")
    program(name, source, *options, target)


def check_restored_as(lr: str, source: str, rescale: Any) -> None:
    """``lr`` has the pixels and the record of ``source``, and is restored to the same image."""
    np.testing.assert_array_equal(read_image(lr), read_image(source))
    assert read_info(lr) == read_info(source)
    assert rescale("up", lr, "-o", "a.png") == (0, [])
    assert rescale("up", source, "-o", "b.png") == (0, [])
    np.testing.assert_array_equal(read_image("a.png"), read_image("b.png"))


@pytest.mark.parametrize("target", ["png", "webp", "tiff"])
@pytest.mark.parametrize("source", ["png", "jpg", "webp"])
def test_pillow_with_metadata_kept(source: str, target: str, rescale: Any) -> None:
    options: dict[str, Any] = {"lossless": True, "exact": True} if target == "webp" else {}
    with Image.open(f"lr.{source}") as image:
        image.save(f"copy.{target}", exif=image.getexif(), **options)
    assert read_info(f"copy.{target}") == read_info(f"lr.{source}")
    if source != "jpg":  # which decoders round differently
        check_restored_as(f"copy.{target}", f"lr.{source}", rescale)


def test_pillow_keeps_the_comment_of_a_jpeg_unasked(rescale: Any) -> None:
    with Image.open("lr.jpg") as image:
        image.save("copy.jpg", quality=95)
    assert read_info("copy.jpg") == read_info("lr.jpg")


@pytest.mark.parametrize(
    ("source", "target"), [("png", "png"), ("webp", "webp"), ("webp", "png"), ("jpg", "png")]
)
def test_imagemagick_rewrites_losslessly(source: str, target: str, rescale: Any) -> None:
    options = ["-define", "webp:lossless=true"] if target == "webp" else []
    imagemagick(f"lr.{source}", f"copy.{target}", *options)
    assert read_info(f"copy.{target}") == read_info(f"lr.{source}")
    if source != "jpg":
        check_restored_as(f"copy.{target}", f"lr.{source}", rescale)


def test_imagemagick_recompresses_a_jpeg(rescale: Any) -> None:
    imagemagick("lr.jpg", "copy.jpg", "-quality", "90")
    assert read_info("copy.jpg") == read_info("lr.jpg")
    assert rescale("up", "copy.jpg", "-o", "back.png") == (0, [])
    assert read_image("back.png").shape == RGB.shape


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_exiftool_adds_a_tag(suffix: str, rescale: Any) -> None:
    program("exiftool", "-overwrite_original", "-EXIF:Artist=Anna", f"lr.{suffix}")
    assert Image.open(f"lr.{suffix}").getexif()[315] == "Anna"
    assert rescale("up", f"lr.{suffix}", "-o", "back.jpg") == (0, [])
    exif = Image.open("back.jpg").getexif()
    assert exif[315] == "Anna"
    assert 0x9213 not in exif  # the record, useless there


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_exiftool_copies_all_tags_to_another_file(suffix: str, rescale: Any) -> None:
    with Image.open(f"lr.{suffix}") as image:
        Image.fromarray(np.asarray(image)).save("bare.png")
    program(
        "exiftool", "-overwrite_original", "-TagsFromFile", f"lr.{suffix}", "-all:all", "bare.png"
    )
    assert read_info("bare.png") == read_info(f"lr.{suffix}")
    if suffix != "jpg":  # which decoders round differently
        check_restored_as("bare.png", f"lr.{suffix}", rescale)


def test_optipng(rescale: Any) -> None:
    before = read_image("lr.png")
    shutil.copy("lr.png", "copy.png")
    program("optipng", "-quiet", "-o1", "copy.png")
    np.testing.assert_array_equal(read_image("copy.png"), before)
    check_restored_as("copy.png", "lr.png", rescale)


STRIPPED: dict[str, Callable[[str, str], None]] = {
    "Pillow": lambda source, target: Image.open(source).save(target, lossless=True),
    "ImageMagick": lambda source, target: imagemagick(source, target, "-strip"),
    "exiftool": lambda source, target: program("exiftool", "-q", "-all=", "-o", target, source),
    "optipng": lambda source, target: program(
        "optipng", "-quiet", "-strip", "all", "-out", target, source
    ),
}


@pytest.mark.parametrize("tool", STRIPPED)
def test_a_stripped_file_gets_the_line_that_helps(tool: str, rescale: Any, weights: str) -> None:
    STRIPPED[tool]("lr.png", "bare.png")
    assert read_info("bare.png") is None
    code, (message,) = rescale("up", "bare.png", "-o", "back.png")
    assert code == 1
    assert message.startswith("rescale: error: bare.png: contains no scale and original size")
    # The example runs; it is one of many factors.
    example = shlex.split(message.partition("`")[2].partition("`")[0])
    assert example[:2] == ["rescale", "up"]
    height, width = read_image("bare.png").shape[:2]
    assert main(example[1:]) == 0
    assert read_image("back.png").shape == (2 * height, 2 * width, 3)
    assert f"made it from {2 * width}x{2 * height} by 2" in message


@pytest.mark.parametrize("name", ["{}", "{} (1)", "{}-min", "IMG_7.{}"])
def test_a_hint_in_the_name_restores_a_stripped_file(name: str, rescale: Any, weights: str) -> None:
    hinted = "small.s2.5.79x64"
    assert rescale("down", "photo.png", "-s", "2.5", "-o", "small.png", "--hint-name") == (0, [])
    assert not Path("small.png").exists()
    shutil.copy(f"{hinted}.png", "other.s2.5.99x99.png")
    bare = f"{name.format(hinted)}.png"
    Image.open(f"{hinted}.png").save(bare)
    Path("in").mkdir()
    shutil.move(bare, "in")
    code, (warning,) = rescale("up", "in", "-o", "out")
    assert code == 0
    assert "restored according to its name, from 79x64 at scale 2.5; rescaling is not" in warning
    (restored,) = Path("out").iterdir()
    assert restored.name == f"{name.format('small')}.png"
    expected = Rescaler(weights).upscale(Rescaler(weights).downscale(RGB, 2.5))
    np.testing.assert_array_equal(read_image(restored), expected)
    # The record in a file counts more than its name.
    assert rescale("up", "other.s2.5.99x99.png", "-o", "other.png") == (0, [])
    np.testing.assert_array_equal(read_image("other.png"), expected)


def test_a_hint_without_weights_selects_those_for_the_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write_image("photo.png", RGB)
    for suffix, name in (("webp", "aidn-small"), ("jpg", "aidn-plus")):
        assert main(["down", "photo.png", "--fit", "41", "-o", f"a.{suffix}", "--hint-name"]) == 0
        (lr,) = tmp_path.glob(f"a.s*.{suffix}")
        hint = hint_in_name(lr.name)
        info = read_info(lr)
        assert info is not None
        assert hint == NameHint(info.scale, info.size)
        bare = lr.with_name(f"bare-{lr.name}")
        with Image.open(lr) as image:
            pixels = read_image(lr)
            if suffix == "jpg":  # without decoding and encoding it again
                data = lr.read_bytes()
                for mark in (b"\xff\xe1", b"\xff\xfe"):
                    start = data.index(mark)
                    length = int.from_bytes(data[start + 2 : start + 4], "big")
                    data = data[:start] + data[start + 2 + length :]
                bare.write_bytes(data)
            else:
                image.save(bare, lossless=True)
        assert read_info(bare) is None
        capsys.readouterr()
        assert main(["up", str(bare), "-o", f"{name}.png"]) == 0
        assert f"restored with {name}, since the file is" in capsys.readouterr().err
        expected = Rescaler(name, device="cpu").upscale(pixels, info.scale, info.size)
        np.testing.assert_array_equal(read_image(f"{name}.png"), expected)


def test_a_copy_that_fits_is_hinted_too(rescale: Any) -> None:
    assert rescale("down", "photo.png", "--fit", "999", "-o", "a.png", "--hint-name") == (0, [])
    Image.open("a.s1.79x64.png").save("a.s1.79x64.png")
    assert read_info("a.s1.79x64.png") is None
    assert rescale("up", "a.s1.79x64.png", "-o", "back.png")[0] == 0
    np.testing.assert_array_equal(read_image("back.png"), RGB)


def test_skip_existing_knows_hinted_names(rescale: Any, capsys: Any) -> None:
    Path("in").mkdir()
    for name in ("a", "b"):
        write_image(f"in/{name}.png", RGB)
    down = ["down", "in", "-s", "2", "-o", "out", "--hint-name"]
    assert rescale(*down) == (0, [])
    names = sorted(path.name for path in Path("out").iterdir())
    assert names == ["a.s2.79x64.png", "b.s2.79x64.png"]
    Path("out", names[0]).unlink()
    Path("out", names[1]).write_bytes(b"of an earlier run")
    assert rescale(*down, "--skip-existing") == (0, [])
    assert sorted(path.name for path in Path("out").iterdir()) == names
    assert Path("out", names[1]).read_bytes() == b"of an earlier run"


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_resized_file_cannot_be_restored(suffix: str, rescale: Any) -> None:
    with Image.open(f"lr.{suffix}") as image:
        exif, size = image.getexif(), (image.width // 2, image.height // 2)
        image.resize(size).save(f"resized.{suffix}", exif=exif)
        image.resize(size).save(f"hinted.s2.5.79x64.{suffix}")
    for name in (f"resized.{suffix}", f"hinted.s2.5.79x64.{suffix}"):
        code, (message,) = rescale("up", name, "-o", "back.png")
        assert code == 1
        assert f"{name}: is 16x13, but the LR image of 79x64 at scale 2.5 is 32x26" in message
        assert "it was resized or cropped after downscaling, and cannot be restored" in message
        assert not Path("back.png").exists()


# --- hints ----------------------------------------------------------------------------------------


@given(
    st.text(alphabet=st.characters(exclude_characters="/\0", codec="utf-8"), max_size=40),
    st.tuples(st.floats(1, 4), st.floats(1, 4)) | st.floats(1, 256).map(lambda s: (s, s)),
    st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)),
    st.sampled_from(["", ".png", " (1).jpg", "-min.webp", "_2.png"]),
)
def test_hints_are_exact(
    stem: str, scale: tuple[float, float], size: tuple[int, int], end: str
) -> None:
    name = name_with_hint(stem, LRInfo("aidn", scale, size, "x"))
    assert hint_in_name(f"{name}{end}") == NameHint(scale, size)
    assert name_without_hint(name) == stem
    assert name_without_hint(f"{name}{end}") == f"{stem}{end}"


@pytest.mark.parametrize(
    "name",
    ["photo.png", "photo.1920x1080.png", "photo.s2.5.png", "s2.5.1920x1080.png",
     "photo.s0.5.1920x1080.png", "photo.s2.5.0x1080.png", "photo.s2.5.1920.png",
     "photo.s999.5x5.png", "photo.s2..5x5.png", "photos2.5x5.png"],
)  # fmt: skip
def test_names_without_a_hint(name: str) -> None:
    assert hint_in_name(name) is None
    assert name_without_hint(name) == name


def test_readable_hints() -> None:
    info = LRInfo("aidn", (2.5, 2.5), (1080, 1920), "x")
    assert name_with_hint("photo", info) == "photo.s2.5.1920x1080"
    assert name_with_hint("a.b", LRInfo("vqir16", (16, 16), (10, 20), "x")) == "a.b.s16.20x10"
    assert name_with_hint("a", LRInfo("aidn", (1.7, 3), (10, 20), "x")) == "a.s1.7x3.20x10"

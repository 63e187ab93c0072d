"""Image files: what is read, written and listed, and errors that name the file."""

import io
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from encoded_images import INFO, MODES, encoded
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from rescale_data.image_file import (
    ImageFileError,
    decode_image,
    list_images,
    read_image,
    read_info,
    to_float,
    write_image,
)


@pytest.mark.parametrize(("file_format", "mode"), MODES)
def test_every_mode_becomes_rgb_as_pillow_has_it(hr_image, file_format, mode):
    content = encoded(hr_image, file_format, mode)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    got = decode_image(content, "x")
    assert got.dtype == np.uint8
    assert got.shape == hr_image.shape
    # JPEG decoders may differ by a rounding.
    assert np.abs(got - expected).max() <= (2 if file_format == "JPEG" else 0)


def test_transparency_is_dropped_not_blended(hr_image):
    image = Image.fromarray(hr_image).convert("RGBA")
    image.putalpha(Image.fromarray(hr_image[..., 0]))
    assert (decode_image(encoded(image, "PNG", "RGBA"), "x") == hr_image).all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_kept(channels):
    pixels = np.random.default_rng(0).integers(0, 2**16, (20, 30, channels), dtype=np.uint16)
    got = decode_image(cv2.imencode(".png", pixels)[1].tobytes(), "x")
    rgb = pixels.repeat(3, 2) if channels == 1 else pixels[..., 2::-1]
    assert got.dtype == np.uint16
    assert (got == rgb).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
def test_images_come_upright(hr_image, file_format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(hr_image, file_format, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    got = decode_image(content, "x").astype(int)
    assert got.shape == (upright.height, upright.width, 3)
    assert np.abs(got - np.asarray(upright)).max() <= 2


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_the_first_of_several_frames_is_read(hr_image, file_format):
    frames = [Image.fromarray(np.rot90(hr_image, turn)[:100, :100].copy()) for turn in range(3)]
    buffer = io.BytesIO()
    options = {"lossless": True} if file_format == "WEBP" else {}
    frames[0].save(buffer, file_format, save_all=True, append_images=frames[1:], **options)
    assert (decode_image(buffer.getvalue(), "x") == np.asarray(frames[0])).all()


@pytest.mark.parametrize(
    ("file_format", "options"),
    [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True})],
)
@pytest.mark.parametrize("rest", ["cut", "zeros"])
@pytest.mark.parametrize("part", [0.001, 0.1, 0.6, 0.999])
def test_a_truncated_file_is_an_error(tmp_path, hr_image, file_format, options, rest, part):
    exif = Image.Exif()
    thumbnail = encoded(hr_image[:20, :20], "JPEG")  # brings an end mark of its own
    exif.get_ifd(0x8769)[0x927C] = thumbnail
    content = encoded(hr_image, file_format, exif=exif, **options)
    length = int(len(content) * part)
    path = tmp_path / "half.img"
    path.write_bytes(content[:length] + bytes(len(content) - length) * (rest == "zeros"))
    with pytest.raises(ImageFileError, match=r"half\.img: .*(truncated|broken)"):
        read_image(path)
    if length > 8:
        with pytest.raises(ImageFileError, match=r"half\.img: .*(truncated|broken)"):
            read_info(path)


def test_data_after_the_end_of_a_file_is_ignored(hr_image):
    for file_format in ("PNG", "JPEG"):
        content = encoded(hr_image, file_format)
        whole = decode_image(content, "x")
        assert (decode_image(content + b"\xff\xda motion image" * 99, "x") == whole).all()


def test_a_flipped_bit_in_a_png_is_an_error(hr_image):
    content = bytearray(encoded(hr_image, "PNG", compress_level=0))
    content[len(content) // 2] ^= 1
    with pytest.raises(ImageFileError, match=r"flipped\.png: broken"):
        decode_image(bytes(content), "flipped.png")


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_a_file_that_is_not_an_image_is_an_error_that_names_it(tmp_path, content):
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(ImageFileError, match=r"odd\.png: "):
        read_image(path)


def test_floating_point_pixels_are_refused():
    content = cv2.imencode(".tiff", np.zeros((4, 4, 3), np.float32))[1].tobytes()
    with pytest.raises(ImageFileError, match="32-bit floating point"):
        decode_image(content, "float.tiff")


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_image(tmp_path / "none.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_to_float_is_exact(dtype):
    top = np.iinfo(dtype).max
    values = np.arange(top + 1, dtype=dtype)
    got = to_float(values)
    assert got.dtype == np.float32
    assert got[0] == 0
    assert got[-1] == 1
    assert (np.round(got.astype(np.float64) * top) == values).all()


def test_to_float_refuses_other_integers():
    with pytest.raises(ValueError, match="uint8, uint16 or float, not int64"):
        to_float(np.zeros(3, np.int64))


def test_png_keeps_the_pixels(tmp_path, hr_image):
    write_image(tmp_path / "a.png", hr_image[:, ::-1], info=INFO)
    assert (read_image(tmp_path / "a.png") == hr_image[:, ::-1]).all()
    assert os.listdir(tmp_path) == ["a.png"]


def test_jpeg_quality_and_chroma(tmp_path, hr_image):
    sizes = []
    for quality in (20, None, 100):
        write_image(tmp_path / "a.jpg", hr_image, quality=quality)
        with Image.open(tmp_path / "a.jpg") as image:
            assert image.layer[0][1:3] == (2, 2)  # luma sampled twice as finely: 4:2:0
        sizes.append((tmp_path / "a.jpg").stat().st_size)
    assert sizes == sorted(sizes)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - hr_image).mean() < 4


@settings(max_examples=25, deadline=None)  # a damaged length makes a decoder ask for memory
@given(st.binary(max_size=300), st.sampled_from(["PNG", "JPEG"]), st.floats(0, 1))
def test_garbage_is_read_or_refused_but_never_worse(tmp_path_factory, noise, file_format, place):
    content = bytearray(encoded(np.zeros((9, 9, 3), np.uint8), file_format))
    start = int(place * len(content))
    content[start : start + len(noise)] = noise
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(content)
    for read in (read_image, read_info):
        try:
            read(path)
        except (ImageFileError, ValueError) as error:
            assert "noise: " in str(error)


@pytest.mark.parametrize(
    ("name", "image", "options", "message"),
    [
        ("a.gif", np.zeros((2, 2, 3), np.uint8), {}, r"a\.gif: suffix must be \.png"),
        ("a.webp", np.zeros((2, 2, 3), np.uint16), {}, r"a\.webp: image must be .* uint8, not"),
        ("a.webp", np.zeros((1, 16384, 3), np.uint8), {}, r"is 16384x1: sides of a WebP file"),
        ("a.png", np.zeros((2, 2, 3)), {}, r"a\.png: image must be \(H, W, 3\) uint8"),
        ("a.png", np.zeros((2, 2), np.uint8), {}, r"a\.png: image must be"),
        ("a.png", np.zeros((0, 2, 3), np.uint8), {}, r"a\.png: image must be"),
        (
            "a.png",
            np.zeros((2, 2, 3), np.uint8),
            {"quality": 90},
            r"a\.png: only \.jpg, \.jpeg and \.webp files have",
        ),
        ("a.jpg", np.zeros((2, 2, 3), np.uint8), {"quality": 0}, r"a\.jpg: quality must be from"),
    ],
)
def test_invalid_arguments_for_writing(tmp_path, name, image, options, message):
    with pytest.raises(ValueError, match=message):
        write_image(tmp_path / name, image, **options)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none/a\.png"):
        write_image(tmp_path / "none" / "a.png", np.zeros((2, 2, 3), np.uint8))


def test_a_full_disk_leaves_the_older_file_as_it_was(tmp_path):
    path = tmp_path / "a.png"
    write_image(path, np.zeros((2, 2, 3), np.uint8))
    before = path.read_bytes()
    code = (
        "import resource, signal, sys, numpy\n"
        "from rescale_data.image_file import write_image\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "noise = numpy.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=numpy.uint8)\n"
        "write_image(sys.argv[1], noise)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )
    last = result.stderr.strip().splitlines()[-1]
    assert last == f"OSError: [Errno 27] File too large: '{path}'"
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_images_over_pillows_limit_are_read_and_written(tmp_path, monkeypatch, hr_image):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for name in ("a.png", "a.jpg"):
        write_image(tmp_path / name, hr_image, info=INFO)
        assert read_info(tmp_path / name) == INFO
        assert read_image(tmp_path / name).shape == hr_image.shape


def test_list_images(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.PNG", "a b.jpg", ".hidden.png", "notes.txt", "sub/c.webp"):
        (tmp_path / name).touch()
    (tmp_path / "sub" / "round").symlink_to(tmp_path)

    def names(**options) -> list[str]:
        return [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path, **options)]

    assert names() == ["a b.jpg", "b.PNG"]
    assert names(recursive=True) == ["a b.jpg", "b.PNG", "sub/c.webp"]
    with pytest.raises(FileNotFoundError, match="none"):
        list_images(tmp_path / "none")
    with pytest.raises(NotADirectoryError, match="notes"):
        list_images(Path(tmp_path, "notes.txt"))


def test_reading_images_needs_neither_torch_nor_basicsr():
    code = "import sys, rescale_data.image_file; print(*{'torch', 'basicsr'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""

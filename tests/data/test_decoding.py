"""Formats and depths besides TIFF, against Pillow or the original pixels; orientation and size."""

import struct
import tomllib
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from encoded_images import (
    GRAY,
    GRAY16,
    RGB,
    RGB16,
    RGBA16,
    Pixels,
    as_tiff,
    encoded,
    pillow_rgb,
    png_chunk,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from PIL import Image

from rescale_data import decoding
from rescale_data.image_file import ImageFileError, decode_image


def png16(pixels: Pixels, color_type: int) -> bytes:
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(kind, body)
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )


@pytest.mark.parametrize(
    ("pixels", "color_type"),
    [(GRAY16, 0), (RGB16, 2), (RGBA16[..., :2], 4), (RGBA16, 6)],
    ids=["L", "RGB", "LA", "RGBA"],
)
def test_png_of_16_bits(pixels, color_type):
    got = decode_image(png16(pixels, color_type), "x")
    assert got.dtype == np.uint16
    rgb = pixels[..., :3] if color_type in (2, 6) else pixels.reshape(*GRAY.shape, -1)[..., :1]
    assert (got == rgb).all()


def test_png_of_few_bits_and_with_a_transparent_color():
    for bits in (1, 2, 4):
        content = encoded(Image.fromarray(RGB).quantize(2**bits), "PNG", bits=bits)
        assert (decode_image(content, "x") == pillow_rgb(content)).all()
    content = encoded(RGB, "PNG", transparency=tuple(map(int, RGB[3, 3])))
    assert (decode_image(content, "x") == RGB).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [True, False])
def test_webp(mode, lossless):
    image = Image.fromarray((RGBA16 >> 8).astype(np.uint8)).convert(mode)
    content = encoded(image, "WEBP", lossless=lossless, exact=True)
    assert (decode_image(content, "x") == pillow_rgb(content)).all()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"keep_rgb": True}])
@pytest.mark.parametrize("quality", [50, 100])
def test_jpeg(options, quality):
    content = encoded(RGB, "JPEG", quality=quality, **options)
    assert np.abs(decode_image(content, "x").astype(int) - pillow_rgb(content)).max() <= 2


def bmp(pixels: bytes, bits: int, masks: tuple[int, ...]) -> bytes:
    """A BMP of 4 x 2 pixels."""
    masked = 3 if masks else 0
    header = struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, bits, masked, len(pixels), 0, 0, 0, 0)
    header += struct.pack(f"<{len(masks)}I", *masks)
    start = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + pixels


@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (16, ()),
        (16, (0x7C00, 0x3E0, 0x1F)),
        (16, (0xF800, 0x7E0, 0x1F)),
        (32, ()),
        (32, (0xFF0000, 0xFF00, 0xFF)),
    ],
)
def test_bmp_of_16_and_32_bits(bits, masks):
    noise = np.random.default_rng(0).integers(0, 256, bits, dtype=np.uint8).tobytes()
    content = bmp(noise, bits, masks)
    assert (decode_image(content, "x") == pillow_rgb(content)).all()
    white = decode_image(bmp(b"\xff" * bits, bits, masks), "x")
    assert (white == 255).all()  # not 248, as 5 bits shifted by 3 are


@pytest.mark.parametrize("file_format", ["GIF", "JPEG2000", "PPM", "AVIF"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_other_formats_are_read_as_pillow_reads_them(file_format, mode):
    image = Image.fromarray((RGBA16 >> 8).astype(np.uint8)).convert(mode)
    content = encoded(image.convert("RGB") if file_format == "PPM" else image, file_format)
    assert (decode_image(content, "x") == pillow_rgb(content)).all()


def test_avif_and_pnm_of_10_bits_are_as_bright_as_they_should_be():
    """OpenCV returns values up to 1023 as if the maximum were 65535."""
    ten = RGB16 >> 6
    avif = cv2.imencode(".avif", ten[..., ::-1], [cv2.IMWRITE_AVIF_DEPTH, 10])[1].tobytes()
    height, width = GRAY.shape
    pnm = b"P6 %d %d 1023\n" % (width, height) + ten.astype(">u2").tobytes()
    for content in (avif, pnm):
        got = decode_image(content, "x")
        assert np.abs(got / np.iinfo(got.dtype).max - RGB / 255).mean() < 0.02


def test_gray_of_16_bits_in_other_formats():
    pgm = b"P5 %d %d 65535\n" % GRAY16.shape[::-1] + GRAY16.astype(">u2").tobytes()
    for content in (pgm, encoded(GRAY16, "JPEG2000")):
        got = decode_image(content, "x")
        assert got.dtype == np.uint16
        assert (got == GRAY16[..., None]).all()


TURNS = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: np.rot90(image),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF RGB", "TIFF RGB16", "TIFF L", "TIFF L16"]
)
def test_every_format_comes_upright(kind, orientation):
    if kind.startswith("TIFF"):
        pixels = {"RGB": RGB, "RGB16": RGB16, "L": GRAY, "L16": GRAY16}[kind.split()[1]]
        photometric = "minisblack" if pixels.ndim == 2 else "rgb"
        content = as_tiff(pixels, photometric, extratags=[(274, 3, 1, orientation, True)])
    else:
        pixels, exif = RGB, Image.Exif()
        exif[274] = orientation
        options = {"lossless": True} if kind == "WEBP" else {"quality": 100}
        content = encoded(RGB, kind, exif=exif, **options)
    got = decode_image(content, "x")
    expected = TURNS[orientation](pixels.reshape(*GRAY.shape, -1))
    assert got.shape == (*expected.shape[:2], 3)
    bound = 4 if kind in ("JPEG", "AVIF") else 0
    assert np.abs(got.astype(int) - expected).mean() <= bound


@pytest.mark.parametrize("file_format", ["BMP", "WEBP", "GIF", "JPEG2000", "PPM"])
def test_other_truncated_files_are_errors(file_format):
    content = encoded(RGB, file_format)
    for part in (0.1, 0.5, 0.9):
        with pytest.raises(ImageFileError, match="cut: "):
            decode_image(content[: int(len(content) * part)], "cut")


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\0\0\1\0" * 9, b"P7\n", b"x"])
def test_unsupported_formats_are_refused(content):
    with pytest.raises(ImageFileError, match=r"a\.eps: not an image in a supported format \(PNG, "):
        decode_image(content, "a.eps")


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=40),
    st.sampled_from(["TIFF", "TIFF16", "GIF", "BMP", "WEBP", "PPM", "JPEG2000"]),
    st.floats(0, 1),
)
def test_garbage_is_decoded_or_refused_but_never_worse(noise, file_format, place):
    small = RGB[:9, :9]
    if file_format == "TIFF16":
        content = bytearray(as_tiff(RGB16[:9, :9].copy(), "rgb"))
    else:
        content = bytearray(encoded(small, file_format))
    start = int(place * len(content))
    content[start : start + len(noise)] = noise
    try:
        image = decode_image(bytes(content), "noise")
    except (ImageFileError, MemoryError):
        return
    assert image.dtype in (np.uint8, np.uint16)
    assert image.ndim == 3
    assert image.shape[2] == 3


def test_images_over_pillows_limit_are_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for content in (as_tiff(RGB, "rgb"), encoded(RGB, "BMP"), encoded(RGB, "PPM")):
        assert decode_image(content, "x").shape == RGB.shape


def test_running_out_of_memory_is_no_broken_image(monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(decoding, "open_with_pillow", fail)
    with pytest.raises(MemoryError):
        decode_image(encoded(RGB, "BMP"), "x")


def test_the_required_releases_are_those_that_read_all_formats():
    """OpenCV 4.12 leaves WebP turned; Pillow 11.2 reads no AVIF."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    required = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    for name, working, older in (
        ("opencv-python", "4.13.0.90", "4.12.0.88"),
        ("pillow", "11.3.0", "11.2.1"),
    ):
        assert required[name].contains(working)
        assert not required[name].contains(older)


@pytest.mark.parametrize(
    "file_format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "AVIF", "JPEG2000", "PPM"]
)
def test_the_size_is_read_from_the_header(file_format: str) -> None:
    assert decoding.image_size(encoded(RGB, file_format), "image") == RGB.shape[:2]


def test_the_size_is_known_without_the_pixels() -> None:
    large = encoded(Image.new("1", (30000, 20000)), "PNG")
    assert decoding.image_size(large, "large.png") == (20000, 30000)


@pytest.mark.parametrize("content", [b"", b"no image", b"II*\0", b"\x89PNG\r\n\x1a\nno"])
def test_a_file_that_is_not_an_image_has_no_size(content: bytes) -> None:
    with pytest.raises(ImageFileError, match=r"^image\.png: "):
        decoding.image_size(content, "image.png")

"""TIFF of every kind, against tifffile, Pillow or the original pixels.

tifffile returns samples as they are stored, which is correct for gray and RGB.
"""

import io
import struct
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from encoded_images import GRAY, GRAY16, RGB, RGB16, RGBA16, Pixels, as_tiff, encoded, pillow_rgb
from PIL import Image, ImageCms

from rescale_data import decoding
from rescale_data.hr_dataset import HRImageDataset
from rescale_data.image_file import ImageFileError, decode_image, write_image


def by_opencv(pixels: Pixels, suffix: str, *options: int) -> bytes:
    content: bytes = cv2.imencode(suffix, pixels[..., ::-1], options)[1].tobytes()
    return content


TIFF_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "tiles": {"tile": (32, 32)},
    "strips": {"rowsperstrip": 7},
    "deflate": {"compression": "zlib"},
    "predictor": {"compression": "zlib", "predictor": True},
}


@pytest.mark.parametrize("options", TIFF_OPTIONS.values(), ids=TIFF_OPTIONS)
@pytest.mark.parametrize("pixels", [GRAY, RGB, GRAY16, RGB16], ids=["L", "RGB", "L16", "RGB16"])
def test_tiff_is_read_as_tifffile_reads_it(pixels, options):
    content = as_tiff(pixels, "minisblack" if pixels.ndim == 2 else "rgb", **options)
    expected = tifffile.imread(io.BytesIO(content))
    assert (expected == pixels).all()
    got = decode_image(content, "x")
    assert got.dtype == pixels.dtype
    assert got.flags.writeable
    assert (got == (expected[..., None] if pixels.ndim == 2 else expected)).all()


@pytest.mark.parametrize(
    "compression", ["tiff_lzw", "tiff_deflate", "packbits", "tiff_adobe_deflate"]
)
def test_compressed_tiff_of_other_writers(compression):
    assert (decode_image(encoded(RGB, "TIFF", compression=compression), "x") == RGB).all()
    for pixels in (RGB, RGB16):  # LZW
        assert (decode_image(by_opencv(pixels, ".tif"), "x") == pixels).all()


def test_tiff_with_one_plane_after_the_other():
    planes = RGB.transpose(2, 0, 1)
    for options in ({}, {"compression": "zlib", "predictor": True}, {"rowsperstrip": 9}):
        content = as_tiff(planes, "rgb", planarconfig="separate", **options)
        assert (decode_image(content, "x") == RGB).all()


@pytest.mark.parametrize("pixels", [GRAY, GRAY16], ids=["8", "16"])
def test_tiff_in_which_white_is_zero(pixels):
    got = decode_image(as_tiff(pixels, "miniswhite"), "x")
    assert (got == np.iinfo(pixels.dtype).max - pixels[..., None]).all()


@pytest.mark.parametrize("kind", ["unassalpha", "unspecified"])
@pytest.mark.parametrize("depth", [8, 16])
def test_transparency_of_tiff_is_dropped_not_multiplied_in(kind, depth):
    pixels = RGBA16 if depth == 16 else (RGBA16 >> 8).astype(np.uint8)
    content = as_tiff(pixels, "rgb", extrasamples=[kind])
    assert (decode_image(content, "x") == pixels[..., :3]).all()


@pytest.mark.parametrize("depth", [8, 16])
def test_colors_that_tiff_has_multiplied_by_alpha_are_divided_by_it(depth):
    most = 2**depth - 1
    straight = RGB16 if depth == 16 else RGB
    alpha = np.linspace(most // 4, most, GRAY.size).round().reshape(*GRAY.shape, 1)
    multiplied = np.rint(straight * (alpha / most))
    pixels = np.dstack([multiplied, alpha]).astype(straight.dtype)
    got = decode_image(as_tiff(pixels, "rgb", extrasamples=["assocalpha"]), "x")
    assert np.abs(got.astype(int) - straight).max() <= 4  # levels lost where alpha is low
    pixels[..., 3] = 0  # nothing to divide by
    assert decode_image(as_tiff(pixels, "rgb", extrasamples=["assocalpha"]), "x").dtype == got.dtype


def test_gray_tiff_with_alpha():
    pixels = np.dstack([GRAY, RGB[..., 1]])
    content = as_tiff(pixels, "minisblack", extrasamples=["unassalpha"], planarconfig="contig")
    assert (decode_image(content, "x") == GRAY[..., None]).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK"])
def test_tiff_of_every_mode_of_pillow(mode):
    content = encoded(Image.fromarray(RGB).convert(mode), "TIFF")
    assert (decode_image(content, "x") == pillow_rgb(content)).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("photometric", [0, 1])
def test_gray_tiff_of_few_bits(bits, photometric):
    height, width = 6, 8
    values = np.random.default_rng(0).integers(0, 2**bits, (height, width), dtype=np.uint8)
    rows = np.unpackbits(values[..., None], axis=2)[..., 8 - bits :].reshape(height, -1)
    packed = np.packbits(rows, axis=1).tobytes()
    tags = [
        (256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8),
        (277, 1), (278, height), (279, len(packed)),
    ]  # fmt: skip
    content = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed
    content += struct.pack("<H", len(tags))
    content += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(4)
    expected = values * (255 // (2**bits - 1))
    expected = expected if photometric else 255 - expected
    assert (decode_image(content, "x") == expected[..., None]).all()


def test_fax_and_jpeg_in_tiff():
    for mode, compression in (("1", "group4"), ("RGB", "jpeg")):
        content = encoded(Image.fromarray(RGB).convert(mode), "TIFF", compression=compression)
        assert (decode_image(content, "x") == pillow_rgb(content)).all()


def test_lab_tiff_has_the_colors_that_it_was_made_from():
    """libtiff, and thus OpenCV, does not use the white point of sRGB: red is off by 14 levels."""
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
    lab = ImageCms.applyTransform(Image.fromarray(RGB), transform)
    content = encoded(lab, "TIFF")
    assert np.abs(decode_image(content, "x").astype(int) - RGB).mean() < 1
    opencv = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(opencv.astype(int) - RGB)[..., 0].mean() > 10


UNSUPPORTED_TIFF = {
    "32-bit floating point": as_tiff((RGB / 255).astype(np.float32), "rgb"),
    "16-bit floating point": as_tiff((RGB / 255).astype(np.float16), "rgb"),
    "64-bit floating point": as_tiff(RGB / 255, "rgb"),
    "32-bit unsigned integer": as_tiff(RGB.astype(np.uint32) << 24, "rgb"),
    "32-bit signed integer": as_tiff(GRAY.astype(np.int32) << 16, "minisblack"),
    "16-bit signed integer": as_tiff(RGB.astype(np.int16), "rgb"),
    "8-bit signed integer": as_tiff((RGB >> 1).astype(np.int8), "rgb"),
    "separate planes": as_tiff(RGB16.transpose(2, 0, 1), "rgb", planarconfig="separate"),
    "2 samples": as_tiff(
        RGB16[..., :2].copy(), "minisblack", extrasamples=["unassalpha"], planarconfig="contig"
    ),
    "PhotometricInterpretation 5": as_tiff(RGBA16, "separated"),
}


@pytest.mark.parametrize("problem", UNSUPPORTED_TIFF)
def test_unsupported_tiff_is_refused_in_one_line_that_says_what_it_is(problem):
    with pytest.raises(ImageFileError) as caught:
        decode_image(UNSUPPORTED_TIFF[problem], "scan.tif")
    text = str(caught.value)
    assert text.startswith("scan.tif: TIFF ")
    assert problem in text
    assert "unsupported" in text
    assert "\n" not in text


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about EXIF
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"rowsperstrip": 7}])
def test_a_truncated_tiff_is_an_error(depth, options):
    content = as_tiff(RGB16 if depth == 16 else RGB, "rgb", **options)
    for part in (0.001, 0.1, 0.5, 0.99):
        with pytest.raises(ImageFileError, match=r"cut\.tif: "):
            decode_image(content[: int(len(content) * part)], "cut.tif")


def test_the_dataset_reads_16_bit_tiff_correctly(tmp_path):
    """Version 0.1 read it as noise."""
    (tmp_path / "a.tif").write_bytes(as_tiff(RGB16, "rgb"))
    write_image(tmp_path / "b.png", RGB)
    dataset = HRImageDataset({"name": "x", "phase": "val", "dataroot_gt": str(tmp_path)})
    from_tiff, from_png = (dataset[index]["gt"].numpy().transpose(1, 2, 0) for index in range(2))
    assert np.array_equal(from_tiff, (RGB16 / 65535).astype(np.float32))
    assert np.abs(from_tiff - from_png).max() < 1 / 255


@pytest.mark.parametrize("bigtiff", [False, True])
def test_the_size_of_tiff_that_pillow_does_not_open(bigtiff: bool) -> None:
    data = as_tiff(RGB16, "rgb", bigtiff=bigtiff)
    assert decoding.image_size(data, "image.tif") == RGB16.shape[:2]

"""Every supported format and depth, against tifffile, Pillow or the original pixels.

tifffile returns samples as they are stored, which is correct for gray and RGB.
"""

import io
import struct
import tomllib
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from PIL import Image, ImageCms
from skimage import data

from rescale_data import decoding
from rescale_data.hr_dataset import HRImageDataset
from rescale_data.image_file import ImageFileError, decode_image, write_image

Pixels = npt.NDArray[Any]

RGB: Pixels = data.astronaut()[:50, 60:133]
LOW_BITS = np.random.default_rng(0).integers(0, 256, (*RGB.shape[:2], 4), dtype=np.uint16)
RGBA16: Pixels = np.dstack([RGB, RGB[..., 1]]).astype(np.uint16) * 256 + LOW_BITS
RGB16: Pixels = RGBA16[..., :3].copy()
GRAY, GRAY16 = RGB[..., 0].copy(), RGB16[..., 0].copy()


def as_tiff(pixels: Pixels, photometric: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric=photometric, **options)
    return buffer.getvalue()


def by_pillow(image: Image.Image | Pixels, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def by_opencv(pixels: Pixels, suffix: str, *options: int) -> bytes:
    content: bytes = cv2.imencode(suffix, pixels[..., ::-1], options)[1].tobytes()
    return content


def pillow_rgb(content: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


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
    assert (decode_image(by_pillow(RGB, "TIFF", compression=compression), "x") == RGB).all()
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
    content = by_pillow(Image.fromarray(RGB).convert(mode), "TIFF")
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
        content = by_pillow(Image.fromarray(RGB).convert(mode), "TIFF", compression=compression)
        assert (decode_image(content, "x") == pillow_rgb(content)).all()


def test_lab_tiff_has_the_colors_that_it_was_made_from():
    """libtiff, and thus OpenCV, does not use the white point of sRGB: red is off by 14 levels."""
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
    lab = ImageCms.applyTransform(Image.fromarray(RGB), transform)
    content = by_pillow(lab, "TIFF")
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


def png16(pixels: Pixels, color_type: int) -> bytes:
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
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
        content = by_pillow(Image.fromarray(RGB).quantize(2**bits), "PNG", bits=bits)
        assert (decode_image(content, "x") == pillow_rgb(content)).all()
    content = by_pillow(RGB, "PNG", transparency=tuple(map(int, RGB[3, 3])))
    assert (decode_image(content, "x") == RGB).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [True, False])
def test_webp(mode, lossless):
    image = Image.fromarray((RGBA16 >> 8).astype(np.uint8)).convert(mode)
    content = by_pillow(image, "WEBP", lossless=lossless, exact=True)
    assert (decode_image(content, "x") == pillow_rgb(content)).all()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"keep_rgb": True}])
@pytest.mark.parametrize("quality", [50, 100])
def test_jpeg(options, quality):
    content = by_pillow(RGB, "JPEG", quality=quality, **options)
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
    content = by_pillow(image.convert("RGB") if file_format == "PPM" else image, file_format)
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
    for content in (pgm, by_pillow(GRAY16, "JPEG2000")):
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
        content = by_pillow(RGB, kind, exif=exif, **options)
    got = decode_image(content, "x")
    expected = TURNS[orientation](pixels.reshape(*GRAY.shape, -1))
    assert got.shape == (*expected.shape[:2], 3)
    bound = 4 if kind in ("JPEG", "AVIF") else 0
    assert np.abs(got.astype(int) - expected).mean() <= bound


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about EXIF
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"rowsperstrip": 7}])
def test_a_truncated_tiff_is_an_error(depth, options):
    content = as_tiff(RGB16 if depth == 16 else RGB, "rgb", **options)
    for part in (0.001, 0.1, 0.5, 0.99):
        with pytest.raises(ImageFileError, match=r"cut\.tif: "):
            decode_image(content[: int(len(content) * part)], "cut.tif")


@pytest.mark.parametrize("file_format", ["BMP", "WEBP", "GIF", "JPEG2000", "PPM"])
def test_other_truncated_files_are_errors(file_format):
    content = by_pillow(RGB, file_format)
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
        content = bytearray(by_pillow(small, file_format))
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
    for content in (as_tiff(RGB, "rgb"), by_pillow(RGB, "BMP"), by_pillow(RGB, "PPM")):
        assert decode_image(content, "x").shape == RGB.shape


def test_running_out_of_memory_is_no_broken_image(monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(decoding, "open_with_pillow", fail)
    with pytest.raises(MemoryError):
        decode_image(by_pillow(RGB, "BMP"), "x")


def test_the_dataset_reads_16_bit_tiff_correctly(tmp_path):
    """Version 0.1 read it as noise."""
    (tmp_path / "a.tif").write_bytes(as_tiff(RGB16, "rgb"))
    write_image(tmp_path / "b.png", RGB)
    dataset = HRImageDataset({"name": "x", "phase": "val", "dataroot_gt": str(tmp_path)})
    from_tiff, from_png = (dataset[index]["gt"].numpy().transpose(1, 2, 0) for index in range(2))
    assert np.array_equal(from_tiff, (RGB16 / 65535).astype(np.float32))
    assert np.abs(from_tiff - from_png).max() < 1 / 255


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


# --- size -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file_format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "AVIF", "JPEG2000", "PPM"]
)
def test_the_size_is_read_from_the_header(file_format: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, file_format)
    assert decoding.image_size(buffer.getvalue(), "image") == RGB.shape[:2]


@pytest.mark.parametrize("bigtiff", [False, True])
def test_the_size_of_tiff_that_pillow_does_not_open(bigtiff: bool) -> None:
    data = as_tiff(RGB16, "rgb", bigtiff=bigtiff)
    assert decoding.image_size(data, "image.tif") == RGB16.shape[:2]


def test_the_size_is_known_without_the_pixels() -> None:
    buffer = io.BytesIO()
    Image.new("1", (30000, 20000)).save(buffer, "PNG")
    assert decoding.image_size(buffer.getvalue(), "large.png") == (20000, 30000)


@pytest.mark.parametrize("content", [b"", b"no image", b"II*\0", b"\x89PNG\r\n\x1a\nno"])
def test_a_file_that_is_not_an_image_has_no_size(content: bytes) -> None:
    with pytest.raises(ImageFileError, match=r"^image\.png: "):
        decoding.image_size(content, "image.png")

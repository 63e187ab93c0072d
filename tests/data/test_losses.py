"""Losses that reading a file may bring, and the warnings about them."""

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from encoded_images import encoded, png_chunk
from PIL import Image, ImageCms, PngImagePlugin
from skimage import data

from rescale_app import cli
from rescale_data.image_file import LRInfo, decode_image, write_image
from rescale_data.losses import Loss, side_data_and_losses

RGB = data.astronaut()[:48, 60:124]
IMAGE = Image.fromarray(RGB)
INFO = LRInfo("aidn", (2, 2), (96, 128), "sha256:0123456789abcdef")
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF/></x:xmpmeta>"


def as_tiff(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, metadata=None, **options)
    return buffer.getvalue()


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# With red and green exchanged.
OTHER_PROFILE = SRGB.replace(b"rXYZ", b"xXYZ").replace(b"gXYZ", b"rXYZ").replace(b"xXYZ", b"gXYZ")


def exif(**tags: object) -> Image.Exif:
    names = {"orientation": 274, "artist": 315, "resolution": 282, "software": 305}
    result = Image.Exif()
    for name, value in tags.items():
        result[names[name]] = value
    return result


def exif_of_camera() -> Image.Exif:
    result = exif(orientation=6)
    result.get_ifd(34665)[33434] = 0.01  # exposure time
    return result


def trivial_exif() -> Image.Exif:
    result = exif(orientation=6, resolution=72.0, software="x")
    result.get_ifd(34665).update({36864: b"0230", 40961: 1, 40962: 64, 40963: 48})
    return result


def with_alpha(lowest: int) -> Image.Image:
    image = IMAGE.convert("RGBA")
    image.putalpha(Image.fromarray(np.maximum(RGB[..., 0], lowest)))
    return image


def text_chunk(**texts: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    return info


def behind_the_pixels(content: bytes, kind: bytes) -> bytes:
    """A PNG with a chunk moved behind the pixels."""
    start = content.index(kind) - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    return content[:start] + content[end:-12] + content[start:end] + content[-12:]


def own(suffix: str, folder: Path) -> bytes:
    write_image(folder / f"own{suffix}", RGB, info=INFO)
    return (folder / f"own{suffix}").read_bytes()


def with_chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG with another chunk behind its header."""
    content = encoded(IMAGE, "PNG")
    return content[:33] + png_chunk(kind, body) + content[33:]


def chromaticity(*values: float) -> bytes:
    return struct.pack(">8I", *(round(value * 100_000) for value in values))


SRGB_POINTS = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
P3_POINTS = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)

FRAMES = {"save_all": True, "append_images": [IMAGE.rotate(90)] * 2}
LOSSY = {
    "GIF frames": (encoded(IMAGE, "GIF", **FRAMES), Loss.FRAMES),
    "WebP frames": (encoded(IMAGE, "WEBP", **FRAMES), Loss.FRAMES),
    "APNG frames": (encoded(IMAGE, "PNG", **FRAMES), Loss.FRAMES),
    "TIFF pages": (encoded(IMAGE, "TIFF", **FRAMES), Loss.FRAMES),
    "AVIF frames": (encoded(IMAGE, "AVIF", **FRAMES), Loss.FRAMES),
    "MPO images": (encoded(IMAGE, "MPO", **FRAMES), Loss.FRAMES),
    "CMYK JPEG": (encoded(IMAGE.convert("CMYK"), "JPEG"), Loss.COLORS),
    "CMYK TIFF": (encoded(IMAGE.convert("CMYK"), "TIFF"), Loss.COLORS),
    "PNG 16 bits": (cv2.imencode(".png", RGB.astype(np.uint16) * 257)[1].tobytes(), Loss.DEPTH),
    "TIFF 16 bits": (as_tiff(RGB.astype(np.uint16) * 257, photometric="rgb"), Loss.DEPTH),
    "TIFF 16 bits gray": (as_tiff(RGB[..., 0] * np.uint16(257)), Loss.DEPTH),
    "PNM 10 bits": (
        b"P6 64 48 1023\n" + (RGB.astype(">u2") * 4).tobytes(),
        Loss.DEPTH,
    ),
    "AVIF 10 bits": (
        cv2.imencode(".avif", RGB.astype(np.uint16) * 4, [cv2.IMWRITE_AVIF_DEPTH, 10])[1].tobytes(),
        Loss.DEPTH,
    ),
    "PNG gamma": (with_chunk(b"gAMA", struct.pack(">I", 100_000)), Loss.SPACE),
    "PNG chromaticity": (with_chunk(b"cHRM", chromaticity(*P3_POINTS)), Loss.SPACE),
    "PNG code points": (with_chunk(b"cICP", bytes([12, 13, 0, 1])), Loss.SPACE),
    "PNG text": (encoded(IMAGE, "PNG", pnginfo=text_chunk(Title="x")), Loss.METADATA),
    "JPEG EXIF": (encoded(IMAGE, "JPEG", exif=b"Exif\0\0MM\0*\0\0\1\0"), Loss.EXIF),
    "PNG EXIF": (encoded(IMAGE, "PNG", exif=b"Exif\0\0MM\0*\0\0\1\0"), Loss.EXIF),
    "JPEG XMP": (encoded(IMAGE, "JPEG", xmp=XMP), Loss.METADATA),
    "JPEG comment": (encoded(IMAGE, "JPEG", comment=b"hello"), Loss.METADATA),
    "WebP XMP": (encoded(IMAGE, "WEBP", xmp=XMP), Loss.METADATA),
    "TIFF XMP": (encoded(IMAGE, "TIFF", tiffinfo={700: XMP}), Loss.METADATA),
    "GIF comment": (encoded(IMAGE, "GIF", comment=b"hello"), Loss.METADATA),
}


@pytest.mark.parametrize(("content", "loss"), LOSSY.values(), ids=LOSSY)
def test_each_loss_is_found_and_no_other(content, loss):
    decode_image(content, "x")
    assert side_data_and_losses(content)[1] == [loss]


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("space", [b"GRAY", b"CMYK"])
def test_a_profile_of_another_color_space_is_a_loss(file_format, space):
    profile = SRGB[:16] + space + SRGB[20:]
    content = encoded(IMAGE.convert("L"), file_format, icc_profile=profile)
    assert side_data_and_losses(content)[1] in ([Loss.PROFILE], [Loss.UNKNOWN])


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_profile_of_rgb_is_none(file_format):
    for profile in (SRGB, OTHER_PROFILE):
        content = encoded(IMAGE, file_format, icc_profile=profile)
        side_data, losses = side_data_and_losses(content)
        assert side_data.profile == profile
        assert losses == []


def test_all_losses_of_a_file_are_found():
    content = encoded(
        IMAGE.convert("L"),
        "PNG",
        exif=b"Exif\0\0MM\0*\0\0\1\0",
        icc_profile=SRGB[:16] + b"CMYK" + SRGB[20:],
        pnginfo=text_chunk(Title="x"),
        save_all=True,
        append_images=[IMAGE.convert("L").rotate(90)],
    )
    losses = side_data_and_losses(content)[1]
    assert losses == [Loss.FRAMES, Loss.PROFILE, Loss.METADATA, Loss.EXIF]


LOSSLESS = {
    "alpha": encoded(with_alpha(0), "PNG"),
    "EXIF behind": behind_the_pixels(encoded(IMAGE, "PNG", exif=exif(artist="me")), b"eXIf"),
    "EXIF of camera": encoded(IMAGE, "JPEG", exif=exif_of_camera()),
    "EXIF in WebP": encoded(IMAGE, "WEBP", exif=exif(artist="me")),
    "TIFF tags": encoded(IMAGE, "TIFF", tiffinfo={315: "me"}),
    "opaque alpha": encoded(with_alpha(255), "PNG"),
    "opaque TIFF": encoded(with_alpha(255), "TIFF"),
    "orientation": encoded(IMAGE, "JPEG", exif=exif(orientation=6)),
    "orientation in PNG": encoded(IMAGE, "PNG", exif=exif(orientation=6)),
    "orientation in WebP": encoded(IMAGE, "WEBP", exif=exif(orientation=6)),
    "what describes the file": encoded(IMAGE, "JPEG", exif=trivial_exif(), dpi=(72, 72)),
    "program in PNG": encoded(IMAGE, "PNG", pnginfo=text_chunk(Software="x"), dpi=(72, 72)),
    "sRGB gamma": with_chunk(b"gAMA", struct.pack(">I", 45_455)),
    "sRGB chromaticity": with_chunk(b"cHRM", chromaticity(*SRGB_POINTS)),
    "sRGB code points": with_chunk(b"cICP", bytes([1, 13, 0, 1])),
    "sRGB chunk": with_chunk(b"sRGB", b"\0"),
    "JPEG": encoded(IMAGE, "JPEG"),
    "gray": encoded(IMAGE.convert("L"), "PNG"),
    "palette": encoded(IMAGE.quantize(16), "PNG"),
    "TIFF": as_tiff(RGB, photometric="rgb"),
    "compressed TIFF": encoded(IMAGE, "TIFF", compression="tiff_lzw", dpi=(300, 300)),
    "BMP": encoded(IMAGE, "BMP"),
    "GIF": encoded(IMAGE, "GIF"),
    "WebP": encoded(IMAGE, "WEBP"),
    "AVIF": encoded(IMAGE, "AVIF"),
    "JPEG 2000": encoded(IMAGE, "JPEG2000"),
    "PNM": encoded(IMAGE, "PPM"),
}


@pytest.mark.parametrize("content", LOSSLESS.values(), ids=LOSSLESS)
def test_nothing_is_reported_where_nothing_is_lost(content):
    assert side_data_and_losses(content)[1] == []


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_own_files_lose_nothing(tmp_path, suffix):
    assert side_data_and_losses(own(suffix, tmp_path))[1] == []


def test_metadata_that_cannot_be_read_is_a_loss_of_its_own():
    content = encoded(IMAGE, "JPEG", icc_profile=b"no profile")
    assert decode_image(content, "x").shape == RGB.shape
    assert side_data_and_losses(content)[1] == [Loss.UNKNOWN]


def warnings_of(capsys) -> list[str]:
    return [
        line.removeprefix("rescale: warning: ")
        for line in capsys.readouterr().err.splitlines()
        if line.startswith("rescale: warning: ")
    ]


def test_down_and_up_warn_of_what_a_file_loses(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content = encoded(with_alpha(0), "PNG", exif=exif(artist="me"), pnginfo=text_chunk(Title="x"))
    Path("a.png").write_bytes(content)
    assert cli.main(["down", "a.png", "-s", "2", "-o", "lr.png"]) == 0
    assert warnings_of(capsys) == [f"a.png: {Loss.METADATA.value}"]
    assert cli.main(["down", "a.png", "-s", "2", "-o", "lr.png", "--strip"]) == 0
    assert warnings_of(capsys) == []
    assert cli.main(["up", "lr.png", "-o", "hr.png"]) == 0
    assert warnings_of(capsys) == []
    lr = Image.open("lr.png")
    lr.save("more.png", save_all=True, append_images=[lr.rotate(180)])
    arguments = ["-s", "2", "--size", "64x48"]
    assert cli.main(["up", "more.png", *arguments, "-o", "hr.png"]) == 0
    # The other warning is that the record is gone.
    assert warnings_of(capsys)[1:] == ["more.png: only the first of several images is read"]


def test_compare_warns_of_what_bears_on_its_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(encoded(with_alpha(0), "PNG", exif=exif(artist="me")))
    assert cli.main(["compare", "a.png"]) == 0
    assert warnings_of(capsys) == ["a.png: transparency is ignored"]


def test_a_folder_gets_one_line_for_each_kind_of_loss(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for name in "abc":
        content = encoded(IMAGE, "PNG", pnginfo=text_chunk(Title="x"))
        Path("in", f"{name}.png").write_bytes(content)
    Path("in", "d.tif").write_bytes(as_tiff(RGB.astype(np.uint16) * 257, photometric="rgb"))
    Path("in", "e.png").write_bytes(encoded(IMAGE, "PNG"))
    assert cli.main(["down", "in", "-s", "2", "-o", "out"]) == 0
    assert warnings_of(capsys) == [
        f"in/a.png and 2 more: {Loss.METADATA.value}",
        f"in/d.tif: {Loss.DEPTH.value}",
    ]


def test_pillow_prints_nothing_besides_the_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content = as_tiff(RGB, photometric="rgb")
    Path("cut.tif").write_bytes(content[:20])
    assert cli.main(["down", "cut.tif", "-s", "2", "-o", "lr.png"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("rescale: error: cut.tif: broken")

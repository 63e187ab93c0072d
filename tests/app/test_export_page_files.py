"""Files in the JavaScript of the exported page, run by Node.js."""

import base64
import io
import json
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported_page import INFO, PIXELS
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from side_data_images import P3, camera_exif

from rescale_app.export import web_page
from rescale_arch import imresize
from rescale_data.exif import carried_exif, exif_with_info
from rescale_data.image_file import read_info, write_image
from rescale_data.losses import Loss, side_data_and_losses
from rescale_data.pixels import to_pixels
from rescale_data.side_data import SideData

WEB = Path(web_page.__file__).parent / "web"
IMAGE_HISTORY = 0x9213

LIBRARY = """
import { readFileSync } from "node:fs";
const web = process.argv[1];
const given = JSON.parse(readFileSync(0, "utf8"));
const fromBase64 = (text) => new Uint8Array(Buffer.from(text, "base64"));
const toBase64 = (bytes) => (bytes ? Buffer.from(bytes).toString("base64") : null);
"""


def node(script: str, given: Any) -> Any:
    """Runs a script that prints JSON; ``given`` is there what is passed here."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("needs Node.js")
    command = (program, "--input-type=module", "--eval", LIBRARY + script, WEB.as_uri())
    done = subprocess.run(
        command, input=json.dumps(given), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def read(*files: bytes) -> list[Any]:
    """What the page reads of files."""
    script = """
    const { FileError, readRecord } = await import(`${web}/record.js`);
    const { carriedExif } = await import(`${web}/exif.js`);
    const results = [];
    for (const text of given) {
      try {
        const { profile, exif, losses, ...rest } = await readRecord(fromBase64(text));
        let carried = null;
        try {
          if (exif) carried = carriedExif(exif, [20, 30]);
        } catch (error) {
          if (!(error instanceof RangeError)) throw error;
          losses.add("exif");
        }
        const held = { profile: toBase64(profile), exif: toBase64(carried), losses: [...losses] };
        results.push({ ...rest, ...held });
      } catch (error) {
        if (!(error instanceof FileError)) throw error;
        results.push({ error: error.message });
      }
    }
    console.log(JSON.stringify(results));
    """
    results: list[Any] = node(script, [text_of(content) for content in files])
    return results


def encoded(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **options)
    return buffer.getvalue()


def text_chunks(*texts: tuple[str, str, bool, bool]) -> PngInfo:
    info = PngInfo()
    for key, text, compressed, international in texts:
        (info.add_itxt if international else info.add_text)(key, text, zip=compressed)
    return info


def exif() -> bytes:
    entries = Image.Exif()
    entries[IMAGE_HISTORY] = f"edited\nrescale:{INFO.to_json()}"
    return entries.tobytes()


# --- records --------------------------------------------------------------------------------------


def test_records_are_read_wherever_they_are() -> None:
    line = INFO.to_json()
    raw = f"\nexif\n{len(exif()):8}\n{exif().hex()}"
    files = [
        *(
            encoded("PNG", pnginfo=text_chunks(("Title", "x", False, False), text))
            for text in (
                ("rescale", line, False, False),
                ("rescale", line, True, False),
                ("rescale", line, False, True),
                ("rescale", line, True, True),
                ("Raw profile type exif", raw, True, False),
            )
        ),
        encoded("JPEG", comment=f"rescale:{line}".encode()),
        encoded("PNG", exif=exif()),
        encoded("JPEG", exif=exif()),
        encoded("WEBP", lossless=True, exif=exif()),
        encoded("WEBP", quality=80, exif=exif()),
    ]
    found = read(*files)
    expected = json.loads(line)
    assert [entry["record"] for entry in found] == [expected] * len(files)
    assert [entry["lossless"] for entry in found] == [True] * 5 + [False, True, False, True, False]


def test_files_of_the_command_have_records(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.webp"):
        write_image(tmp_path / name, PIXELS, info=INFO)
        (found,) = read((tmp_path / name).read_bytes())
        assert found["record"] == json.loads(INFO.to_json())
        assert (found["profile"], found["exif"], found["losses"]) == (None, None, [])


def test_files_without_a_record() -> None:
    found = read(encoded("PNG"), encoded("JPEG", comment=b"mine"), encoded("WEBP"))
    assert [entry["record"] for entry in found] == [None] * 3


def test_names_of_files_may_state_the_size() -> None:
    script = """
    const { hintInName } = await import(`${web}/record.js`);
    console.log(JSON.stringify(hintInName(given)));
    """
    hint = node(script, "a.s2.1x1.b.s2.5x1.5.30x20 (1).png")
    assert hint == {"scale": [2.5, 1.5], "size": [20, 30]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GIF89a", "is not a PNG, JPEG or WebP file"),
        (encoded("PNG")[:-20], "is damaged or incomplete"),
        (encoded("JPEG")[:40], "is damaged or incomplete"),
        (encoded("JPEG", comment=b"rescale:{"), "has a malformed record"),
        (encoded("JPEG", comment=b'rescale:{"version":1}'), "has a malformed record"),
        (encoded("JPEG", comment=b'rescale:{"version":2}'), "was written by a later version"),
    ],
)
def test_other_files_are_refused(content: bytes, message: str) -> None:
    (found,) = read(content)
    assert found["error"].startswith(message)


@settings(max_examples=10)
@given(st.data())
def test_damaged_files_end_in_a_message(choice: st.DataObject) -> None:
    files = []
    sources = [
        encoded(kind, exif=details, icc_profile=P3)
        for kind in ("PNG", "JPEG", "WEBP")
        for details in (exif(), camera_exif())
    ]
    for source in sources:
        for _ in range(25):
            damaged = bytearray(source)
            for _ in range(choice.draw(st.integers(1, 4))):
                damaged[choice.draw(st.integers(2, len(source) - 1))] = choice.draw(
                    st.integers(0, 255)
                )
            files.append(bytes(damaged[: choice.draw(st.integers(12, len(source)))]))
    assert len(read(*files)) == len(files)


# --- what files hold beside their pixels ----------------------------------------------------------


def with_chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG with a chunk behind its header."""
    chunk = struct.pack(">I", len(body)) + kind + body
    content = encoded("PNG")
    return content[:33] + chunk + struct.pack(">I", zlib.crc32(kind + body)) + content[33:]


def frames(kind: str) -> bytes:
    buffer = io.BytesIO()
    first, second = Image.fromarray(PIXELS), Image.fromarray(PIXELS + np.uint8(9))
    first.save(buffer, kind, save_all=True, append_images=[second])
    return buffer.getvalue()


def of_mode(kind: str, mode: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
PHOTOSHOP = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x0d\x1c\x02\x50\0\x08Somebody\0"
PRIMARIES = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
HELD: dict[str, Callable[[], bytes]] = {
    "bare.png": lambda: encoded("PNG"),
    "bare.jpg": lambda: encoded("JPEG"),
    "bare.webp": lambda: encoded("WEBP"),
    "p3.png": lambda: encoded("PNG", icc_profile=P3, exif=camera_exif()),
    "p3.jpg": lambda: encoded("JPEG", icc_profile=P3, exif=camera_exif()),
    "p3.webp": lambda: encoded("WEBP", icc_profile=P3, exif=camera_exif()),
    "long profile.jpg": lambda: encoded("JPEG", icc_profile=P3 + bytes(200_000)),
    "history.jpg": lambda: encoded("JPEG", exif=exif()),
    "lab profile.png": lambda: encoded("PNG", icc_profile=LAB),
    "lab profile.jpg": lambda: encoded("JPEG", icc_profile=LAB),
    "frames.png": lambda: frames("PNG"),
    "frames.webp": lambda: frames("WEBP"),
    "cmyk.jpg": lambda: of_mode("JPEG", "CMYK"),
    "cicp.png": lambda: with_chunk(b"cICP", bytes([12, 13, 0, 1])),
    "srgb cicp.png": lambda: with_chunk(b"cICP", bytes([1, 13, 0, 1])),
    "gamma.png": lambda: with_chunk(b"gAMA", struct.pack(">I", 100000)),
    "srgb gamma.png": lambda: with_chunk(b"gAMA", struct.pack(">I", 45455)),
    "primaries.png": lambda: with_chunk(b"cHRM", struct.pack(">8I", *PRIMARIES)),
    "srgb.png": lambda: with_chunk(b"sRGB", b"\0"),
    "text.png": lambda: encoded("PNG", pnginfo=text_chunks(("Title", "x", False, False))),
    "xmp.png": lambda: encoded(
        "PNG", pnginfo=text_chunks(("XML:com.adobe.xmp", "<x/>", False, True))
    ),
    "trivial.png": lambda: encoded("PNG", pnginfo=text_chunks(("Software", "x", False, False))),
    "comment.jpg": lambda: encoded("JPEG", comment=b"mine"),
    "xmp.jpg": lambda: encoded("JPEG", xmp=b"<x/>"),
    "iptc.jpg": lambda: (
        encoded("JPEG")[:2]
        + b"\xff\xed"
        + struct.pack(">H", len(PHOTOSHOP) + 2)
        + PHOTOSHOP
        + encoded("JPEG")[2:]
    ),
    "xmp.webp": lambda: encoded("WEBP", xmp=b"<x/>"),
    "broken exif.png": lambda: with_chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
    "broken exif.jpg": lambda: encoded("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09"),
}


@pytest.mark.parametrize("name", HELD)
def test_side_data_and_losses_are_those_of_the_command(name: str) -> None:
    content = HELD[name]()
    (found,) = read(content)
    side_data, losses = side_data_and_losses(content)
    assert found["losses"] == [loss.name.lower() for loss in losses]
    assert (found["profile"] and base64.b64decode(found["profile"])) == side_data.profile
    carried = exif_with_info(side_data.exif, None, (20, 30))
    assert (found["exif"] is None) == (carried is None)
    if carried is not None:  # places in the structure differ
        assert carried_exif(base64.b64decode(found["exif"])) == carried


def test_16_bits_are_told_of() -> None:
    content = of_mode("PNG", "I;16")
    (found,) = read(content)
    assert found["losses"] == ["depth"]
    assert side_data_and_losses(content)[1] == [Loss.DEPTH]


def test_every_loss_has_words() -> None:
    script = "console.log(JSON.stringify((await import(`${web}/containers.js`)).LOSSES));"
    assert {*node(script, None)} | {"unknown"} == {loss.name.lower() for loss in Loss}


# --- what is written ------------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(0, 2**32 - 1))
def test_png_files_hold_what_they_are_given(
    height: int, width: int, has_alpha: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    script = """
    const { encodePng } = await import(`${web}/png.js`);
    const [pixels, profile, exif] = given.parts.map(fromBase64);
    const { width, height, hasAlpha } = given;
    const blob = await encodePng(pixels, width, height, { hasAlpha, profile, exif });
    console.log(JSON.stringify(toBase64(await blob.arrayBuffer())));
    """
    details = carried_exif(camera_exif())
    assert details is not None
    values = {"width": width, "height": height, "hasAlpha": has_alpha}
    parts = [text_of(each) for each in (pixels.tobytes(), P3, details)]
    file = base64.b64decode(node(script, {**values, "parts": parts}))
    with Image.open(io.BytesIO(file)) as image:
        image.load()  # checks the checksums
        assert image.info["icc_profile"] == P3
        assert image.info["exif"] == b"Exif\0\0" + details
        assert np.array_equal(np.asarray(image), pixels if has_alpha else pixels[..., :3])
    side_data, losses = side_data_and_losses(file)
    assert losses == []
    assert side_data.profile == P3 and side_data.exif == details


@settings(max_examples=15)
@given(
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.tuples(st.floats(1, 4), st.floats(1, 4)),
    st.integers(0, 2**32 - 1),
)
def test_transparency_is_enlarged_as_by_the_command(
    small: tuple[int, int], scale: tuple[float, float], seed: int
) -> None:
    alpha = np.random.default_rng(seed).integers(0, 256, small, dtype=np.uint8)
    size = tuple(int(side * factor) for side, factor in zip(small, scale, strict=True))
    script = """
    const { enlarge } = await import(`${web}/bicubic.js`);
    const [samples, inSize, size, scale] = given;
    console.log(JSON.stringify([...enlarge(samples, inSize, size, scale)]));
    """
    found = np.reshape(node(script, [alpha.ravel().tolist(), small, size, scale]), size)
    exact = imresize(torch.from_numpy(alpha / 255)[None, None], size, scale)
    expected = to_pixels(exact)[..., 0]
    assert np.abs(found - expected).max() <= 1
    assert (found == expected).mean() > 0.99


def test_restored_files_are_no_lr_files(tmp_path: Path) -> None:
    """The record is not carried: neither in EXIF nor in a text."""
    path = tmp_path / "lr.jpg"
    write_image(path, PIXELS, info=INFO, side_data=SideData(exif=carried_exif(camera_exif())))
    assert read_info(path) == INFO
    (found,) = read(path.read_bytes())
    carried = base64.b64decode(found["exif"])
    assert b"rescale:" not in carried
    Image.fromarray(PIXELS).save(tmp_path / "restored.png", exif=carried)
    assert read_info(tmp_path / "restored.png") is None

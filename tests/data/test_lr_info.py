"""The record that an LR image carries in its file."""

import itertools
import json
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from encoded_images import INFO, MODES, encoded, png_chunk
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rescale_data.image_file import (
    ImageFileError,
    LRInfo,
    read_image,
    read_info,
    write_image,
)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp"])
def test_other_readers_open_a_file_with_info(tmp_path, hr_image, suffix):
    path = tmp_path / f"a{suffix}"
    write_image(path, hr_image, info=INFO)
    assert read_info(path) == INFO
    with Image.open(path) as image:
        image.load()
        assert image.size == (150, 120)
    assert cv2.imread(os.fspath(path)).shape == hr_image.shape


infos = st.builds(
    LRInfo,
    st.sampled_from(["aidn"]),
    st.tuples(*[st.floats(1, 4)] * 2),
    st.tuples(*[st.integers(1, 10**7)] * 2),
    st.text(min_size=1, max_size=100),
)


@settings(deadline=None)
@given(infos, st.sampled_from([".png", ".jpg", ".webp"]))
def test_info_comes_back_exactly(tmp_path_factory, info, suffix):
    path = tmp_path_factory.getbasetemp() / f"info{suffix}"
    write_image(path, np.zeros((2, 3, 3), np.uint8), info=info)
    assert read_info(path) == info


def test_plain_images_carry_nothing(tmp_path, hr_image):
    for suffix, (file_format, mode) in itertools.product((".png", ".bin"), MODES):
        path = tmp_path / f"plain{suffix}"
        path.write_bytes(encoded(hr_image, file_format, mode))
        assert read_info(path) is None


def test_comments_of_others_do_not_hide_the_info(tmp_path, hr_image):
    path = tmp_path / "a.jpg"
    write_image(path, hr_image, info=INFO)
    content = path.read_bytes()
    comment = b"made by another tool"
    segment = b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment
    table = content.index(b"\xff\xdb")
    path.write_bytes(content[:table] + segment + content[table:])
    assert read_info(path) == INFO
    path.write_bytes(content[:2] + segment + content[2:])
    assert read_info(path) == INFO


def test_a_chunk_behind_the_pixels_is_found(tmp_path, hr_image):
    path = tmp_path / "a.png"
    write_image(path, hr_image)
    content = path.read_bytes()
    chunk = png_chunk(b"tEXt", b"rescale\0" + INFO.to_json().encode())
    path.write_bytes(content[:-12] + chunk + content[-12:])
    assert read_info(path) == INFO


def test_reading_the_info_of_a_png_decodes_no_pixels(tmp_path, hr_image):
    path = tmp_path / "a.png"
    for options in ({}, {"info": INFO}):
        write_image(path, hr_image, **options)
        content = path.read_bytes()
        start = content.index(b"IDAT")
        path.write_bytes(content[: start + 99] + bytes(9) + content[start + 108 :])
        with pytest.raises(ImageFileError):
            read_image(path)
        assert read_info(path) == options.get("info")


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_other_kinds_of_text_chunks_are_read(tmp_path, hr_image, kind):
    text = INFO.to_json().encode()
    body = {
        b"zTXt": b"rescale\0\0" + zlib.compress(text),
        b"iTXt": b"rescale\0\0\0\0\0" + text,
    }[kind]
    chunk = png_chunk(kind, body)
    content = encoded(hr_image, "PNG")
    path = tmp_path / "a.png"
    for place in (33, len(content) - 12):  # before the pixels, and behind them
        path.write_bytes(content[:place] + chunk + content[place:])
        assert read_info(path) == INFO
    path.write_bytes(content[:33] + chunk[:-1] + b"?" + content[33:])
    with pytest.raises(ImageFileError, match=r"a\.png: broken image file \(.*checksum"):
        read_info(path)


GOOD = json.loads(INFO.to_json())
MALFORMED = [
    {"scale": [0.99, 2]},
    {"scale": [2, 256.5]},
    {"scale": [float("nan"), 2]},
    {"scale": [float("inf"), 2]},
    {"scale": [10**400, 2]},
    {"scale": [2]},
    {"scale": "22"},
    {"scale": [True, 2]},
    {"scale": 2},
    {"network": "other", "scale": [0.5, 2]},
    {"size": [0, 5]},
    {"size": [5, -5]},
    {"size": [5.0, 5]},
    {"size": [True, 5]},
    {"size": None},
    {"network": ""},
    {"network": ["aidn"]},
    {"weights": None},
    {"version": 2},
    {"more": 1},
]


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize(
    "text",
    [json.dumps(GOOD | change) for change in MALFORMED]
    + ["", "no json", "[]", "null", "{}", "[" * 20_000, "__import__('os').abort()"],
    ids=lambda text: text[:60],
)
def test_malformed_info_is_an_error_that_names_the_file(tmp_path, text, suffix):
    path = tmp_path / f"bad{suffix}"
    image = Image.new("RGB", (4, 4))
    if suffix == ".png":
        content = bytearray(encoded(image, "PNG"))
        content[33:33] = png_chunk(b"tEXt", b"rescale\0" + text.encode())
        path.write_bytes(content)
    else:
        image.save(path, comment=f"rescale:{text}")
    with pytest.raises(ValueError, match=r"bad\.(png|jpg): malformed record: "):
        read_info(path)

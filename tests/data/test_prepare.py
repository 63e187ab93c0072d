"""Preparing data: sub-images, cropped images, LMDB and lists of images."""

import os
import re
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared_data import noise, stored

from rescale_data import prepare
from rescale_data.image_file import decode_image, read_image, write_image
from rescale_data.prepare import (
    build_lmdb,
    crop_to_multiple,
    extract_sub_images,
    write_meta_info,
)


def basicsr_starts(side: int, size: int, step: int, threshold: int) -> list[int]:
    """The rule of BasicSR's extract_subimages."""
    space = np.arange(0, side - size + 1, step)
    if side - (space[-1] + size) > threshold:
        space = np.append(space, side - size)
    return space.tolist()


def test_sub_images_lie_where_basicsr_puts_them(tmp_path, source):
    size, step, threshold = 20, 12, 5
    assert extract_sub_images(source, tmp_path / "out", size, step, threshold) == 3
    expected = {}
    for name in ("a.png", "b c.jpg", "d.bmp"):
        image = read_image(source / name)
        rows, columns = (basicsr_starts(n, size, step, threshold) for n in image.shape[:2])
        corners = [(y, x) for y in rows for x in columns]
        for number, (y, x) in enumerate(corners, 1):
            crop = image[y : y + size, x : x + size]
            expected[f"{Path(name).stem}_s{number:03d}.png"] = crop
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(expected)
    for name, crop in expected.items():
        assert (read_image(tmp_path / "out" / name) == crop).all()
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(8, 40), st.integers(4, 40))
def test_sub_images_cover_the_image(tmp_path_factory, height, width, size, step):
    folder = tmp_path_factory.mktemp("cover")
    (folder / "in").mkdir()
    image = noise(height, width)
    write_image(folder / "in" / "a.png", image)
    extract_sub_images(folder / "in", folder / "out", size, min(step, size), workers=1)
    seen = set()
    for path in (folder / "out").iterdir():
        crop = read_image(path)
        assert crop.shape[:2] == (min(size, height), min(size, width))
        seen.update(map(bytes, crop.reshape(-1, 3)))
    assert seen == set(map(bytes, image.reshape(-1, 3)))


def test_mod_crop(tmp_path, source):
    crop_to_multiple(source, tmp_path / "out", 12)
    shapes = {p.name: read_image(p).shape for p in (tmp_path / "out").iterdir()}
    assert shapes == {"a.png": (48, 60, 3), "b c.png": (36, 36, 3), "d.png": (24, 84, 3)}
    assert (read_image(tmp_path / "out" / "a.png") == noise(50, 70, 1)[:48, :60]).all()


def test_sixteen_bits_stay(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2**16, (13, 14, 3), dtype=np.uint16)
    (tmp_path / "in").mkdir()
    cv2.imwrite(os.fspath(tmp_path / "in" / "a.png"), pixels)
    crop_to_multiple(tmp_path / "in", tmp_path / "out")
    assert (read_image(tmp_path / "out" / "a.png") == pixels[:12, :12, ::-1]).all()


def test_lmdb_is_in_basicsr_format(tmp_path, source):
    import rescale_compat  # noqa: F401

    pytest.importorskip("basicsr")
    from basicsr.data.paired_image_dataset import PairedImageDataset
    from basicsr.data.single_image_dataset import SingleImageDataset

    out = tmp_path / "out.lmdb"
    assert build_lmdb(source, out) == 3
    assert (out / "meta_info.txt").read_text() == (
        "a.png (50,70,3) 1\nb c.png (40,41,3) 1\nd.png (25,90,3) 1\n"
    )
    values = stored(out)
    assert set(values) == {"a", "b c", "d"}
    assert values["a"] == (source / "a.png").read_bytes()
    for name in ("a.png", "b c.jpg", "d.bmp"):
        assert (decode_image(values[Path(name).stem], "x") == read_image(source / name)).all()

    backend = {"type": "lmdb"}
    single = SingleImageDataset({"dataroot_lq": os.fspath(out), "io_backend": dict(backend)})
    paired = PairedImageDataset(
        {
            "dataroot_gt": os.fspath(out),
            "dataroot_lq": os.fspath(out),
            "io_backend": dict(backend),
            "scale": 1,
            "phase": "val",
        }
    )
    expected = {Path(p).stem: read_image(p) / 255 for p in source.iterdir()}
    items = [single[index] for index in range(len(single))]
    for item in items:
        got = item["lq"].permute(1, 2, 0).numpy()
        assert np.abs(got - expected[item["lq_path"]]).max() < 1e-6
    # lmdb allows one environment a process for each file, and these two ask for more.
    single.file_client.client._client["lq"].close()
    assert len(paired) == 3


def test_lmdb_map_grows(tmp_path, source, monkeypatch):
    monkeypatch.setattr(prepare, "FIRST_MAP_BYTES", 16384)
    for number in range(20):
        write_image(source / f"n{number:02d}.png", noise(32, 32, number))
    build_lmdb(source, tmp_path / "grown.lmdb")
    assert len(stored(tmp_path / "grown.lmdb")) == 23
    assert (tmp_path / "grown.lmdb" / "data.mdb").stat().st_size < 2**20


@pytest.mark.parametrize("name", ["two.dots.png", "größe.png", "tab\tin.png", "x" * 300 + ".png"])
def test_names_that_make_no_key(tmp_path, source, name, monkeypatch):
    monkeypatch.setattr(prepare, "MAX_KEY_BYTES", 200)  # file systems stop at 255 themselves
    write_image(source / "fine.png", noise(5, 5))
    os.rename(source / "fine.png", source / name[-250:])
    with pytest.raises(
        ValueError, match=f"{re.escape(name[-100:])}: the name is not a valid LMDB key"
    ):
        build_lmdb(source, tmp_path / "out.lmdb")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("make", [extract_sub_images, crop_to_multiple, build_lmdb])
def test_equal_names_are_an_error_that_gives_both(tmp_path, source, make):
    write_image(source / "a.jpg", noise(5, 5))
    with pytest.raises(ValueError, match=r"a\.png: has the same name as .*a\.jpg"):
        make(source, tmp_path / "out.lmdb")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_meta_info(tmp_path, source):
    (source / "sub").mkdir()
    write_image(source / "sub" / "e.png", noise(6, 7))
    assert write_meta_info(source, tmp_path / "list.txt") == 4
    assert (tmp_path / "list.txt").read_text().splitlines() == [
        "a.png (50,70,3)",
        "b c.jpg (40,41,3)",
        "d.bmp (25,90,3)",
        "sub/e.png (6,7,3)",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"in", "list.txt"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be at least 1, but is 0"),
        ({"step": -1}, "step must be at least 1"),
        ({"threshold": -1}, "threshold must be at least 0"),
        ({"workers": 0}, "workers must be at least 1"),
    ],
)
def test_numbers_out_of_range(tmp_path, source, arguments, message):
    with pytest.raises(ValueError, match=message):
        extract_sub_images(source, tmp_path / "out", **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two cores, and a way to keep to one of them",
)
def test_a_process_limited_to_one_core_uses_one_thread(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    for number in range(8):
        write_image(tmp_path / "in" / f"{number}.png", noise(20, 20, number))
    threads = set()

    def noted(content, name):
        threads.add(threading.get_ident())
        time.sleep(0.01)
        return decode_image(content, name)

    monkeypatch.setattr(prepare, "decode_image", noted)
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        write_meta_info(tmp_path / "in", tmp_path / "out.txt")
    finally:
        os.sched_setaffinity(0, cores)
    assert len(threads) == 1


def test_no_images(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(FileNotFoundError, match="in: no images"):
        write_meta_info(tmp_path / "in", tmp_path / "out.txt")
    with pytest.raises(FileNotFoundError, match="none"):
        build_lmdb(tmp_path / "none", tmp_path / "out.lmdb")


def test_an_lmdb_is_named_lmdb(tmp_path, source):
    with pytest.raises(ValueError, match=r"must end in \.lmdb"):
        build_lmdb(source, tmp_path / "out")

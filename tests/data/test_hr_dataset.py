"""Samples of HR images: whole images, crops, flips, sizes and depths."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hr_datasets import dataset, to_pixels
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rescale_data.image_file import (
    ImageFileError,
    list_images,
    read_image,
    to_float,
    write_image,
)
from rescale_data.prepare import write_meta_info
from rescale_data.unit_range import to_unit_range


def turned(image: np.ndarray) -> list[np.ndarray]:
    """The eight flips and quarter turns of an image."""
    return [np.rot90(side, quarter) for side in (image, image[:, ::-1]) for quarter in range(4)]


@pytest.mark.parametrize("kind", ["folder", "lmdb", "list"])
def test_whole_images(hr_folder, lmdb, tmp_path, kind):
    changes = {}
    if kind == "list":
        write_meta_info(hr_folder, tmp_path / "list.txt")
        changes["meta_info_file"] = os.fspath(tmp_path / "list.txt")
    root = lmdb if kind == "lmdb" else hr_folder
    items = dataset(root, phase="val", gt_size="absent", **changes)
    assert len(items) == 4
    for item, path in zip(items, list_images(hr_folder), strict=True):
        assert item["gt"].dtype == torch.float32
        assert item["gt"].is_contiguous()
        assert Path(item["gt_path"]).stem == path.stem
        assert (to_pixels(item["gt"]) == read_image(path)).all()
        assert (item["gt"] * 255 - (item["gt"] * 255).round()).abs().max() < 1e-4


def test_mod_crop_keeps_the_top_left(hr_folder):
    (item, *_) = dataset(hr_folder, phase="test", mod_crop=36)
    image = read_image(list_images(hr_folder)[0])
    assert item["gt"].shape == (3, 72, 72)
    assert (to_pixels(item["gt"]) == image[:72, :72]).all()
    with pytest.raises(ImageFileError, match=r"astronaut\.png: 96 x 96 pixels, smaller than mod_"):
        dataset(hr_folder, phase="val", mod_crop=97)[0]


def test_crops_are_parts_of_the_image(hr_folder):
    items = dataset(hr_folder)
    image = read_image(list_images(hr_folder)[1])
    windows = np.lib.stride_tricks.sliding_window_view(image, (32, 32), (0, 1))
    parts = {window.tobytes() for row in windows for window in row}
    seen, ways = set(), set()
    for seed in range(60):
        item = items[1, seed]
        assert item["gt"].shape == (3, 32, 32)
        assert item["gt"].is_contiguous()
        found = {
            way: crop.transpose(2, 0, 1).tobytes()
            for way, crop in enumerate(turned(to_pixels(item["gt"])))
            if crop.transpose(2, 0, 1).tobytes() in parts
        }
        assert len(found) == 1, f"seed {seed} gave something else than a part of the image"
        seen.update(found.values())
        ways.update(found)
    assert len(seen) > 50
    assert ways == set(range(8))


def test_corners_are_reached(tmp_path):
    write_image(tmp_path / "a.png", np.arange(27, dtype=np.uint8).reshape(3, 3, 3))
    items = dataset(tmp_path, gt_size=2, use_hflip=False, use_rot=False)
    corners = {int(items[0, seed]["gt"][0, 0, 0] * 255 + 0.5) for seed in range(100)}
    assert corners == {0, 3, 9, 12}


def test_without_flips_nothing_is_flipped(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    write_image(tmp_path / "a.png", image)
    seen = {}
    for hflip in (False, True):
        for rot in (False, True):
            items = dataset(tmp_path, gt_size=8, use_hflip=hflip, use_rot=rot)
            seen[hflip, rot] = {to_pixels(items[0, seed]["gt"]).tobytes() for seed in range(50)}
    assert seen[False, False] == {image.tobytes()}
    assert seen[True, False] == {image.tobytes(), image[:, ::-1].tobytes()}
    assert len(seen[False, True]) == 4
    assert len(seen[True, True]) == 8


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 40))
def test_small_images_are_reflected_up_to_size(tmp_path_factory, height, width, size):
    folder = tmp_path_factory.mktemp("small")
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    write_image(folder / "a.png", image)
    items = dataset(folder, gt_size=size, use_hflip=False, use_rot=False)
    crop = to_pixels(items[0]["gt"])
    assert crop.shape == (size, size, 3)
    for axis, side in enumerate((height, width)):
        if side < size:  # reflected, so it starts with all of the image and goes on mirrored
            lines = np.moveaxis(crop, axis, 0)
            period = max(1, 2 * side - 2)
            for position in range(size):
                bounce = position % period
                assert (lines[position] == lines[min(bounce, period - bounce)]).all()


def test_crops_of_full_and_half_size(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    write_image(tmp_path / "a.png", image)
    # at an exact half, bilinear is the mean of 2 x 2 pixels
    half = image.reshape(32, 2, 48, 2, 3).mean((1, 3))
    counts = {}
    for probability in (0, 0.25, 1):
        items = dataset(
            tmp_path,
            use_hflip=False,
            use_rot=False,
            gt_size=32,
            size_multiple=16,
            half_size_probability=probability,
        )
        halves = 0
        for seed in range(40):
            crop = to_pixels(items[0, seed]["gt"])
            is_full, is_half = (
                any(
                    np.abs(whole[top : top + 32, left : left + 32] - crop.astype(float)).max() < 1
                    for top in range(whole.shape[0] - 31)
                    for left in range(whole.shape[1] - 31)
                )
                for whole in (image.astype(float), half)
            )
            assert is_full != is_half
            halves += is_half
        counts[probability] = halves
    assert counts[0] == 0
    assert 3 <= counts[0.25] <= 20
    assert counts[1] == 40


@pytest.mark.parametrize(
    ("sides", "probability", "expected"),
    [
        ((50, 70), 0, (48, 64)),
        ((100, 134), 1, (48, 64)),
        ((48, 64), 0, (48, 64)),
        ((20, 9), 1, (16, 16)),
    ],
)
def test_sides_become_multiples_before_a_crop(tmp_path, sides, probability, expected):
    ramp = np.linspace(0, 255, sides[0])[:, None, None] * np.ones((1, sides[1], 3))
    write_image(tmp_path / "a.png", ramp.round().astype(np.uint8))
    size = max(expected)
    items = dataset(
        tmp_path,
        use_hflip=False,
        use_rot=False,
        gt_size=size,
        size_multiple=16,
        half_size_probability=probability,
    )
    crop = to_pixels(items[0]["gt"]).astype(int)
    # nothing is cut off: from black to white, and only then the reflection
    assert crop[0].max() <= 8
    assert crop[expected[0] - 1].min() >= 247
    assert (np.diff(crop[: expected[0], 0, 0]) >= 0).all()
    if expected[0] < size:
        assert (crop[expected[0]] == crop[expected[0] - 2]).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "I;16"])
def test_odd_modes(tmp_path, mode):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8))
    image.convert(mode).save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"))
    item = dataset(tmp_path)[0]
    assert item["gt"].shape == (3, 32, 32)
    assert 0 <= item["gt"].min() < item["gt"].max() <= 1


def test_sixteen_bits_stay_sixteen(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2**16, (9, 9, 3), dtype=np.uint16)
    cv2.imwrite(os.fspath(tmp_path / "a.png"), pixels)
    got = dataset(tmp_path, phase="val")[0]["gt"].permute(1, 2, 0).numpy()
    assert (np.round(got.astype(np.float64) * 65535) == pixels[..., ::-1]).all()


@pytest.mark.parametrize("phase", ["train", "val"])
def test_samples_left_in_eight_bits_become_the_same_floats(hr_folder, phase):
    floats, bytes_ = (
        dataset(hr_folder, phase=phase, half_size_probability=0.5, dtype=dtype)
        for dtype in ("float32", "uint8")
    )
    for index in range(4):
        sample = bytes_[index, 7 + index]
        assert sample["gt"].dtype == torch.uint8
        assert sample["gt"].is_contiguous()
        assert torch.equal(to_unit_range(sample["gt"]), floats[index, 7 + index]["gt"])
        assert sample["gt_path"] == floats[index]["gt_path"]


def test_sixteen_bits_are_never_cut_to_eight(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2**16, (9, 9, 3), dtype=np.uint16)
    cv2.imwrite(os.fspath(tmp_path / "a.png"), pixels)
    items = [dataset(tmp_path, phase="val", dtype=dtype)[0]["gt"] for dtype in ("float32", "uint8")]
    assert torch.equal(*items)
    with pytest.raises(
        ImageFileError, match=r"a\.png: has 16 bits per channel.* requires dtype: float32"
    ):
        dataset(tmp_path, dtype="uint8")[0]


def test_floats_pass_through_and_other_integers_are_refused():
    floats = torch.rand(3)
    assert to_unit_range(floats) is floats
    with pytest.raises(ValueError, match=r"uint8 or float, not torch\.int64"):
        to_unit_range(torch.ones(3, dtype=torch.int64))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_value_becomes_the_float_that_the_host_computes(device):
    values = np.arange(256, dtype=np.uint8)
    on_device = to_unit_range(torch.from_numpy(values).to(device)).cpu()
    assert torch.equal(on_device, torch.from_numpy(to_float(values)))

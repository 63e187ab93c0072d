import os
import pickle
import shutil
from pathlib import Path

import rescale_compat  # noqa: F401

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from rescale_data.hr_dataset import HRImageDataset
from rescale_data.image_file import (
    ImageFileError,
    list_images,
    read_image,
    to_float,
    write_image,
)
from rescale_data.prepare import build_lmdb, write_meta_info
from rescale_data.unit_range import to_unit_range


@pytest.fixture(scope="module")
def lmdb_folder(hr_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("lmdb") / "train.lmdb"
    build_lmdb(hr_folder, out)
    return out


def options(root, **changes) -> dict:
    opt = {
        "name": "Test",
        "type": "HRImageDataset",
        "phase": "train",
        "dataroot_gt": os.fspath(root),
        "io_backend": {"type": "lmdb" if os.fspath(root).endswith(".lmdb") else "disk"},
        "gt_size": 32,
        "use_hflip": True,
        "use_rot": True,
        "num_worker_per_gpu": 2,
        "batch_size_per_gpu": 2,
    }
    return {key: value for key, value in (opt | changes).items() if value != "absent"}


def dataset(root, **changes) -> HRImageDataset:
    return HRImageDataset(options(root, **changes))


def to_pixels(tensor: torch.Tensor) -> np.ndarray:
    return np.round(tensor.permute(1, 2, 0).numpy() * 255).astype(np.uint8)


def turned(image: np.ndarray) -> list[np.ndarray]:
    """The eight flips and quarter turns of an image."""
    return [np.rot90(side, quarter) for side in (image, image[:, ::-1]) for quarter in range(4)]


@pytest.mark.parametrize("kind", ["folder", "lmdb", "list"])
def test_whole_images(hr_folder, lmdb_folder, tmp_path, kind):
    changes = {}
    if kind == "list":
        write_meta_info(hr_folder, tmp_path / "list.txt")
        changes["meta_info_file"] = os.fspath(tmp_path / "list.txt")
    root = lmdb_folder if kind == "lmdb" else hr_folder
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


@pytest.mark.parametrize("lmdb_or_folder", ["folder", "lmdb"])
def test_a_pair_depends_on_its_seed_alone(hr_folder, lmdb_folder, lmdb_or_folder):
    items = dataset(lmdb_folder if lmdb_or_folder == "lmdb" else hr_folder)
    before = torch.get_rng_state()
    first = items[2, 123]["gt"]
    assert (torch.get_rng_state() == before).all()
    torch.manual_seed(99)
    assert (items[2, 123]["gt"] == first).all()
    assert (pickle.loads(pickle.dumps(items))[2, 123]["gt"] == first).all()
    assert any((items[2, seed]["gt"] != first).any() for seed in range(3))


def test_a_sample_draws_the_same_number_whatever_the_options(tmp_path):
    for number, side in enumerate((5, 32, 100)):
        write_image(tmp_path / f"{number}.png", np.zeros((side, side, 3), np.uint8))
    states = set()
    for flip in (True, False):
        halves = 0.5 if flip else "absent"
        items = dataset(tmp_path, use_hflip=flip, use_rot=flip, half_size_probability=halves)
        for index in range(3):
            torch.manual_seed(0)
            _ = items[index]
            states.add(torch.get_rng_state().numpy().tobytes())
    assert len(states) == 1


def test_validation_leaves_the_random_numbers_of_training_alone(hr_folder):
    before = torch.get_rng_state()
    _ = list(dataset(hr_folder, phase="val"))
    assert (torch.get_rng_state() == before).all()


def run_epochs(root, workers: int, epochs: int = 3, **changes) -> list[torch.Tensor]:
    """Epochs as BasicSR's runner has them, with its loader, sampler and seeding of workers."""
    from basicsr.data import build_dataloader
    from basicsr.data.data_sampler import EnlargedSampler

    opt = options(root, num_worker_per_gpu=workers, **changes)
    torch.manual_seed(7)
    items = HRImageDataset(opt)
    sampler = EnlargedSampler(items, 1, 0, 2)
    loader = build_dataloader(items, opt, num_gpu=1, dist=False, sampler=sampler, seed=7)
    result = []
    for _ in range(epochs):
        sampler.set_epoch(0)  # the same order of images in every epoch, to compare crops
        result.append(torch.cat([batch["gt"] for batch in loader]))
    return result


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_crops_differ_between_epochs_and_are_the_same_after_the_same_seed(lmdb_folder, workers):
    first = run_epochs(lmdb_folder, workers)
    for epoch, again in zip(first, run_epochs(lmdb_folder, workers), strict=True):
        assert (epoch == again).all()
    for one, other in ((0, 1), (1, 2), (0, 2)):
        same = (first[one] == first[other]).flatten(1).all(1)
        assert same.sum() <= 1, "BasicSR's workers draw the same crops in every epoch"


def test_crops_differ_between_workers(tmp_path):
    # One image again and again, so that the samples of a batch come from one worker each.
    write_image(
        tmp_path / "a.png",
        np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8),
    )
    (epoch,) = run_epochs(tmp_path, 2, epochs=1, batch_size_per_gpu=1)
    assert len(epoch) == 2
    assert (epoch[0] != epoch[1]).any()


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_lmdb_in_workers_after_use_in_the_main_process(lmdb_folder, context):
    train, val = dataset(lmdb_folder), dataset(lmdb_folder, phase="val")
    expected = [train[0, 5]["gt"], train[1, 6]["gt"]]
    assert len(list(val)) == 4
    loader = DataLoader(
        train,
        batch_size=None,
        sampler=[(0, 5), (1, 6)],
        num_workers=2,
        multiprocessing_context=context,
    )
    for got, item in zip(expected, loader, strict=True):
        assert (got == item["gt"]).all()
    assert (train[0, 5]["gt"] == expected[0]).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_even_from_a_worker(hr_folder, tmp_path, workers):
    shutil.copytree(hr_folder, tmp_path / "in")
    path = tmp_path / "in" / "coffee.png"
    path.write_bytes(path.read_bytes()[:-100])
    loader = DataLoader(dataset(tmp_path / "in"), batch_size=2, num_workers=workers)
    with pytest.raises(OSError, match=r"in/coffee\.png: truncated"):
        list(loader)


def test_an_lmdb_that_lacks_images(lmdb_folder, tmp_path):
    folder = tmp_path / "short.lmdb"
    shutil.copytree(lmdb_folder, folder)
    lines = (folder / "meta_info.txt").read_text()
    (folder / "meta_info.txt").write_text(lines.replace("coffee", "tea"))
    with pytest.raises(ImageFileError, match=r"short\.lmdb: there is no image under the key 'te"):
        list(dataset(folder, phase="val"))
    (folder / "meta_info.txt").write_text(lines + "more.png (5,5,3) 1\n")
    with pytest.raises(FileNotFoundError, match=r"data\.mdb holds 4 images, meta_info\.txt .* 5"):
        dataset(folder)
    (folder / "meta_info.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=r"short\.lmdb: no images"):
        dataset(folder)
    (folder / "meta_info.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"short\.lmdb: there is no meta_info\.txt"):
        dataset(folder)
    (folder / "meta_info.txt").write_text(lines)
    (folder / "data.mdb").unlink()
    with pytest.raises(FileNotFoundError, match=r"short\.lmdb: there is no data\.mdb"):
        dataset(folder)
    (folder / "data.mdb").write_bytes(b"no data base" * 1000)
    with pytest.raises(OSError, match=r"short\.lmdb: LMDB cannot be opened"):
        dataset(folder)


def test_an_lmdb_that_was_made_anew_under_the_same_name(hr_folder, lmdb_folder, tmp_path):
    folder = tmp_path / "a.lmdb"
    shutil.copytree(lmdb_folder, folder)
    assert len(list(dataset(folder, phase="val"))) == 4
    shutil.rmtree(folder)
    (tmp_path / "in").mkdir()
    image = read_image(list_images(hr_folder)[0])
    write_image(tmp_path / "in" / "astronaut.png", 255 - image)
    build_lmdb(tmp_path / "in", folder)
    (item,) = dataset(folder, phase="val")
    assert (to_pixels(item["gt"]) == 255 - image).all()


def test_an_lmdb_that_basicsr_wrote(hr_folder, tmp_path, capsys):
    from basicsr.utils.lmdb_util import make_lmdb_from_imgs

    folder = tmp_path / "basicsr.lmdb"
    names = sorted(os.listdir(hr_folder))
    keys = [name.removesuffix(".png") for name in names]
    make_lmdb_from_imgs(os.fspath(hr_folder), os.fspath(folder), names, keys)
    for item, name in zip(dataset(folder, phase="val"), names, strict=True):
        assert (to_pixels(item["gt"]) == read_image(hr_folder / name)).all()


def test_lists(hr_folder, lmdb_folder, tmp_path):
    target = tmp_path / "root" / "Set 1" / "GTmod12"
    target.mkdir(parents=True)
    names = ["plain.png", "with space.PNG", "dots.in.it.jpg", "two  words.png"]
    for name in names:
        shutil.copy(list_images(hr_folder)[0], target / name)
    chosen = tmp_path / "list.txt"
    chosen.write_text(
        "Set 1/GTmod12/plain.png (96,96,3)\n"
        "Set 1/GTmod12/with space.PNG\n"
        "\n"
        "Set 1/GTmod12/dots.in.it.jpg\t(96, 96, 3) 1\n"
        "Set 1/GTmod12/two  words.png and more\n"
    )
    items = dataset(tmp_path / "root", meta_info_file=os.fspath(chosen))
    expected = [os.path.join(tmp_path, "root", "Set 1", "GTmod12", name) for name in names]
    assert [items[index]["gt_path"] for index in range(4)] == expected

    chosen.write_text("chelsea.png (5,5,3)\nrocket.png\n")
    items = dataset(lmdb_folder, meta_info_file=os.fspath(chosen))
    assert [Path(item["gt_path"]).name for item in items] == ["chelsea", "rocket"]

    chosen.write_text("chelsea.png\ntea.png\nmilk.png\n")
    for root in (hr_folder, lmdb_folder):
        with pytest.raises(
            FileNotFoundError, match=r"list\.txt: .* not in .*: tea(\.png)? and 1 more$"
        ):
            dataset(root, meta_info_file=os.fspath(chosen))
    chosen.write_text("chelsea.png\nno image\n")
    with pytest.raises(ValueError, match=r"list\.txt: line 2 does not start with an image name"):
        dataset(hr_folder, meta_info_file=os.fspath(chosen))
    chosen.write_text("\n")
    with pytest.raises(ValueError, match=r"list\.txt: lists no images"):
        dataset(hr_folder, meta_info_file=os.fspath(chosen))
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        dataset(hr_folder, meta_info_file="none.txt")


def test_recursive(hr_folder, tmp_path):
    shutil.copytree(hr_folder, tmp_path / "deep" / "in")
    with pytest.raises(FileNotFoundError, match="no images in this folder"):
        dataset(tmp_path / "deep")
    assert len(dataset(tmp_path / "deep", recursive=True)) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gt_sise": 3}, r"Test: gt_sise is unknown \(nearest known: gt_size\)"),
        ({"phase": "absent"}, "phase is missing"),
        ({"phase": "trian"}, "phase is 'trian': expected one of train, val, test"),
        ({"gt_size": "absent"}, "gt_size is missing"),
        ({"gt_size": 0}, "gt_size is 0: expected an integer >= 1"),
        ({"gt_size": "192"}, "gt_size is '192': expected an integer"),
        ({"mod_crop": 1.5}, "mod_crop is 1.5: expected an integer"),
        ({"dtype": "float16"}, "dtype is 'float16': expected one of float32, uint8"),
        ({"size_multiple": 0}, "size_multiple is 0: expected an integer >= 1"),
        (
            {"half_size_probability": 2},
            "half_size_probability is 2: expected a number >= 0 and <= 1",
        ),
        ({"half_size_probability": "half"}, "half_size_probability is 'half'"),
        ({"use_hflip": "yes"}, "use_hflip is 'yes': expected true or false"),
        ({"dataroot_gt": "absent"}, "dataroot_gt is missing"),
        ({"dataroot_gt": 3}, "dataroot_gt is 3: expected the path of a folder"),
        ({"io_backend": {"type": "memcached"}}, "io_backend: type is 'memcached'"),
        ({"io_backend": "disk"}, "io_backend is not a mapping"),
        ({"io_backend": {"type": "lmdb"}}, "type lmdb, but dataroot_gt .* is of type disk"),
    ],
)
def test_invalid_options(hr_folder, changes, message):
    with pytest.raises(ValueError, match=message):
        dataset(hr_folder, **changes)


def test_optional_options(lmdb_folder):
    opt = {"phase": "train", "dataroot_gt": lmdb_folder, "gt_size": 8, "io_backend": None}
    assert HRImageDataset(opt)[0]["gt"].shape == (3, 8, 8)
    # BasicSR copies a top-level scale into the options of every dataset.
    opt |= {"scale": 4, "prefetch_mode": None, "pin_memory": True, "dataset_enlarge_ratio": 100}
    assert len(HRImageDataset(opt)) == 4


def test_missing_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Test: dataroot_gt .*none is not a folder"):
        dataset(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"none\.lmdb is not a folder"):
        dataset(tmp_path / "none.lmdb")
    with pytest.raises(FileNotFoundError, match=r"no images in this folder \(\.bmp, \.jpeg"):
        dataset(tmp_path)

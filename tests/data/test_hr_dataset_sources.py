"""Folders, LMDB and lists that HR images are read from, and invalid options."""

import os
import shutil
from pathlib import Path

import rescale_compat  # noqa: F401

import pytest
from hr_datasets import dataset, to_pixels
from torch.utils.data import DataLoader

from rescale_data.hr_dataset import HRImageDataset
from rescale_data.image_file import (
    ImageFileError,
    list_images,
    read_image,
    write_image,
)
from rescale_data.prepare import build_lmdb


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_even_from_a_worker(hr_folder, tmp_path, workers):
    shutil.copytree(hr_folder, tmp_path / "in")
    path = tmp_path / "in" / "coffee.png"
    path.write_bytes(path.read_bytes()[:-100])
    loader = DataLoader(dataset(tmp_path / "in"), batch_size=2, num_workers=workers)
    with pytest.raises(OSError, match=r"in/coffee\.png: truncated"):
        list(loader)


def test_an_lmdb_that_lacks_images(lmdb, tmp_path):
    folder = tmp_path / "short.lmdb"
    shutil.copytree(lmdb, folder)
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


def test_an_lmdb_that_was_made_anew_under_the_same_name(hr_folder, lmdb, tmp_path):
    folder = tmp_path / "a.lmdb"
    shutil.copytree(lmdb, folder)
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


def test_lists(hr_folder, lmdb, tmp_path):
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
    items = dataset(lmdb, meta_info_file=os.fspath(chosen))
    assert [Path(item["gt_path"]).name for item in items] == ["chelsea", "rocket"]

    chosen.write_text("chelsea.png\ntea.png\nmilk.png\n")
    for root in (hr_folder, lmdb):
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


def test_optional_options(lmdb):
    opt = {"phase": "train", "dataroot_gt": lmdb, "gt_size": 8, "io_backend": None}
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

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rescale_data import prepare
from rescale_data.image_file import decode_image, read_image, write_image
from rescale_data.prepare import (
    BadPicturesError,
    build_lmdb,
    crop_to_multiple,
    extract_sub_images,
    write_meta_info,
)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    write_image(folder / "a.png", noise(50, 70, 1))
    write_image(folder / "b c.jpg", noise(40, 41, 2))
    Image.fromarray(noise(25, 90, 3)).convert("L").save(folder / "d.bmp")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}


def stored(folder: Path) -> dict[str, bytes]:
    with (
        lmdb.open(os.fspath(folder), readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        return {key.decode(): bytes(value) for key, value in transaction.cursor()}


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


MAKERS = {
    "out": extract_sub_images,
    "crops": crop_to_multiple,
    "out.lmdb": build_lmdb,
    "out.txt": write_meta_info,
}


@pytest.mark.parametrize("out", MAKERS)
def test_bad_images_are_all_reported_and_the_rest_is_kept(tmp_path, source, out):
    whole = (source / "a.png").read_bytes()
    (source / "a.png").write_bytes(whole[:-500])
    (source / "text.jpg").write_text("no image")
    with pytest.raises(BadPicturesError, match="2 of 4 images cannot be used") as caught:
        MAKERS[out](source, tmp_path / out)
    assert [re.search(r"\w+\.\w+: ", line)[0] for line in caught.value.reasons] == [
        "a.png: ",
        "text.jpg: ",
    ]
    assert not (tmp_path / out).exists()

    (source / "a.png").write_bytes(whole)
    (source / "text.jpg").unlink()
    read = []
    with pytest.MonkeyPatch.context() as patch:
        decode = prepare.decode_image
        patch.setattr(prepare, "decode_image", lambda d, n: (read.append(n), decode(d, n))[1])
        assert MAKERS[out](source, tmp_path / out) == 3
    assert read == [os.fspath(source / "a.png")]
    MAKERS[out](source, tmp_path / f"direct-{out}")
    if out == "out.txt":
        assert (tmp_path / out).read_bytes() == (tmp_path / f"direct-{out}").read_bytes()
    elif out == "out.lmdb":
        assert stored(tmp_path / out) == stored(tmp_path / f"direct-{out}")
        texts = [(tmp_path / n / "meta_info.txt").read_text() for n in (out, f"direct-{out}")]
        assert texts[0] == texts[1]
    else:
        assert contents(tmp_path / out) == contents(tmp_path / f"direct-{out}")
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("out", MAKERS)
def test_nothing_is_replaced(tmp_path, source, out):
    (tmp_path / out).mkdir()
    with pytest.raises(FileExistsError, match=f"{re.escape(out)}: already exists"):
        MAKERS[out](source, tmp_path / out)
    assert not list(tmp_path.glob("*.partial"))


def test_work_begun_with_other_settings_is_not_continued(tmp_path, source):
    (source / "bad.png").write_text("")
    with pytest.raises(BadPicturesError):
        extract_sub_images(source, tmp_path / "out", size=20)
    with pytest.raises(FileExistsError, match=r'out\.partial: begun with other .*"size": 20'):
        extract_sub_images(source, tmp_path / "out", size=30)


def test_a_folder_that_was_not_created_by_the_command_is_left_alone(tmp_path, source):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"out\.partial: exists, but was not created"):
        crop_to_multiple(source, tmp_path / "out")
    assert contents(tmp_path / "out.partial") == {"mine.txt": b"precious"}


def test_an_image_that_vanished_between_runs_is_named(tmp_path, source):
    (source / "bad.png").write_text("")
    with pytest.raises(BadPicturesError):
        crop_to_multiple(source, tmp_path / "out")
    (source / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"out\.partial: holds a\.png, which is no longer"):
        crop_to_multiple(source, tmp_path / "out")


def test_a_journal_left_by_a_kill_after_the_move_is_not_believed(tmp_path, source):
    (source / "bad.png").write_text("")
    with pytest.raises(BadPicturesError):
        crop_to_multiple(source, tmp_path / "out")
    (source / "bad.png").unlink()
    (tmp_path / "out.partial" / "result").rename(tmp_path / "elsewhere")
    crop_to_multiple(source, tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_a_journal_cut_short_by_a_full_disk(tmp_path, source):
    (source / "bad.png").write_text("")
    with pytest.raises(BadPicturesError):
        build_lmdb(source, tmp_path / "out.lmdb")
    (source / "bad.png").unlink()
    journal = tmp_path / "out.lmdb.partial" / "journal.txt"
    journal.write_bytes(journal.read_bytes()[:-4])
    build_lmdb(source, tmp_path / "out.lmdb")
    assert set(stored(tmp_path / "out.lmdb")) == {"a", "b c", "d"}
    assert len((tmp_path / "out.lmdb" / "meta_info.txt").read_text().splitlines()) == 3


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


COMMAND = """
import argparse, resource, signal, sys, time
from rescale_app.commands import prepare as command
from rescale_data import prepare
prepare.BATCH_BYTES = 100_000
decode = prepare.decode_image
prepare.decode_image = lambda *image: (time.sleep(0.01), decode(*image))[1]
if sys.argv[1] != "0":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
parser = argparse.ArgumentParser()
command.add_arguments(parser)
sys.exit(command.run(parser.parse_args(sys.argv[2:])))
"""


def start(*arguments: object, limit: int = 0) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", COMMAND, str(limit), *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    "command", [["sub-images", "--size", "48", "--step", "40"], ["mod-crop"], ["lmdb"]]
)
def test_a_killed_run_is_finished_by_the_next(tmp_path, command):
    source = tmp_path / "in"
    source.mkdir()
    for number in range(80):
        write_image(source / f"p{number:03d}.jpg", noise(130, 140, number))
    out = tmp_path / "out.lmdb"
    journal = tmp_path / "out.lmdb.partial" / "journal.txt"
    for share in (1, 15, 40):
        process = start(*command, source, out)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if journal.exists() and journal.read_text().count("]\n") >= share:
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "finished before it could be killed"
        assert not out.exists()
    done = re.findall(r"p\d+", journal.read_text())
    assert len(done) >= 40
    # What is done is not read again: it may even be broken by now.
    (source / f"{done[0]}.jpg").write_text("broken")

    process = start(*command, source, out)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert not list(tmp_path.glob("*.partial"))
    write_image(source / f"{done[0]}.jpg", noise(130, 140, int(done[0][1:])))
    assert start(*command, source, tmp_path / "whole.lmdb").wait() == 0
    if command == ["lmdb"]:
        assert stored(out) == stored(tmp_path / "whole.lmdb")
        assert len(stored(out)) == 80
    else:
        assert contents(out) == contents(tmp_path / "whole.lmdb")
        assert len(contents(out)) == 80 * (16 if "--size" in command else 1)
    if command == ["lmdb"]:
        lines = [(tmp_path / n / "meta_info.txt").read_text() for n in ("out.lmdb", "whole.lmdb")]
        assert lines[0] == lines[1]


@pytest.mark.parametrize("command", ["mod-crop", "lmdb"])
def test_a_full_disk_ends_in_one_line_and_can_be_continued(tmp_path, command):
    source = tmp_path / "in"
    source.mkdir()
    for number in range(30):
        write_image(source / f"p{number:02d}.png", noise(60, 60 + number, number))
    out = tmp_path / "out.lmdb"
    process = start(command, source, out, limit=150_000 if command == "lmdb" else 13_500)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert re.search(r"OSError: .*out\.lmdb\.partial.*\n$", errors), errors
    assert not out.exists()
    process = start(command, source, out)
    assert process.communicate()[1] == ""
    assert process.returncode == 0
    assert len(stored(out) if command == "lmdb" else list(out.iterdir())) == 30


def test_the_command_reports_bad_images_line_by_line(tmp_path, source):
    (source / "bad.png").write_text("no image")
    process = start("meta-info", source, tmp_path / "list.txt")
    _, errors = process.communicate()
    assert process.returncode == 1
    first = errors.splitlines()[0]
    assert first.startswith(f"{source / 'bad.png'}: not an image in a supported format (PNG, ")

"""Preparing data: interrupted work is continued, and nothing is replaced."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from prepared_data import contents, noise, stored

from rescale_data import prepare
from rescale_data.image_file import write_image
from rescale_data.prepare import (
    BadPicturesError,
    build_lmdb,
    crop_to_multiple,
    extract_sub_images,
    write_meta_info,
)

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

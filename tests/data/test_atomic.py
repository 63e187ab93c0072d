"""Files are written under a temporary name, then renamed."""

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rescale_data import atomic
from rescale_data.atomic import replacing
from rescale_data.image_file import read_image, write_file, write_image


def test_files_written_by_many_threads_have_the_permissions_that_the_umask_leaves(tmp_path):
    """In a process of its own, since the umask belongs to the whole process."""
    code = """
import os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from rescale_data.image_file import write_file

os.umask(0o027)
change = os.umask

def slow(mask):  # makes the moment longer in which a changed umask would be seen
    before = change(mask)
    time.sleep(1e-4)
    return before

os.umask = slow
folder, stop = Path(sys.argv[1]), threading.Event()

def bystander(number):  # other code of the program, which creates files as well
    modes = set()
    path = folder / f"other{number}"
    while not stop.is_set():
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        modes.add(path.stat().st_mode & 0o777)
        path.unlink()
    return modes

with ThreadPoolExecutor(10) as pool:
    others = [pool.submit(bystander, number) for number in range(2)]
    list(pool.map(lambda number: write_file(folder / f"{number}.bin", b"x"), range(500)))
    stop.set()
modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
for other in others:
    modes |= other.result()
print(*map(oct, sorted(modes)), oct(change(0)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["0o640", "0o27"]
    assert len(list(tmp_path.iterdir())) == 500


@pytest.mark.parametrize("length", [1, 5, 249, 250, 255])
@pytest.mark.parametrize("letter", ["a", "ä"])
def test_names_as_long_as_the_file_system_allows_can_be_written(tmp_path, length, letter):
    suffix = ".png" if length > 4 else ""
    stem = letter * ((length - len(suffix)) // len(os.fsencode(letter)))
    path = tmp_path / f"{stem or 'a'}{suffix}"
    write_file(path, b"old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_image_may_have_a_name_of_255_bytes(tmp_path):
    path = tmp_path / f"{'b' * 251}.png"
    pixels = np.full((2, 3, 3), 7, np.uint8)
    write_image(path, pixels)
    assert (read_image(path) == pixels).all()


def test_a_name_that_is_all_suffix_can_be_written(tmp_path):
    path = tmp_path / f"a.{'c' * 253}"
    write_file(path, b"x")
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_too_long_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / f"{'d' * 252}.png"
    with pytest.raises(OSError, match=r"File name too long: .*ddd\.png"):
        write_file(path, b"x")
    assert not list(tmp_path.iterdir())


def test_nothing_half_written_is_left(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stop"), replacing(path) as temporary:
        Path(temporary).write_bytes(b"half")
        raise RuntimeError("stop")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]
    with replacing(path) as temporary:
        Path(temporary).write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_the_temporary_file_is_hidden_and_keeps_the_suffix(tmp_path):
    with replacing(tmp_path / "name.png") as temporary:
        assert os.path.dirname(temporary) == os.fspath(tmp_path)
        base = os.path.basename(temporary)
        assert base.startswith(".tmp-")
        assert base.endswith(".png")
        assert stat.S_ISREG(os.stat(temporary).st_mode)
    assert os.listdir(tmp_path) == ["name.png"]


def test_a_file_of_others_under_the_temporary_name_stays(tmp_path, monkeypatch):
    tokens = iter(["taken", "free"])
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda _: next(tokens))
    (tmp_path / ".tmp-taken.txt").write_text("of others")
    write_file(tmp_path / "a.txt", b"mine")
    assert (tmp_path / ".tmp-taken.txt").read_text() == "of others"
    assert (tmp_path / "a.txt").read_bytes() == b"mine"


def test_one_name_written_by_many_threads_is_always_whole(tmp_path):
    path = tmp_path / "a.bin"
    contents = [bytes([number]) * 10_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_file(path, content), contents * 10))
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]

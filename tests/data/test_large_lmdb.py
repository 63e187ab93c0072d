"""A large LMDB costs no more per image than a small one, in time and in memory."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training import command

from rescale_data.image_file import write_image
from rescale_data.name_table import NameTable

Cost = dict[str, float]
MEASURE = """
import json, resource, sys, time, tracemalloc
from rescale_data.hr_dataset import HRImageDataset
from rescale_data.prepare import build_lmdb

def peak():
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("/proc/self/status") as status:  # of Linux's ru_maxrss, a part is the parent's
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

before, start = peak(), time.process_time()
count = build_lmdb("in", "out.lmdb", workers=1)
build = (time.process_time() - start) / count
memory = peak() - before
tracemalloc.start()
HRImageDataset({"phase": "train", "gt_size": 8, "dataroot_gt": "in"})
listed = tracemalloc.get_traced_memory()[1] / count
tracemalloc.stop()
tracemalloc.start()
dataset = HRImageDataset({"phase": "train", "gt_size": 8, "dataroot_gt": "out.lmdb"})
held = tracemalloc.get_traced_memory()[0] / count
tracemalloc.stop()
places = range(0, count, count // 500)
start = time.process_time()
for place in places:
    dataset[place, 1]
read = (time.process_time() - start) / len(places)
costs = {"build": build, "memory": memory, "listed": listed, "held": held, "read": read}
print(json.dumps(costs))
"""


def cost(folder: Path, count: int) -> Cost:
    """Seconds and bytes of making and reading an LMDB of ``count`` images."""
    (folder / "in").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(4):  # a file has at most 65,000 names
        write_image(folder / f"{number}.png", rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    for number in range(count):
        os.link(folder / f"{number % 4}.png", folder / "in" / f"picture_{number:07d}.png")
    result = command(folder, "-c", MEASURE)
    assert result.returncode == 0, result.stderr
    costs: Cost = json.loads(result.stdout.splitlines()[-1])
    return costs


@pytest.mark.slow
def test_the_cost_of_an_image_does_not_grow(tmp_path: Path) -> None:
    small = [cost(tmp_path / f"small{attempt}", 1_000) for attempt in range(3)]
    large = cost(tmp_path / "large", 100_000)
    for kind in ("build", "read"):
        assert large[kind] < 2 * max(entry[kind] for entry in small), (kind, small, large)
    assert large["listed"] < 200  # at the peak: a string of 76 bytes, its place in a list, "held"
    assert large["held"] < 40  # the name has 15 bytes, its place in the table 8
    # one batch of images, what LMDB maps, and names
    assert large["memory"] < 160 * 2**20


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_a_table_of_names_is_a_sequence_of_strings(names: list[str]) -> None:
    table = NameTable(iter(names))
    assert len(table) == len(names)
    assert list(table) == names
    for index in range(-len(names), len(names)):
        assert table[index] == names[index]
    assert list(table[1:-1]) == names[1:-1]
    with pytest.raises(IndexError):
        table[len(names)]


def test_names_that_are_no_utf_8() -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    assert list(NameTable([name])) == [name]

"""The benchmarks: all of them, in small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.aidn import multiply_accumulates
from benchmarks.running import Case, measure, run
from benchmarks.table import Table
from benchmarks.tables import TABLES


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_tables_in_small(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(tmp_path)]
    printed = subprocess.run(
        [*command, "--threads", "1", "--name", "Small one"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    content = json.loads((tmp_path / "small-one.json").read_text())
    assert (tmp_path / "small-one.png").stat().st_size > 1000
    titles = [table["title"] for table in content["tables"]]
    assert len(titles) >= len(TABLES)
    for title in titles:
        assert title in printed
    assert content["machine"]["torch"]
    first = content["tables"][0]["rows"]
    assert [row[""] for row in first[:3]] == ["plain fp32", "ours fp32", "ours bf16"]
    for row in first:
        assert row["seconds"] > 0
        assert row["times as fast"] == pytest.approx(first[0]["seconds"] / row["seconds"])
    assert first[1]["HR max diff"] < 1e-4


def test_work_at_half_resolution_is_a_quarter() -> None:
    tiny = {"num_feat": 16, "num_block": 4}
    work = multiply_accumulates([tiny, tiny | {"down_unshuffle": 2}])
    assert work["up"][0] == work["up"][1]
    assert 0.25 < work["down"][1] / work["down"][0] < 0.35
    trunk = 9 * (3 * 16 + 9 * 16 * 16) / 1e6  # 3 x 3: the head, two a block, one after them
    assert trunk < work["down"][0] < 2 * trunk


def test_every_measurement_runs_in_a_separate_process_and_errors_are_reported() -> None:
    machine = run(Case("machine", "machine.describe", {"threads": 1}))
    assert machine["python"].startswith("3.")
    lost = Case("lost", "data.prepare", {"folder": "no_such_folder", "lmdb": "a.lmdb"})
    with pytest.raises(RuntimeError, match=r"(?s)lost: exit status 1.*no_such_folder"):
        run(lost)
    (result,) = measure([lost], 2)
    assert "no_such_folder" in result["failure"]


def test_tables_line_up() -> None:
    table = Table("Title", [{"": "plain", "seconds": 12.3456}, {"": "ours", "MiB": 1234.5}])
    assert str(table).splitlines() == [
        "Title",
        "       seconds   MiB",
        "plain     12.3     -",
        "ours         -  1234",
    ]


def test_an_unknown_table_is_named() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--only", "aidm"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "'aidm' is unknown: expected one of aidn, vqir" in result.stderr

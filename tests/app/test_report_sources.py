"""``rescale report``: the options and originals of a test, and messages about what is missing."""

import json
import math
import re
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import yaml
from report_page import LAYERS, Report, images_folder, pixels, reported, run_test

from rescale_app import cli
from rescale_data.image_file import read_image, write_image
from rescale_model.json_file import write_options


@pytest.mark.parametrize("name", ["1_000", "a: b", "None", "[1, 2]"])
def test_names_may_look_like_numbers_or_lists(
    name: str, hr_folder: Path, weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(hr_folder / "rocket.png", tmp_path / "data")
    changes = {"name": name, "datasets: test_1: name": name, "val: scales": [2.5]}
    results = run_test(tmp_path, weights, **changes)
    capsys.readouterr()
    report = reported(results)
    assert capsys.readouterr().err == ""
    assert report.crops
    assert [layer["data-label"] for layer in report.articles[0].dividers[0]] == LAYERS
    assert report.articles[0].tables and f"{name} (1)" in " ".join(report.whole.text)


def test_the_options_lie_beside_the_metrics_as_they_were_given_with_their_defaults(
    tested: Path,
) -> None:
    folder = images_folder(tested / "results" / "evaluated")
    recorded = json.loads((folder / "options.json").read_text())
    given = yaml.safe_load((tested / "test.yml").read_text().partition("\n")[2])
    assert recorded["plugin"] == "rescale_model.registration.register"
    assert recorded["val"].items() >= given["val"].items()
    assert recorded["val"]["protocol"] == "8bit"
    assert recorded["network_g"] == given["network_g"]
    assert recorded["datasets"]["test_1"].items() >= given["datasets"]["test_1"].items()
    assert recorded["path"]["results_root"] == str(tested / "results" / "evaluated")


def test_json_has_no_word_for_some_options(tmp_path: Path) -> None:
    write_options(
        str(tmp_path), {"a": {1: math.inf}, "day": date(2026, 1, 2), "pair": (1, None), "name": "n"}
    )
    recorded = json.loads((tmp_path / "options.json").read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", recorded.pop("date"))
    assert recorded == {"a": {"1": "inf"}, "day": "2026-01-02", "pair": [1, None], "name": "n"}


def test_originals_in_an_lmdb(lmdb: Path, hr_folder: Path, weights: str, tmp_path: Path) -> None:
    results = run_test(
        tmp_path,
        weights,
        **{
            "datasets: test_1: dataroot_gt": str(lmdb),
            "datasets: test_1: io_backend": {"type": "lmdb"},
            "datasets: test_1: dtype": "uint8",
            "val: scales": [2.5],
            "val: suffix": "mine",
        },
    )
    report = reported(results)
    assert report.crops
    assert report.plots == []  # of a single scale there is nothing to draw
    for article in report.articles:
        layers = article.dividers[0]
        assert [layer["data-label"] for layer in layers] == LAYERS
        image = article.text[0].strip()
        assert np.array_equal(pixels(layers[0]), read_image(hr_folder / f"{image}.png"))


def test_originals_that_are_elsewhere(
    tested: Path,
    own_results: Path,
    report: Report,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = images_folder(own_results) / "options.json"
    file.write_text(file.read_text().replace('"dataroot_gt": "data"', '"dataroot_gt": "gone"'))
    without = reported(own_results)
    warning = capsys.readouterr().err
    assert re.search(r"warning: whole: originals not found, .*--hr.*/gone\n", warning)
    assert warning.count("\n") == 1
    assert "originals not found" in " ".join(without.whole.text)
    assert without.crops == []
    labels = [layer["data-label"] for layer in without.articles[0].dividers[0]]
    assert labels[0] == "Restored x1.5"
    for place in ("plain", "set/whole", "set/whole/HR"):
        shutil.copytree(tested / "data", tmp_path / place, dirs_exist_ok=True)
        folder = tmp_path / place.partition("/")[0]
        found = reported(own_results, "--hr", folder)
        assert capsys.readouterr().err == ""
        assert [c.text for c in found.crops] == [c.text for c in report.crops]


def test_some_originals_are_missing(
    tested: Path, own_results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tested / "data", tmp_path / "some")
    (tmp_path / "some" / "rocket.png").unlink()
    report = reported(own_results, "--hr", tmp_path / "some")
    assert "has no original of rocket: specify the folder with --hr" in capsys.readouterr().err
    assert [len(article.dividers) for article in report.articles] == [1, 1, 1]
    assert not any("rocket" in "".join(crop.text) for crop in report.crops)


def test_restored_images_are_missing(own_results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images_folder(own_results) / "rocket_x2.5_hr.png").unlink()
    report = reported(own_results)
    assert "1 restored images are missing" in capsys.readouterr().err
    article = next(a for a in report.articles if a.text[0].strip() == "rocket")
    assert len(article.dividers[0]) == 12
    for path in images_folder(own_results).glob("*.png"):
        path.unlink()
    report = reported(own_results)
    assert "saved no images; set save_img: true" in capsys.readouterr().err
    assert report.whole.dividers == []
    assert len(report.whole.tables) == 4


Spoiler = Callable[[Path], list[object]]


def _empty(results: Path) -> list[object]:
    shutil.rmtree(results)
    results.mkdir()
    return []


def _no_options(results: Path) -> list[object]:
    (images_folder(results) / "options.json").unlink()
    return []


def _cut_options(results: Path) -> list[object]:
    file = images_folder(results) / "options.json"
    file.write_text(file.read_text()[:200])
    return []


def _other_options(results: Path) -> list[object]:
    (images_folder(results) / "options.json").write_text('{"name": "evaluated"}')
    return []


def _cut_table(results: Path) -> list[object]:
    table = images_folder(results) / "metrics.json"
    table.write_text(table.read_text()[:100])
    return []


def _other_table(results: Path) -> list[object]:
    (images_folder(results) / "metrics.json").write_text('{"images": [{"image": "a"}]}')
    return []


def _broken_image(results: Path) -> list[object]:
    path = images_folder(results) / "rocket_x2.5_hr.png"
    path.write_bytes(path.read_bytes()[:-40])
    return []


def _other_originals(results: Path) -> list[object]:
    folder = results.parent / "others"
    write_image(folder_made(folder) / "rocket.png", np.zeros((60, 48, 3), np.uint8))
    return ["--hr", folder]


def folder_made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda results: shutil.rmtree(results) or [], r"evaluated: no such folder"),
        (
            _empty,
            r"evaluated: contains no results of `rescale test`: .*metrics\.json nor benchmark",
        ),
        (_no_options, r"whole/options\.json: no such file; .*version 0\.1 .*: run the test again"),
        (_cut_options, r"options\.json: was not written by `rescale test` \(JSONDecodeError"),
        (_other_options, r"options\.json: was not written by `rescale test` .*options are missing"),
        (_cut_table, r"metrics\.json: was not written by `rescale test`"),
        (_other_table, r"metrics\.json: was not written by `rescale test` \(KeyError: 'case'\)"),
        (_broken_image, r"rocket_x2\.5_hr\.png: truncated image file"),
        (_other_originals, r"rocket_x1\.5_hr\.png: is 96x120, but the original in .*48x60"),
        (lambda results: ["--hr", results / "gone"], r"--hr .*/gone: no such folder"),
        (
            lambda results: ["-o", results / "report.png"],
            r"report\.png: expected a file name .*\.html",
        ),
        (lambda results: ["-o", results / "no" / "a.html"], r"no/.*: No such file or directory"),
        (lambda results: ["--crops", -1], r"--crops and --limit must be at least 0"),
        (lambda results: ["--limit", "nan"], r"--crops and --limit must be at least 0"),
    ],
)
def test_errors_are_a_line_and_leave_nothing(
    own_results: Path, capsys: pytest.CaptureFixture[str], spoil: Spoiler, message: str
) -> None:
    arguments = spoil(own_results)
    before = sorted(own_results.rglob("*"))
    assert cli.main(["report", str(own_results), *map(str, arguments)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(rf"rescale: error: .*{message}.*\n", printed.err), printed.err
    assert sorted(own_results.rglob("*")) == before


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report"]) == 2
    assert "RESULTS" in capsys.readouterr().err

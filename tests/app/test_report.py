"""``rescale report``: the page for real tests, and messages about missing files."""

import base64
import csv
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr

import numpy as np
import pytest
import torch
import training
import yaml
from looks import faint_texts, set_device
from skimage import data
from training import NETWORK, changed

from rescale_app import cli
from rescale_app.html.error_levels import error_image, error_levels
from rescale_app.report import images as report_images
from rescale_app.report.results import Outcome
from rescale_app.report.worst_crops import SIZE, worst_crops
from rescale_arch import AIDN
from rescale_data.image_file import decode_image, read_image, write_image
from rescale_data.weight_file import save_weights
from rescale_model.json_file import write_options
from rescale_model.options import read_options

ODD = "odd <i>&'\" name"
SCALES = {"x1.5": 1.5, "x2.5": 2.5, "x1.5x3": [1.5, 3]}
METRICS = {
    "psnr_y": {"type": "calculate_psnr", "test_y_channel": True},
    "ssim": {"type": "calculate_ssim"},
    "lr_psnr": {"type": "calculate_psnr", "image": "lr"},
    "bicubic_psnr_y": {"type": "calculate_psnr", "test_y_channel": True, "image": "bicubic"},
}


LAYERS = [
    "Original", "Restored x2.5", "Bicubic x2.5", "Error: Restored x2.5", "Error: Bicubic x2.5",
    "LR x2.5",
]  # fmt: skip
HEADINGS = [
    "Gain over bicubic, PSNR Y, dB",
    "PSNR Y, dB",
    "SSIM RGB",
    "PSNR RGB of the LR image, dB",
    "PSNR Y of bicubic, dB",
]


# --- what is on a page ----------------------------------------------------------------------------


@dataclass
class Part:
    """A crop or the article of an image: its texts, dividers and tables."""

    text: list[str] = field(default_factory=list)
    dividers: list[list[dict[str, str | None]]] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)


class Page(HTMLParser):
    """A parsed report."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.whole = Part()
        self.articles: list[Part] = []
        self.crops: list[Part] = []
        self.attributes: list[tuple[str, str]] = []
        self.plots: list[str] = []
        self._open: list[Part] = [self.whole]
        self._in_cell = False
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        given = dict(attrs)
        for found, parts in (
            (tag == "article", self.articles),
            (given.get("class") == "crop", self.crops),
        ):
            if found:
                self._open.append(Part())
                parts.append(self._open[-1])
        for part in self._open:
            if tag == "rescale-compare":
                part.dividers.append([])
            elif tag == "img":
                part.dividers[-1].append(given)
            elif tag == "table":
                part.tables.append([])
            elif tag == "tr":
                part.tables[-1].append([])
            elif tag in ("th", "td"):
                part.tables[-1][-1].append("")
        self._in_cell = tag in ("th", "td")
        if tag == "svg":
            self.plots.append(given["aria-label"] or "")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = False
        is_crop = self._open[-1] in self.crops
        if tag == ("figure" if is_crop else "article") and len(self._open) > 1:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        for part in self._open:
            part.text.append(data)
            if part.tables and part.tables[-1] and part.tables[-1][-1] and self._in_cell:
                part.tables[-1][-1][-1] += data


def pixels(layer: dict[str, str | None]) -> np.ndarray:
    return decode_image(file_of(layer), "layer")


def file_of(layer: dict[str, str | None]) -> bytes:
    head, _, content = (layer["src"] or "").partition(",")
    assert head == "data:image/png;base64"
    return base64.b64decode(content, validate=True)


def shown(value: str, metric: str) -> str:
    number = float(value)
    if math.isinf(number):
        return "\N{INFINITY}"
    return f"{number:.{2 if 'psnr' in metric else 4}f}"


def gain(figures: dict[str, Any]) -> str:
    return f"{float(figures['psnr_y']) - float(figures['bicubic_psnr_y']):+.2f}"


def luma(image: np.ndarray) -> np.ndarray:
    """Y as in MATLAB's rgb2ycbcr, BT.601."""
    return image.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255 + 16


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return 10 * math.log10(255**2 / error) if error else math.inf


# --- runs -----------------------------------------------------------------------------------------


def run_test(folder: Path, weights: Path, **changes: Any) -> Path:
    """The results of a test of what is in ``folder / "data"``, run in ``folder``."""
    options = training.test_options(Path("data"), weights)
    changes = {"val: scales": list(SCALES.values()), "val: metrics": METRICS} | changes
    return training.test(folder, changed(options, changes)).parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    config = {key: value for key, value in NETWORK.items() if key != "type"}
    save_weights(path, AIDN(**config).state_dict(), config)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, hr_folder: Path, weights: Path) -> Path:
    """The folder of a test: data in it, results below it."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "data").mkdir()
    for name in ("astronaut", "rocket"):
        shutil.copy(hr_folder / f"{name}.png", folder / "data")
    write_image(folder / "data" / f"{ODD}.png", np.ascontiguousarray(data.coffee()[:230, :250]))
    run_test(folder, weights, **{"datasets: test_1: mod_crop": 12})
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    assert cli.main(["report", str(run / "results" / "evaluated")]) == 0
    return Page(run / "results" / "evaluated" / "report.html")


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A copy of the results to modify; their originals are still found."""
    return Path(shutil.copytree(run / "results" / "evaluated", tmp_path / "evaluated"))


def reported(*arguments: object) -> Page:
    """The page of a report that must succeed."""
    assert cli.main(["report", *map(str, arguments)]) == 0
    results = Path(str(arguments[0]))
    return Page(results / "report.html")


def original(run: Path, image: str) -> np.ndarray:
    whole = read_image(run / "data" / f"{image}.png")
    height, width = (side // 12 * 12 for side in whole.shape[:2])
    return whole[:height, :width]


def images_folder(results: Path) -> Path:
    return results / "visualization" / "whole"


# --- a test's page --------------------------------------------------------------------------------


def test_nothing_comes_from_elsewhere(page: Page) -> None:
    assert "://" not in page.html
    assert "@import" not in page.html
    loading = {"src", "srcset", "href", "xlink:href", "action", "data", "poster"}
    addresses = [value for name, value in page.attributes if name in loading]
    assert len(addresses) > 20
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in addresses)
    assert set(re.findall(r"url\(.", page.html)) <= {"url(#"}


def test_it_states_what_was_tested(page: Page) -> None:
    text = " ".join(page.whole.text)
    for fact in (
        "evaluated",
        "AIDN, num_feat 8",
        "tiny.safetensors",
        "whole (3)",
        ", ".join(SCALES),
    ):
        assert fact in text
    assert re.search(r"Test of \d{4}-\d\d-\d\d \d\d:\d\d\b", text)
    assert page.plots == ["PSNR over the scale: whole"]
    (plot,) = re.findall(r"<svg.*?</svg>", page.html, re.S)
    assert {"AIDN", "bicubic", "PSNR Y, dB"} <= set(re.findall(r">([^<>]+)</text>", plot))


def test_means_are_in_a_table(page: Page, run: Path) -> None:
    folder = images_folder(run / "results" / "evaluated")
    means = json.loads((folder / "metrics.json").read_text())["mean"]
    header, *rows = page.whole.tables[0]
    assert header == ["Scale", *HEADINGS]
    assert rows == [
        [scale, gain(mean), *(shown(value, metric) for metric, value in mean.items())]
        for scale, mean in means.items()
    ]


def test_all_figures_of_the_csv_are_in_tables(page: Page, run: Path) -> None:
    folder = images_folder(run / "results" / "evaluated")
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    articles = {article.text[0].strip(): article for article in page.articles}
    for row in rows:
        (table,) = articles[row["image"]].tables
        assert table[0] == ["Scale", *HEADINGS]
        assert [row["case"], gain(row), *(shown(row[m], m) for m in METRICS)] in table
    totals = [sum(float(line[2]) for line in a.tables[0][1:]) for a in page.articles]
    assert totals == sorted(totals)


def test_a_divider_for_each_image(page: Page, run: Path) -> None:
    folder = images_folder(run / "results" / "evaluated")
    assert {a.text[0].strip() for a in page.articles} == {"astronaut", "rocket", ODD}
    for article in page.articles:
        image = article.text[0].strip()
        (layers,) = article.dividers
        assert [layer["data-label"] for layer in layers] == [
            "Original",
            *(f"Restored {s}" for s in SCALES),
            *(f"Bicubic {s}" for s in SCALES),
            *(f"Error: Restored {s}" for s in SCALES),
            *(f"Error: Bicubic {s}" for s in SCALES),
            *(f"LR {s}" for s in SCALES),
        ]  # fmt: skip
        assert np.array_equal(pixels(layers[0]), original(run, image))
        for layer, scale in zip(layers[1:4], SCALES, strict=True):
            assert file_of(layer) == (folder / f"{image}_{scale}_hr.png").read_bytes()
        for layer, scale in zip(layers[13:], SCALES, strict=True):
            assert file_of(layer) == (folder / f"{image}_{scale}_lr.png").read_bytes()
            assert "data-enlarged" in layer
        rows = json.loads((folder / "metrics.json").read_text())["images"]
        for bicubic, errors, scale in zip(layers[4:7], layers[10:13], SCALES, strict=True):
            figures = next(r for r in rows if (r["image"], r["case"]) == (image, scale))
            edge = math.ceil(max(np.atleast_1d(SCALES[scale])))
            inner = (slice(edge, -edge), slice(edge, -edge))
            y = [luma(each)[inner] for each in (original(run, image), pixels(bicubic))]
            assert psnr(*y) == pytest.approx(float(figures["bicubic_psnr_y"]), abs=0.01)
            assert "data-errors" in errors
            assert file_of(errors) == error_image(
                error_levels(original(run, image), pixels(bicubic))
            )
        assert all(layer["loading"] == "lazy" for layer in layers)


def test_the_worst_crops_come_first(page: Page, run: Path) -> None:
    folder = images_folder(run / "results" / "evaluated")
    figures, places = [], []
    for crop in page.crops:
        text = "|".join(crop.text)
        match = re.search(r"([^|]+) (x[\d.x]+)\|([\d.]+) dB\|AIDN, whole, at (\d+), (\d+)", text)
        assert match is not None, text
        image, scale, left, top = match[1], match[2], int(match[4]), int(match[5])
        there = slice(top, top + SIZE), slice(left, left + SIZE)
        ((before, after),) = crop.dividers
        assert np.array_equal(pixels(before), original(run, image)[there])
        restored = read_image(folder / f"{image}_{scale}_hr.png")
        assert np.array_equal(pixels(after), restored[there])
        assert float(match[3]) == pytest.approx(psnr(pixels(before), pixels(after)), abs=0.006)
        assert pixels(before).shape == (96, 96, 3)
        figures.append(float(match[3]))
        places.append((image, top, left))
    assert figures == sorted(figures)
    for number, (image, top, left) in enumerate(places):
        for other, y, x in places[:number]:
            assert other != image or abs(y - top) >= SIZE or abs(x - left) >= SIZE
    every = [
        psnr(original(run, image)[y : y + SIZE, x : x + SIZE], restored[y : y + SIZE, x : x + SIZE])
        for image in ("astronaut", "rocket", ODD)
        for scale in SCALES
        for restored in [read_image(folder / f"{image}_{scale}_hr.png")]
        for y in {*range(0, restored.shape[0] - SIZE + 1, 24), restored.shape[0] - SIZE}
        for x in {*range(0, restored.shape[1] - SIZE + 1, 24), restored.shape[1] - SIZE}
    ]
    assert figures[0] == pytest.approx(min(every), abs=0.006)
    assert 4 <= len(figures) <= 24


def test_fewer_crops(own: Path, page: Page) -> None:
    fewer = reported(own, "--crops", 2)
    assert [crop.text for crop in fewer.crops] == [crop.text for crop in page.crops[:2]]
    assert reported(own, "--crops", 0).crops == []


def test_images_end_at_the_limit(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = reported(own, "--limit", 0.25, "--crops", 0)
    warning = capsys.readouterr().err
    assert 1 <= sum(len(article.dividers) for article in some.articles) < 3
    assert some.articles[0].dividers
    assert [len(article.tables) for article in some.articles] == [1, 1, 1]
    assert re.search(r"only metrics are shown, since images are limited to 0\.25 MB", warning)
    assert warning.count("\n") == 1
    assert "only metrics are shown" in " ".join(some.whole.text)


def test_large_images_are_scaled_down(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_images, "LONGEST", 120)
    smaller = reported(own)
    article = next(a for a in smaller.articles if a.text[0].strip() == ODD)
    sizes = [pixels(layer).shape[:2] for layer in article.dividers[0]]
    assert sizes[:4] == [(114, 120)] * 4
    assert max(map(max, sizes)) <= 120
    assert "240 \N{MULTIPLICATION SIGN} 228 pixels, shown with 120" in " ".join(article.text)
    assert all(pixels(layer).shape == (96, 96, 3) for c in smaller.crops for layer in c.dividers[0])


# --- a benchmark's --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def benchmark_run(tmp_path_factory: pytest.TempPathFactory, hr_folder: Path, weights: Path) -> Path:
    folder = tmp_path_factory.mktemp("benchmark")
    for place, name in (("Set5/HR", "chelsea"), ("Set14", "rocket")):
        (folder / "sets" / place).mkdir(parents=True)
        shutil.copy(hr_folder / f"{name}.png", folder / "sets" / place)
    benchmark = read_options(Path(__file__).parents[2] / "options" / "test" / "benchmark.yml")
    changes = {
        "plugin": ...,
        "num_gpu": 0,
        "datasets: test: dataroot_gt": "sets",
        "val: save_img": True,
        "val: weights": [str(weights)],
        "val: scales": [2, 3],
        "val: lr_files: jpeg90": ...,
        "val: cost_size": 32,
        "val: metrics": {name: METRICS[name] for name in ("ssim", "psnr_y", "lr_psnr")},
    }
    training.test(folder, changed(benchmark, changes))
    return folder / "results" / "benchmark"


@pytest.mark.slow  # the cost of methods is measured in processes of their own
def test_a_benchmark(benchmark_run: Path) -> None:
    page = reported(benchmark_run)
    text = " ".join(page.whole.text)
    assert "bicubic, tiny" in text
    assert "Time and memory per megapixel" in text
    titles = [f"{name}, {file}" for name in ("Set5", "Set14") for file in ("png", "jpeg75")]
    assert page.plots == [f"PSNR over the scale: {title}" for title in titles]
    with open(benchmark_run / "benchmark.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    articles = {article.text[0].strip(): article for article in page.articles}
    metrics = ["ssim", "psnr_y", "lr_psnr"]
    bicubic = {
        tuple(row[key] for key in ("set", "image", "scale", "lr_file")): float(row["psnr_y"])
        for row in rows
        if row["method"] == "bicubic"
    }
    for row in rows:
        tables = {table[0][0]: table for table in articles[row["image"]].tables}
        place = tuple(row[key] for key in ("set", "image", "scale", "lr_file"))
        gained = float(row["psnr_y"]) - bicubic[place]
        line = [
            f"{row['method']}, {row['lr_file']}",
            f"{gained:+.2f}" if gained else "0.00",
            *(shown(row[m], m) for m in metrics),
        ]
        assert line in tables[row["scale"]]
    gains, mean = [t for t in page.whole.tables if t[0] == ["Method, LR file", "x2", "x3"]][:2]
    methods = {"tiny, png", "tiny, effort 10, png", "tiny, jpeg75"}
    assert {line[0] for line in gains[1:]} == methods
    assert "Gain over bicubic, PSNR Y, dB" in text
    assert mean[1][0] == "bicubic, png"
    assert mean[1][1] == shown(rows[0]["ssim"], "ssim")  # of the only image of the set
    for article in page.articles:
        assert len(article.dividers) == 2  # one for each scale
        for layers in article.dividers:
            assert len(layers) == 16
            assert len({layer["data-name"] for layer in layers}) == 16
    assert page.crops
    assert all("tiny, " in "".join(crop.text) for crop in page.crops)


# --- the options of the test ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["1_000", "a: b", "None", "[1, 2]"])
def test_names_may_look_like_numbers_or_lists(
    name: str, hr_folder: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    shutil.copy(hr_folder / "rocket.png", tmp_path / "data")
    changes = {"name": name, "datasets: test_1: name": name, "val: scales": [2.5]}
    results = run_test(tmp_path, weights, **changes)
    capsys.readouterr()
    page = reported(results)
    assert capsys.readouterr().err == ""
    assert page.crops
    assert [layer["data-label"] for layer in page.articles[0].dividers[0]] == [
        *LAYERS,
    ]
    assert page.articles[0].tables and f"{name} (1)" in " ".join(page.whole.text)


def test_the_options_lie_beside_the_metrics_as_they_were_given_with_their_defaults(
    run: Path,
) -> None:
    folder = images_folder(run / "results" / "evaluated")
    recorded = json.loads((folder / "options.json").read_text())
    given = yaml.safe_load((run / "test.yml").read_text().partition("\n")[2])
    assert recorded["plugin"] == "rescale_model.registration.register"
    assert recorded["val"].items() >= given["val"].items()
    assert recorded["val"]["protocol"] == "8bit"
    assert recorded["network_g"] == given["network_g"]
    assert recorded["datasets"]["test_1"].items() >= given["datasets"]["test_1"].items()
    assert recorded["path"]["results_root"] == str(run / "results" / "evaluated")


def test_json_has_no_word_for_some_options(tmp_path: Path) -> None:
    write_options(
        str(tmp_path), {"a": {1: math.inf}, "day": date(2026, 1, 2), "pair": (1, None), "name": "n"}
    )
    recorded = json.loads((tmp_path / "options.json").read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", recorded.pop("date"))
    assert recorded == {"a": {"1": "inf"}, "day": "2026-01-02", "pair": [1, None], "name": "n"}


# --- originals ------------------------------------------------------------------------------------


def test_originals_in_an_lmdb(lmdb: Path, hr_folder: Path, weights: Path, tmp_path: Path) -> None:
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
    page = reported(results)
    assert page.crops
    assert page.plots == []  # of a single scale there is nothing to draw
    for article in page.articles:
        layers = article.dividers[0]
        assert [layer["data-label"] for layer in layers] == LAYERS
        image = article.text[0].strip()
        assert np.array_equal(pixels(layers[0]), read_image(hr_folder / f"{image}.png"))


def test_originals_that_are_elsewhere(
    run: Path, own: Path, page: Page, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = images_folder(own) / "options.json"
    file.write_text(file.read_text().replace('"dataroot_gt": "data"', '"dataroot_gt": "gone"'))
    without = reported(own)
    warning = capsys.readouterr().err
    assert re.search(r"warning: whole: originals not found, .*--hr.*/gone\n", warning)
    assert warning.count("\n") == 1
    assert "originals not found" in " ".join(without.whole.text)
    assert without.crops == []
    labels = [layer["data-label"] for layer in without.articles[0].dividers[0]]
    assert labels[0] == "Restored x1.5"
    for place in ("plain", "set/whole", "set/whole/HR"):
        shutil.copytree(run / "data", tmp_path / place, dirs_exist_ok=True)
        folder = tmp_path / place.partition("/")[0]
        found = reported(own, "--hr", folder)
        assert capsys.readouterr().err == ""
        assert [c.text for c in found.crops] == [c.text for c in page.crops]


def test_some_originals_are_missing(
    run: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run / "data", tmp_path / "some")
    (tmp_path / "some" / "rocket.png").unlink()
    page = reported(own, "--hr", tmp_path / "some")
    assert "has no original of rocket: specify the folder with --hr" in capsys.readouterr().err
    assert [len(article.dividers) for article in page.articles] == [1, 1, 1]
    assert not any("rocket" in "".join(crop.text) for crop in page.crops)


def test_restored_images_are_missing(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images_folder(own) / "rocket_x2.5_hr.png").unlink()
    page = reported(own)
    assert "1 restored images are missing" in capsys.readouterr().err
    article = next(a for a in page.articles if a.text[0].strip() == "rocket")
    assert len(article.dividers[0]) == 12
    for path in images_folder(own).glob("*.png"):
        path.unlink()
    page = reported(own)
    assert "saved no images; set save_img: true" in capsys.readouterr().err
    assert page.whole.dividers == []
    assert len(page.whole.tables) == 4


# --- what goes wrong ------------------------------------------------------------------------------

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
    own: Path, capsys: pytest.CaptureFixture[str], spoil: Spoiler, message: str
) -> None:
    arguments = spoil(own)
    before = sorted(own.rglob("*"))
    assert cli.main(["report", str(own), *map(str, arguments)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(rf"rescale: error: .*{message}.*\n", printed.err), printed.err
    assert sorted(own.rglob("*")) == before


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report"]) == 2
    assert "RESULTS" in capsys.readouterr().err


# --- parts ----------------------------------------------------------------------------------------

OUTCOME = Outcome("set", "image", "x2", "AIDN", "", {}, Path("lr.png"), Path("hr.png"))


@pytest.mark.parametrize("size", [(300, 200), (97, 96), (96, 300), (40, 120), (8, 8)])
def test_crops_stay_within_the_image_and_find_the_error(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    before = generator.integers(0, 256, (*size, 3), np.uint8)
    after = before.copy()
    y, x = size[0] - 3, size[1] // 2
    after[y, x] ^= 255
    after[0, 0] ^= 1
    first, *others = worst_crops(before, after, OUTCOME, 50)
    shape = (min(SIZE, size[0]), min(SIZE, size[1]), 3)
    assert first.original.shape == first.restored.shape == shape
    assert first.top <= y < first.top + shape[0]
    assert first.left <= x < first.left + shape[1]
    assert first.psnr == pytest.approx(psnr(first.original, first.restored))
    assert all(crop.original.shape == shape and crop.error > 0 for crop in others)
    assert len(others) <= 1
    assert worst_crops(before, before, OUTCOME, 50) == []


# --- in a browser ---------------------------------------------------------------------------------


@pytest.mark.browser
def test_in_a_browser(browser: Any, page: Page, run: Path) -> None:
    from selenium.webdriver import ActionChains

    browser.get((run / "results" / "evaluated" / "report.html").as_uri())
    compare = browser.find_element("css selector", "article rescale-compare")
    browser.execute_script("arguments[0].scrollIntoView()", compare)
    inside = compare.shadow_root

    def one(selector: str) -> Any:
        return inside.find_element("css selector", selector)

    def zooms() -> list[float]:
        """The zoom of both images under the divider and of all panes."""
        images = inside.find_elements("css selector", ".layer img")
        styles = [image.get_attribute("style") for image in images]
        return [float(re.search(r"scale\(([\d.]+)\)", style)[1]) for style in styles]  # type: ignore[index]

    def in_the_middle() -> list[tuple[float, float]]:
        """The point of the scene in the middle of each view."""
        return [
            tuple(point)
            for point in browser.execute_script(
                "return [...arguments[0].shadowRoot.querySelectorAll('.layer img')].map(img => {"
                " const m = new DOMMatrix(img.style.transform), v = img.closest('.view');"
                " return [(v.clientWidth / 2 - m.e) / m.a, (v.clientHeight / 2 - m.f) / m.d]; })",
                compare,
            )
        ]

    divider = one(".divider")
    assert divider.get_attribute("aria-valuenow") == "50"
    width = one(".stage").size["width"]
    ActionChains(browser).drag_and_drop_by_offset(divider, int(width / 4), 0).perform()
    assert int(divider.get_attribute("aria-valuenow")) == pytest.approx(75, abs=1)
    assert re.search(r"inset\(0(px)? 0(px)? 0(px)? 7[456]\.?\d*%\)",
                     one(".layer:nth-child(2)").get_attribute("style"))  # fmt: skip

    before = zooms()
    assert len(before) == 2 + 16
    assert len(set(before)) == 1
    one("button[aria-label='Zoom in']").click()
    assert zooms() == pytest.approx([1.5 * zoom for zoom in before], rel=1e-3)
    middle = in_the_middle()
    ActionChains(browser).move_to_element_with_offset(
        one(".stage"), -100, 40
    ).click_and_hold().move_by_offset(60, 30).release().perform()
    moved = in_the_middle()
    assert moved[0] != pytest.approx(middle[0], abs=1)
    for point in moved[1:]:
        assert point == pytest.approx(moved[0], abs=0.5)
    loaded = (
        "return [...arguments[0].shadowRoot.querySelectorAll('img')].every(i => i.naturalWidth)"
    )
    assert browser.execute_script(loaded, compare)

    crop = browser.find_element("css selector", ".crop rescale-compare").shadow_root
    assert crop.find_elements("css selector", ".divider")
    assert not crop.find_elements("css selector", "select")
    browser.execute_script(
        "document.querySelectorAll('article, .crop').forEach("
        "e => e.style.contentVisibility = 'visible')"
    )
    for width in (380, 1400):
        for dark in (False, True):
            set_device(browser, width, dark)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            assert faint_texts(browser) == []
    assert browser.get_log("browser") == []

"""``rescale report``: what is on the page of a test and of a benchmark."""

import csv
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training
from report_page import (
    METRICS,
    ODD,
    SCALES,
    Report,
    file_of,
    images_folder,
    original,
    pixels,
    psnr,
    reported,
)
from training import changed

from rescale_app.html.error_levels import error_image, error_levels
from rescale_app.report import images as report_images
from rescale_app.report.results import Outcome
from rescale_app.report.worst_crops import SIZE, worst_crops
from rescale_data.image_file import read_image
from rescale_model.options import read_options

HEADINGS = [
    "Gain over bicubic, PSNR Y, dB",
    "PSNR Y, dB",
    "SSIM RGB",
    "PSNR RGB of the LR image, dB",
    "PSNR Y of bicubic, dB",
]


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


def test_nothing_comes_from_elsewhere(report: Report) -> None:
    assert "://" not in report.html
    assert "@import" not in report.html
    loading = {"src", "srcset", "href", "xlink:href", "action", "data", "poster"}
    addresses = [value for name, value in report.attributes if name in loading]
    assert len(addresses) > 20
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in addresses)
    assert set(re.findall(r"url\(.", report.html)) <= {"url(#"}


def test_it_states_what_was_tested(report: Report) -> None:
    text = " ".join(report.whole.text)
    for fact in (
        "evaluated",
        "AIDN, num_feat 8",
        "tiny.safetensors",
        "whole (3)",
        ", ".join(SCALES),
    ):
        assert fact in text
    assert re.search(r"Test of \d{4}-\d\d-\d\d \d\d:\d\d\b", text)
    assert report.plots == ["PSNR over the scale: whole"]
    (plot,) = re.findall(r"<svg.*?</svg>", report.html, re.S)
    assert {"AIDN", "bicubic", "PSNR Y, dB"} <= set(re.findall(r">([^<>]+)</text>", plot))


def test_means_are_in_a_table(report: Report, tested: Path) -> None:
    folder = images_folder(tested / "results" / "evaluated")
    means = json.loads((folder / "metrics.json").read_text())["mean"]
    header, *rows = report.whole.tables[0]
    assert header == ["Scale", *HEADINGS]
    assert rows == [
        [scale, gain(mean), *(shown(value, metric) for metric, value in mean.items())]
        for scale, mean in means.items()
    ]


def test_all_figures_of_the_csv_are_in_tables(report: Report, tested: Path) -> None:
    folder = images_folder(tested / "results" / "evaluated")
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    articles = {article.text[0].strip(): article for article in report.articles}
    for row in rows:
        (table,) = articles[row["image"]].tables
        assert table[0] == ["Scale", *HEADINGS]
        assert [row["case"], gain(row), *(shown(row[m], m) for m in METRICS)] in table
    totals = [sum(float(line[2]) for line in a.tables[0][1:]) for a in report.articles]
    assert totals == sorted(totals)


def test_a_divider_for_each_image(report: Report, tested: Path) -> None:
    folder = images_folder(tested / "results" / "evaluated")
    assert {a.text[0].strip() for a in report.articles} == {"astronaut", "rocket", ODD}
    for article in report.articles:
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
        assert np.array_equal(pixels(layers[0]), original(tested, image))
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
            y = [luma(each)[inner] for each in (original(tested, image), pixels(bicubic))]
            assert psnr(*y) == pytest.approx(float(figures["bicubic_psnr_y"]), abs=0.01)
            assert "data-errors" in errors
            assert file_of(errors) == error_image(
                error_levels(original(tested, image), pixels(bicubic))
            )
        assert all(layer["loading"] == "lazy" for layer in layers)


def test_the_worst_crops_come_first(report: Report, tested: Path) -> None:
    folder = images_folder(tested / "results" / "evaluated")
    figures, places = [], []
    for crop in report.crops:
        text = "|".join(crop.text)
        match = re.search(r"([^|]+) (x[\d.x]+)\|([\d.]+) dB\|AIDN, whole, at (\d+), (\d+)", text)
        assert match is not None, text
        image, scale, left, top = match[1], match[2], int(match[4]), int(match[5])
        there = slice(top, top + SIZE), slice(left, left + SIZE)
        ((before, after),) = crop.dividers
        assert np.array_equal(pixels(before), original(tested, image)[there])
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
        psnr(
            original(tested, image)[y : y + SIZE, x : x + SIZE],
            restored[y : y + SIZE, x : x + SIZE],
        )
        for image in ("astronaut", "rocket", ODD)
        for scale in SCALES
        for restored in [read_image(folder / f"{image}_{scale}_hr.png")]
        for y in {*range(0, restored.shape[0] - SIZE + 1, 24), restored.shape[0] - SIZE}
        for x in {*range(0, restored.shape[1] - SIZE + 1, 24), restored.shape[1] - SIZE}
    ]
    assert figures[0] == pytest.approx(min(every), abs=0.006)
    assert 4 <= len(figures) <= 24


def test_fewer_crops(own_results: Path, report: Report) -> None:
    fewer = reported(own_results, "--crops", 2)
    assert [crop.text for crop in fewer.crops] == [crop.text for crop in report.crops[:2]]
    assert reported(own_results, "--crops", 0).crops == []


def test_images_end_at_the_limit(own_results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = reported(own_results, "--limit", 0.25, "--crops", 0)
    warning = capsys.readouterr().err
    assert 1 <= sum(len(article.dividers) for article in some.articles) < 3
    assert some.articles[0].dividers
    assert [len(article.tables) for article in some.articles] == [1, 1, 1]
    assert re.search(r"only metrics are shown, since images are limited to 0\.25 MB", warning)
    assert warning.count("\n") == 1
    assert "only metrics are shown" in " ".join(some.whole.text)


def test_large_images_are_scaled_down(own_results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_images, "LONGEST", 120)
    smaller = reported(own_results)
    article = next(a for a in smaller.articles if a.text[0].strip() == ODD)
    sizes = [pixels(layer).shape[:2] for layer in article.dividers[0]]
    assert sizes[:4] == [(114, 120)] * 4
    assert max(map(max, sizes)) <= 120
    assert "240 \N{MULTIPLICATION SIGN} 228 pixels, shown with 120" in " ".join(article.text)
    assert all(pixels(layer).shape == (96, 96, 3) for c in smaller.crops for layer in c.dividers[0])


@pytest.fixture(scope="module")
def benchmark_run(tmp_path_factory: pytest.TempPathFactory, hr_folder: Path, weights: str) -> Path:
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
    report = reported(benchmark_run)
    text = " ".join(report.whole.text)
    assert "bicubic, tiny" in text
    assert "Time and memory per megapixel" in text
    titles = [f"{name}, {file}" for name in ("Set5", "Set14") for file in ("png", "jpeg75")]
    assert report.plots == [f"PSNR over the scale: {title}" for title in titles]
    with open(benchmark_run / "benchmark.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    articles = {article.text[0].strip(): article for article in report.articles}
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
    gains, mean = [t for t in report.whole.tables if t[0] == ["Method, LR file", "x2", "x3"]][:2]
    methods = {"tiny, png", "tiny, effort 10, png", "tiny, jpeg75"}
    assert {line[0] for line in gains[1:]} == methods
    assert "Gain over bicubic, PSNR Y, dB" in text
    assert mean[1][0] == "bicubic, png"
    assert mean[1][1] == shown(rows[0]["ssim"], "ssim")  # of the only image of the set
    for article in report.articles:
        assert len(article.dividers) == 2  # one for each scale
        for layers in article.dividers:
            assert len(layers) == 16
            assert len({layer["data-name"] for layer in layers}) == 16
    assert report.crops
    assert all("tiny, " in "".join(crop.text) for crop in report.crops)


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

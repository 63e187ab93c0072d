"""`rescale compare` on images and folders, and with other codecs at equal bytes."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from rescale_app import Rescaler
from rescale_app.cli import main
from rescale_app.equal_bytes import AVIF, JPEG, WEBP, available_codecs, within_bytes
from rescale_app.quality import image_quality
from rescale_data.encoding import encode_image
from rescale_data.image_file import decode_image, read_image, write_image
from rescale_data.quality_search import highest_quality

SIZES = {"a": (64, 80), "b": (71, 59), "c": (90, 90)}


def crop(name: str) -> np.ndarray:
    height, width = SIZES[name]
    return np.ascontiguousarray(data.astronaut()[20 : 20 + height, 130 : 130 + width])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for name in SIZES:
        write_image(f"in/{name}.png", crop(name))
    return tmp_path


def read_csv(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_gets_one_table_with_means(folder: Path, weights: str, capsys: Any) -> None:
    assert main(["compare", "in", "-s", "2", "--csv", "out.csv", "--weights", weights]) == 0
    out = capsys.readouterr().out
    rescaler = Rescaler(weights)
    comparisons = {name: rescaler.compare(crop(name), 2) for name in SIZES}
    for name, comparison in comparisons.items():
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name}.png")]
        size = f"{SIZES[name][1]}x{SIZES[name][0]}"
        figures = [comparison.bicubic_quality.psnr_y, comparison.quality.psnr_y]
        assert line.split()[1] == size
        assert line.split()[3:] == [f"{figure:.2f}" for figure in figures]
    (means,) = [line for line in out.splitlines() if line.startswith("AIDN")]
    for attribute, index in (("psnr", 4), ("psnr_y", 6)):
        mean = np.mean([getattr(c.quality, attribute) for c in comparisons.values()])
        assert means.split()[index] == f"{mean:.2f}"
    mean = np.mean([c.lr_psnr_y for c in comparisons.values()])
    assert f"{mean:.2f} dB Y" in out
    rows = read_csv("out.csv")
    assert [(row["image"], row["method"]) for row in rows] == [
        (f"{name}.png", method) for name in SIZES for method in ("bicubic", "AIDN")
    ]
    for row in rows:
        comparison = comparisons[row["image"][0]]
        quality = comparison.quality if row["method"] == "AIDN" else comparison.bicubic_quality
        for name in ("psnr", "ssim", "psnr_y", "ssim_y"):
            assert float(row[name]) == pytest.approx(getattr(quality, name), abs=1e-6)
    content = encode_image(comparisons["a"].lr.pixels, ".png", info=comparisons["a"].lr.info)
    assert int(rows[1]["bytes"]) == len(content)
    assert float(rows[1]["bits_per_pixel"]) == pytest.approx(8 * len(content) / (64 * 80))


def test_a_file_that_fails_does_not_stop_the_rest(folder: Path, weights: str, capsys: Any) -> None:
    Path("in", "broken.png").write_bytes(b"x")
    write_image("in/small.png", crop("a")[:12])
    assert main(["compare", "in", "-s", "2", "--csv", "out.csv", "--weights", weights]) == 1
    printed = capsys.readouterr()
    assert "mean of 3" in printed.out
    assert "2 of 5 images failed" in printed.out
    errors = printed.err.splitlines()
    assert [line.split(": ")[2] for line in errors] == ["in/broken.png", "in/small.png"]
    assert len(read_csv("out.csv")) == 6


def test_panels_of_a_folder(folder: Path, weights: str) -> None:
    assert main(["compare", "in", "-s", "2.5", "-o", "out", "--weights", weights]) == 0
    names = sorted(path.name for path in Path("out").iterdir())
    assert names == [f"{name}-x2.5.png" for name in SIZES]


@pytest.mark.parametrize(
    ("arguments", "code", "culprit"),
    [
        (["in", "-o", "in"], 2, "in: is the input folder"),
        (["in", "-o", "in/a.png"], 2, "in/a.png: is a file, but the input in is a folder"),
        (["in", "--csv", "no/out.csv"], 1, "no: no such folder"),
        (
            ["in", "--format", "png", "--quality", "90"],
            2,
            "--quality requires --format jpg or webp",
        ),
        (["."], 1, ".: no images in this folder (not read: 1 subfolder)"),
    ],
)
def test_bad_usage(
    arguments: list[str], code: int, culprit: str, folder: Path, weights: str, capsys: Any
) -> None:
    assert main(["compare", *arguments, "--weights", weights]) == code
    assert culprit in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "suffix", "quality"),
    [([], ".png", None), (["--quality", "80"], ".jpg", 80), (["--format", "webp"], ".webp", None)],
)
def test_codecs_spend_at_most_the_bytes_of_the_lr_file(
    options: list[str], suffix: str, quality: int | None, folder: Path, weights: str, capsys: Any
) -> None:
    image = "in/c.png"
    command = ["compare", image, "-s", "2", "--codecs", "--csv", "out.csv", "--weights", weights]
    assert main([*command, *options]) == 0
    out = capsys.readouterr().out
    rows = {row["method"]: row for row in read_csv("out.csv")}
    assert list(rows) == ["bicubic", "AIDN", *(codec.name for codec in available_codecs())]
    rescaler, hr = Rescaler(weights), crop("c")
    lr = rescaler.downscale(hr, 2)
    content = encode_image(lr.pixels, suffix, quality=quality, info=lr.info)
    limit = int(rows["AIDN"]["bytes"])
    assert limit == len(content)
    restored = rescaler.upscale(decode_image(content, "x"), 2, hr.shape[:2])
    psnr = image_quality(hr, restored, 2).psnr_y
    assert float(rows["AIDN"]["psnr_y"]) == pytest.approx(psnr, abs=1e-5)
    assert f"{psnr:.2f}" in out
    for codec in available_codecs():
        row = rows[codec.name]
        assert int(row["bytes"]) <= limit
        buffer = io.BytesIO()
        options_ = {"quality": int(row["codec_quality"]), **codec.options}
        Image.fromarray(hr).save(buffer, codec.format, **options_)
        assert len(buffer.getvalue()) == int(row["bytes"])
        decoded = np.asarray(Image.open(buffer).convert("RGB"))
        expected = image_quality(hr, decoded, 2).psnr_y
        assert float(row["psnr_y"]) == pytest.approx(expected, abs=1e-5)


def test_a_codec_that_cannot_fit_is_omitted_and_counted(
    folder: Path, weights: str, capsys: Any
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    write_image("in/noise.png", noise)
    command = ["compare", "in", "-s", "4", "--codecs", "--quality", "1", "--csv", "out.csv"]
    assert main([*command, "--weights", weights]) == 0
    rows = [row for row in read_csv("out.csv") if row["method"] == "JPEG"]
    out = capsys.readouterr().out
    assert ("JPEG (" in out) == (len(rows) < 4)
    assert within_bytes(noise, JPEG, 100) is None


def test_lossy_lr_files_are_restored_with_the_weights_for_them(folder: Path, capsys: Any) -> None:
    for options, name in ((["--quality", "90"], "aidn-plus"), ([], "aidn-small")):
        assert main(["compare", "in/c.png", "-s", "2", *options]) == 0
        out = capsys.readouterr().out
        rescaler, hr = Rescaler(name), crop("c")
        lr = rescaler.downscale(hr, 2)
        suffix, quality = (".jpg", 90) if options else (".png", None)
        stored = decode_image(encode_image(lr.pixels, suffix, quality=quality), "x")
        psnr = image_quality(hr, rescaler.upscale(stored, 2, hr.shape[:2]), 2).psnr_y
        assert f"{psnr:.2f}" in out
    assert read_image("c-x2.png").shape[1] > 3 * 90


@pytest.mark.parametrize("codec", [JPEG, WEBP, AVIF], ids=lambda codec: codec.name)
def test_the_quality_found_is_the_highest(codec: Any) -> None:
    if codec not in available_codecs():
        pytest.skip(f"needs a Pillow with {codec.name}")
    image = crop("c")
    for limit in (1500, 3000):
        coded = within_bytes(image, codec, limit)
        assert coded is not None
        assert coded.bytes <= limit
        sizes = []
        for quality in range(coded.quality + 1, 101):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, codec.format, quality=quality, **codec.options)
            sizes.append(len(buffer.getvalue()))
        # files need not grow at every step
        assert sum(size <= limit for size in sizes) <= 2


@given(st.lists(st.integers(0, 500), min_size=100, max_size=100), st.integers(0, 600), st.data())
def test_bisection_finds_the_highest_quality(
    sizes: list[int], limit: int, drawn: st.DataObject
) -> None:
    lowest = drawn.draw(st.integers(1, 100))
    growing = sorted(sizes)
    found = highest_quality(lambda quality: bytes(growing[quality - 1]), limit, lowest)
    fitting = [quality for quality in range(lowest, 101) if growing[quality - 1] <= limit]
    if fitting:
        assert found == (fitting[-1], bytes(growing[fitting[-1] - 1]))
    else:
        assert found is None

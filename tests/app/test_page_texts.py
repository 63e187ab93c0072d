"""Texts and colors of the page of ``rescale demo``, and messages about its options."""

import numpy as np
import pytest

from rescale_app import cli
from rescale_app.html.error_levels import COLORS, MOST, error_image, error_levels
from rescale_app.page import results
from rescale_app.page.jobs import Status
from rescale_app.quality import Quality
from rescale_data.image_file import decode_image


def test_error_map_has_the_colors_of_its_scale() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    levels = error_levels(one, other)
    assert np.array_equal(levels, np.abs(one.astype(int) - other).max(axis=2))
    ends = np.array([[0, MOST, 255]], np.uint8)
    pixels = decode_image(error_image(ends), "errors.png")
    last = [int(COLORS[-1][i : i + 2], 16) for i in (1, 3, 5)]
    assert pixels[0].tolist() == [[0, 0, 4], last, last]


@pytest.mark.parametrize(
    ("restored", "bicubic", "text"),
    [
        (38.06, 33.82, "restored at 38.1 dB, 4.2 dB better than bicubic"),
        (30, 31.5, "restored at 30.0 dB, 1.5 dB worse than bicubic"),
        (30.02, 30, "restored at 30.0 dB, like bicubic"),
        (np.inf, 40, "restored at \N{INFINITY} dB, \N{INFINITY} dB better than bicubic"),
        (np.inf, np.inf, "restored at \N{INFINITY} dB, like bicubic"),
    ],
)
def test_gain_in_words(restored: float, bicubic: float, text: str) -> None:
    qualities = [Quality(0, 0, psnr_y, 0) for psnr_y in (restored, bicubic)]
    assert results.gain_text(*qualities) == text


@pytest.mark.parametrize(
    ("done", "seconds", "text"),
    [
        (0.5, 1, ""),
        (0.01, 60, ""),
        (0.5, 4, "about 4 s left"),
        (0.25, 12, "about 35 s left"),
        (0.1, 40, "about 6 min left"),
        (0.999, 60, "about 1 s left"),
    ],
)
def test_time_left(done: float, seconds: float, text: str) -> None:
    assert results.time_left(done, seconds) == text


def test_there_is_one_percentage_over_both_round_trips() -> None:
    html = results.status_html(Status(0, "Restoring", 0.5, 6.0), 0.6, 0.4, 10.0)
    assert html.count("%") == 1
    assert "80 %" in html and "Restoring, about 4 s left" in html
    assert "Waiting for 2 others" in results.status_html(Status(2))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--max-size", "0"], "--max-size must be at least 1"),
        (["--max-megapixels", "0"], "--max-megapixels must be above 0"),
        (["--max-megapixels", "nan"], "--max-megapixels must be above 0"),
        (["--weights", "no.pth"], "no.pth"),
    ],
)
def test_bad_options_are_named(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gradio", reason="needs the extra demo")
    assert cli.main(["demo", *arguments]) == 1
    assert told in capsys.readouterr().err

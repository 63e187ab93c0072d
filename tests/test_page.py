"""The page of ``rescale demo``: what it computes, its files, and the page itself in a browser."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rescale_app import cli
from rescale_app.html.error_levels import COLORS, MOST, error_image, error_levels
from rescale_app.page import results
from rescale_app.page.round_trip import LongestSide, make_round_trip, restore, scale_for_longest
from rescale_app.page.workspace import Workspace
from rescale_app.rescaler import Rescaler
from rescale_data.image_file import decode_image, read_image, read_info, write_image

WIDTH, HEIGHT = 100, 76


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (19, 25, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("pictures") / "a picture.png"
    write_image(path, coarse.repeat(4, axis=0).repeat(4, axis=1))
    return path


@pytest.fixture(scope="module")
def rescalers() -> dict[str, Rescaler]:
    return {name: Rescaler(name, "cpu") for name in ("aidn-small", "aidn-plus")}


def test_round_trip_and_back(picture: Path, rescalers: dict[str, Rescaler], tmp_path: Path) -> None:
    told: list[float] = []
    trip = make_round_trip(
        picture, rescalers["aidn-plus"], 2.5, 80, tmp_path, lambda _, done: told.append(done)
    )
    assert told == sorted(told)
    assert read_image(trip.lr_file).shape == (31, 40, 3)
    info = read_info(trip.jpeg_file)
    assert info is not None and info.size == (HEIGHT, WIDTH)
    assert trip.jpeg.psnr < trip.comparison.quality.psnr
    html = results.round_trip_html(trip)
    assert f"{trip.comparison.quality.psnr_y:.2f}" in html
    assert f"{trip.jpeg.psnr_y:.2f}" in html
    assert trip.bicubic_jpeg.psnr < trip.comparison.bicubic_quality.psnr
    assert f"{trip.bicubic_jpeg.psnr_y:.2f}" in html

    back = restore(trip.lr_file, rescalers, tmp_path, lambda text, done: None)
    assert (back.weights, back.warning) == ("aidn-plus", "")
    assert np.array_equal(read_image(back.file), trip.comparison.restored)

    others = {"aidn-small": rescalers["aidn-small"]}
    assert "poor" in restore(trip.lr_file, others, tmp_path, lambda text, done: None).warning


def test_tiles_are_told_of(picture: Path, tmp_path: Path) -> None:
    rescaler = Rescaler("aidn-small", "cpu", tile=48)
    told: list[tuple[str, float]] = []
    trip = make_round_trip(
        picture, rescaler, LongestSide(40), 90, tmp_path, lambda *step: told.append(step)
    )
    assert trip.comparison.lr.pixels.shape == (31, 40, 3)
    assert told == sorted(told, key=lambda step: step[1])
    texts = [text for text, _ in told]
    assert texts.count("Downscaling, 100%") == 1 and texts.count("Restoring, 100%") == 2
    assert len(told) > 10
    assert rescaler.progress is False


def test_a_picture_without_a_record_is_not_restored(
    picture: Path, rescalers: dict[str, Rescaler], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"a picture\.png contains no record"):
        restore(picture, rescalers, tmp_path, lambda text, done: None)


@pytest.mark.parametrize("longest", [25, 40, 99])
def test_scale_for_longest(longest: int) -> None:
    assert max(WIDTH, HEIGHT) / scale_for_longest((HEIGHT, WIDTH), longest) == longest


@pytest.mark.parametrize("longest", [0, 24, 100, 101])
def test_impossible_longest_side_is_named(longest: int) -> None:
    with pytest.raises(ValueError, match=f"it can become 25 to 99, not {longest}"):
        scale_for_longest((HEIGHT, WIDTH), longest)


def test_error_map_has_the_colours_of_its_scale() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    levels = error_levels(one, other)
    assert np.array_equal(levels, np.abs(one.astype(int) - other).max(axis=2))
    ends = np.array([[0, MOST, 255]], np.uint8)
    pixels = decode_image(error_image(ends), "errors.png")
    last = [int(COLORS[-1][i : i + 2], 16) for i in (1, 3, 5)]
    assert pixels[0].tolist() == [[0, 0, 4], last, last]


def test_workspace_keeps_nothing() -> None:
    with Workspace() as workspace:
        first = workspace.fresh("one", "shrink")
        other = workspace.fresh("two", "shrink")
        (first / "file").touch()
        second = workspace.fresh("one", "shrink")
        assert (first.exists(), second.exists(), other.exists()) == (False, True, True)
        workspace.forget("two")
        assert not other.exists()
    assert not workspace.root.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--max-size", "0"], "--max-size must be at least 1"), (["--weights", "no.pth"], "no.pth")],
)
def test_bad_options_are_named(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gradio", reason="needs the extra demo")
    assert cli.main(["demo", *arguments]) == 1
    assert told in capsys.readouterr().err


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("gradio", reason="needs the extra demo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "server.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "rescale_app.cli", "demo", "--port", str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: "The page is at" in log.read_text() or server.poll() is not None, 120)
        assert server.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0, log.read_text()


def until(met: Any, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (value := met()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
    return value


@pytest.mark.browser
def test_page(browser: Any, address: str, picture: Path) -> None:
    def find(selector: str) -> Any:
        return until(lambda: browser.find_elements("css selector", selector))[0]

    def facts(where: str) -> str:
        return str(find(f"{where} .rescale-facts").text)

    browser.get(address)
    find("#picture input[type=file]").send_keys(str(picture))
    until(lambda: browser.find_elements("css selector", "#result rescale-compare"))
    assert "40 \N{MULTIPLICATION SIGN} 31" in facts("#result")

    # the slider
    number = find("#scale input[type=number]")
    number.clear()
    number.send_keys("2\t")
    until(lambda: "50 \N{MULTIPLICATION SIGN} 38" in facts("#result"))
    assert re.search(r"\d\d\.\d\d", find("#result .rescale-figures").text)

    # the divider
    from selenium.webdriver import ActionChains

    def divider() -> Any:
        compare = find("#result rescale-compare")
        return compare.shadow_root.find_element("css selector", ".divider")

    browser.execute_script("arguments[0].scrollIntoView()", find("#result rescale-compare"))
    ActionChains(browser).drag_and_drop_by_offset(divider(), 60, 0).perform()
    assert int(divider().get_attribute("aria-valuenow")) > 50

    # download, and drop it back in
    link = find("#result .rescale-link").get_attribute("href")
    fetch = (
        "const done = arguments[1];"
        "fetch(arguments[0]).then(r => r.arrayBuffer())"
        ".then(b => done(Array.from(new Uint8Array(b))));"
    )
    small = picture.with_name("small.png")
    small.write_bytes(bytes(browser.execute_async_script(fetch, link)))
    info = read_info(small)
    assert info is not None and (info.scale, info.size) == ((2.0, 2.0), (HEIGHT, WIDTH))
    find("[role=tab]:nth-of-type(2)").click()
    find("#small input[type=file]").send_keys(str(small))
    until(lambda: browser.find_elements("css selector", "#restored rescale-compare"))
    assert "100 \N{MULTIPLICATION SIGN} 76" in facts("#restored")

    # a phone
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 380, "height": 800, "deviceScaleFactor": 1, "mobile": True},
    )
    width = "return document.documentElement.scrollWidth"
    until(lambda: browser.execute_script(width) <= 380, 10)
    find("[role=tab]:nth-of-type(1)").click()
    until(lambda: find("#result rescale-compare").is_displayed())
    until(lambda: browser.execute_script(width) <= 380, 10)
    # nothing came from elsewhere
    names = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    assert [
        name
        for name in browser.execute_script(names)
        if not name.startswith((address, "data:", f"blob:{address}"))
    ] == []

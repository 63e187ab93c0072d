"""Downscaling on the page of ``rescale demo``, in a browser: results, settings, messages."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
from demo_page import ODD, TIMES, DemoPage, assert_equal, until

from rescale_app.included_weights import weights_with_fingerprint
from rescale_app.quality import image_quality
from rescale_app.rescaler import Rescaler
from rescale_data.image_file import read_image, read_info

pytestmark = pytest.mark.browser


def test_a_sample_is_done_when_the_page_opens(
    demo: DemoPage, demo_rescaler: Rescaler, tmp_path: Path
) -> None:
    comparison = demo_rescaler.compare(skimage.data.chelsea(), 2.5)
    restored, bicubic = comparison.quality.psnr_y, comparison.bicubic_quality.psnr_y
    heading = demo.text("#result h2")
    assert re.match(rf"\d+ kB \N{{RIGHTWARDS ARROW}} \d+ kB, 181 {TIMES} 120; ", heading)
    numbers = re.search(r"; restored at ([\d.]+) dB, ([\d.]+) dB better than bicubic$", heading)
    assert numbers is not None
    expected = [restored, restored - bicubic]
    assert [*map(float, numbers.groups())] == pytest.approx(expected, abs=0.07)
    compare = demo.one("#result rescale-compare").shadow_root
    tags = compare.find_elements("css selector", ".tag")
    assert [tag.text for tag in tags] == ["Bicubic", "Restored"]

    files = {}
    for where in ("#result", "#jpeg"):
        link = demo.one(f"{where} .rescale-head a")
        file = tmp_path / link.get_attribute("download")
        file.write_bytes(demo.download(link.get_attribute("href")))
        files[where] = file
    assert_equal(read_image(files["#result"]), comparison.lr.pixels)
    assert files["#result"].suffix == ".png" and files["#jpeg"].suffix == ".jpg"
    info = read_info(files["#jpeg"])
    assert info is not None and weights_with_fingerprint(info.weights) == "aidn-plus"
    assert re.search(r"As JPEG of quality 90: .* better than bicubic", demo.text("#jpeg h2"))

    assert "SSIM" not in demo.text("#result")
    demo.one("#result summary").click()
    assert "SSIM" in demo.text("#result") and "LR fidelity" in demo.text("#result")
    names = [each.text.strip() for each in demo.all("#weights label")]
    assert names == ["Fast", "Best", "For JPEG", "x16"]
    # nothing came from elsewhere
    names = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    assert [
        name
        for name in demo.run(names)
        if not name.startswith((demo.address, "data:", f"blob:{demo.address}"))
    ] == []


def test_samples_have_thumbnails(demo: DemoPage) -> None:
    demo.one("#samples button img")
    thumbnails = demo.all("#samples button img")
    assert [image.get_attribute("alt") for image in thumbnails] == [
        "Cat", "Coffee", "Astronaut", "Rocket",
    ]  # fmt: skip
    until(lambda: all(demo.run("return arguments[0].naturalWidth", each) for each in thumbnails))
    thumbnails[3].click()
    demo.wait_for("#result", "rocket.png")
    demo.wait_until_idle()


def test_files_are_dropped_anywhere_and_pasted(demo: DemoPage, demo_images: Path) -> None:
    assert demo.give("dragover", demo_images / "small.png")
    assert "rescale-dropping" in demo.one("body").get_attribute("class")
    assert demo.give("drop", demo_images / "small.png")
    assert "rescale-dropping" not in demo.one("body").get_attribute("class")
    demo.wait_for("#result", "small.png")
    assert demo.give("paste", demo_images / "other.png")
    demo.wait_for("#result", "other.png")
    assert f"32 {TIMES} 24" in demo.text("#result h2")
    demo.wait_until_idle()
    assert demo.browser.current_url == demo.address


def test_settings(demo: DemoPage, demo_images: Path) -> None:
    demo.upload(demo_images / "small.png")
    demo.wait_for("#result h2", f"40 {TIMES} 31")
    demo.wait_until_idle()
    demo.set("scale", 2)
    demo.wait_for("#result h2", f"50 {TIMES} 38")
    demo.wait_until_idle()
    # of what only quality changes, PNG is not part
    png, jpeg = demo.links("#result"), demo.links("#jpeg")
    demo.set("quality", 30)
    demo.wait_for("#jpeg h2", "As JPEG of quality 30")
    demo.wait_until_idle()
    assert demo.links("#result") == png
    assert demo.links("#jpeg") != jpeg
    assert {demo.status_code(link) for link in demo.links("#result")} == {200}
    # the longest side starts at what it is
    demo.choose("by", "Longest side")
    longest = demo.one("#longest input")
    until(lambda: longest.get_attribute("value") == "50")
    assert demo.links("#result") == png
    demo.set("longest", 30)
    demo.wait_for("#result h2", f"30 {TIMES} 23")
    demo.wait_until_idle()
    demo.set("longest", 7)
    demo.wait_for("#status", "small.png: the longest side is 100: it can become 25 to 99, not 7")
    assert f"30 {TIMES} 23" in demo.text("#result h2")


def test_png_comes_first(demo: DemoPage, demo_images: Path) -> None:
    demo.run(
        "const seen = window.seen = [];"
        "const text = id => document.querySelector(id)?.innerText ?? '';"
        "const look = () => seen.push([text('#result .rescale-name'), text('#jpeg')]);"
        "new MutationObserver(look).observe(document.body, {childList: true, subtree: true});"
    )
    demo.upload(demo_images / "small.png")
    demo.wait_for("#result", "small.png")
    demo.wait_until_idle()
    below = [jpeg for name, jpeg in demo.run("return seen") if name == "small.png"]
    assert "What JPEG does to it is being computed." in below[0]
    assert "As JPEG of quality 90" in below[-1]
    tops = [demo.one(where).location["y"] for where in ("#result", "#jpeg")]
    assert tops == sorted(tops)


def test_lists_are_those_of_the_browser(demo: DemoPage) -> None:
    """Which close themselves, and are operated by the keyboard."""
    assert demo.all("[role=listbox], [role=combobox], .gradio-dropdown") == []
    compare = demo.one("#result rescale-compare").shadow_root
    assert len(compare.find_elements("css selector", "select")) == 2


def test_a_network_with_one_factor(demo: DemoPage) -> None:
    until(demo.one("#scale").is_displayed)
    demo.choose("weights", "x16")
    demo.wait_for("#result h2", f"29 {TIMES} 19")
    demo.wait_until_idle()
    assert not any(box.is_displayed() for box in demo.all("#by, #scale, #longest"))
    assert demo.one("#effort").is_displayed()
    demo.one("#result summary").click()
    demo.wait_for("#result .rescale-facts", "x16: VQIR 16")


def test_effort(demo: DemoPage, demo_images: Path, tmp_path: Path) -> None:
    psnr = "return +document.querySelector(`${arguments[0]} .best td`)?.textContent"
    demo.upload(demo_images / "small.png")
    demo.wait_for("#result", "small.png")
    demo.wait_until_idle()
    without = {where: demo.run(psnr, where) for where in ("#result", "#jpeg")}
    shown = demo.links("#result")
    demo.set("effort", 3)
    until(lambda: demo.links("#result") != shown)
    demo.wait_until_idle()
    for where, before in without.items():
        demo.one(f"{where} summary").click()
        demo.wait_for(f"{where} .rescale-facts", "3 steps of optimization")
        assert demo.run(psnr, where) >= before > 20
    # an unchanged `rescale up` restores the file to what the page shows
    views = demo.links("#result")
    (restored,) = (view for view in views if view.endswith("/restored.png"))
    link = demo.one("#result .rescale-head a")
    lr, back = tmp_path / link.get_attribute("download"), tmp_path / "back.png"
    lr.write_bytes(demo.download(link.get_attribute("href")))
    (tmp_path / "shown.png").write_bytes(demo.download(restored))
    command = [sys.executable, "-m", "rescale_app.cli", "up", str(lr), "-o", str(back)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert_equal(read_image(back), read_image(tmp_path / "shown.png"))
    quality = image_quality(read_image(demo_images / "small.png"), read_image(back), 3)
    assert quality.psnr_y == pytest.approx(demo.run(psnr, "#result"), abs=0.07)
    # without effort again: another result
    demo.set("effort", 0)
    until(lambda: demo.run(psnr, "#result") == without["#result"])
    demo.wait_until_idle()


def test_effort_can_be_cancelled(demo: DemoPage, demo_images: Path) -> None:
    demo.set("effort", 30)
    demo.upload(demo_images / "medium.png")
    until(lambda: re.search(r"^\d+ % Optimizing, about \d+ \w+ left$", demo.text("#status")))
    heading = demo.text("#result h2")
    demo.one("#cancel").click()
    demo.wait_for("#status", "Cancelled.")
    until(lambda: not demo.all("#cancel"))
    assert demo.text("#result h2") == heading
    demo.set("effort", 0)
    demo.wait_for("#result", "medium.png")
    demo.wait_until_idle()


def test_a_result_stays_until_the_next_is_there(demo: DemoPage, demo_images: Path) -> None:
    demo.upload(demo_images / "small.png")
    demo.wait_for("#result", "small.png")
    demo.wait_until_idle()
    shown = demo.links("#result") + demo.links("#jpeg")
    assert len(shown) == 2 * 8
    demo.upload(demo_images / "minutes.png")
    until(lambda: demo.all("#status progress"))
    assert re.search(r"^\d+ % ", demo.text("#status"))
    assert demo.links("#result") + demo.links("#jpeg") == shown
    assert {demo.status_code(link) for link in shown} == {200}
    demo.one("#cancel").click()
    demo.wait_for("#status", "Cancelled.")
    until(lambda: not demo.all("#cancel"))
    assert {demo.status_code(link) for link in shown} == {200}
    demo.upload(demo_images / "other.png")
    demo.wait_for("#result", "other.png")
    demo.wait_until_idle()
    until(lambda: demo.status_code(shown[0]) != 200)


def test_a_newer_request_takes_the_place_of_a_running_one(
    demo: DemoPage, demo_images: Path
) -> None:
    demo.choose("weights", "Best")
    demo.upload(demo_images / "minutes.png")
    until(lambda: demo.all("#status progress"))
    demo.upload(demo_images / "small.png")
    demo.wait_for("#result", "small.png")
    demo.wait_until_idle()


def test_a_run_ends_when_its_visitor_is_gone(demo: DemoPage, demo_images: Path) -> None:
    browser = demo.browser
    demo.choose("weights", "Best")
    demo.upload(demo_images / "minutes.png")
    until(lambda: "Downscaling" in demo.text("#status"))
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    second = DemoPage(browser, demo.address)
    second.upload(demo_images / "small.png")
    second.wait_for("#status", "Waiting for 1 other")
    handle = browser.current_window_handle
    browser.switch_to.window(first)
    browser.close()
    browser.switch_to.window(handle)
    second.wait_for("#result", "small.png")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("huge.png", "huge.png is 1600x1600, 2.56 megapixels: this page accepts up to 2.5."),
        ("broken.png", "broken.png: not an image"),
    ],
)
def test_errors_leave_the_result_where_it_is(
    demo: DemoPage, demo_images: Path, file: str, message: str
) -> None:
    heading = demo.text("#result h2")
    demo.upload(demo_images / file)
    demo.wait_for("#status [role=alert]", message)
    assert demo.text("#result h2") == heading
    assert not demo.all("#cancel")


def test_names_are_shown_as_they_are(demo: DemoPage, demo_images: Path) -> None:
    demo.upload(demo_images / "odd" / ODD)
    demo.wait_for("#result .rescale-name", ODD)
    demo.wait_until_idle()
    demo.choose("by", "Longest side")
    demo.set("longest", 3)
    demo.wait_for("#status [role=alert]", f"{ODD}: the longest side is 100")

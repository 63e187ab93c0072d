"""The page of ``rescale demo`` in a browser."""

import base64
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
import skimage.data
from looks import faint_texts, set_device

from rescale_app.included_weights import weights_with_fingerprint
from rescale_app.page.weights import load_rescalers
from rescale_app.quality import image_quality
from rescale_app.rescaler import Rescaler
from rescale_data.image_file import read_image, read_info, write_image

pytestmark = pytest.mark.browser

ODD = "a <b>&amp; 'x' ü!.png"
TIMES = "\N{MULTIPLICATION SIGN}"
MEGAPIXELS = 2.5


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files to upload: small ones, one that takes minutes, and one that is too large."""
    folder = tmp_path_factory.mktemp("images")
    astronaut = skimage.data.astronaut()
    write_image(folder / "small.png", astronaut[40:116, 160:260])
    write_image(folder / "other.png", astronaut[140:200, 160:240])
    (folder / "odd").mkdir()
    (folder / "odd" / ODD).write_bytes((folder / "small.png").read_bytes())
    write_image(folder / "medium.png", astronaut)
    write_image(folder / "minutes.png", np.tile(astronaut, (3, 3, 1)))
    write_image(folder / "huge.png", np.zeros((1600, 1600, 3), np.uint8))
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("gradio", reason="needs the extra demo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "server.log"
    command = [sys.executable, "-m", "rescale_app.cli", "demo", "--port", str(port)]
    with log.open("w") as out:
        server = subprocess.Popen(
            [*command, "--max-megapixels", str(MEGAPIXELS)], stdout=out, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: "The page is at" in log.read_text() or server.poll() is not None, 180)
        assert server.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    assert code == 0, log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="module")
def rescaler() -> Rescaler:
    """The page's default."""
    return next(iter(load_rescalers([]).values()))


def assert_equal(one: Any, other: Any) -> None:
    """Equal up to rounding: the page may compute in bfloat16."""
    assert one.shape == other.shape
    assert np.abs(one.astype(int) - other).max() <= 4


def until(met: Any, seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (value := met()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return value


class Page:
    """The page in a browser."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        self.address = address
        browser.get(address)
        until(lambda: self.all("#picture") and self.all("#result h2"))

    def all(self, selector: str) -> list[Any]:
        return list(self.browser.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        return until(lambda: self.all(selector))[0]

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        """The text of an element, which may be replaced while it is read; empty without one."""
        script = "return document.querySelector(arguments[0])?.innerText ?? ''"
        return str(self.run(script, selector))

    def upload(self, file: Path, button: str = "picture") -> None:
        box = f"[class*=rescale-input]:has(#{button}) input[type=file]"
        self.one(box).send_keys(str(file))

    def wait_for(self, selector: str, text: str) -> None:
        until(lambda: text in self.text(selector))

    def wait_until_idle(self) -> None:
        until(lambda: "Drop an image" in self.text("#status"))

    def set(self, field: str, value: Any) -> None:
        number = self.one(f"#{field} input[type=number]")
        number.clear()
        number.send_keys(f"{value}\t")

    def choose(self, group: str, label: str) -> None:
        labels = f"#{group} label"
        until(
            lambda: [e.click() is None for e in self.all(labels) if e.text.strip() == label],
        )

    def links(self, where: str) -> list[str]:
        """The addresses of the download and of all images of a result."""
        return list(
            self.run(
                "return [...document.querySelectorAll(`${arguments[0]} a, ${arguments[0]} img`)]"
                ".map(e => e.href || e.src)",
                where,
            )
        )

    def status_code(self, link: str) -> int:
        return int(self._fetch(link, "done(response.status)"))

    def download(self, link: str) -> bytes:
        read = (
            "response.blob().then(blob => { const reader = new FileReader();"
            " reader.onload = () => done(reader.result.split(',')[1]);"
            " reader.readAsDataURL(blob) })"
        )
        return base64.b64decode(self._fetch(link, read))

    def give(self, event: str, file: Path) -> bool:
        """Drops or pastes a file; returns whether the browser is kept from opening it."""
        return bool(
            self.run(
                "const bytes = Uint8Array.from(atob(arguments[1]), c => c.charCodeAt(0));"
                "const data = new DataTransfer();"
                "data.items.add(new File([bytes], arguments[2], {type: 'image/png'}));"
                "const options = {bubbles: true, cancelable: true};"
                "const event = arguments[0] === 'paste'"
                " ? new ClipboardEvent('paste', {...options, clipboardData: data})"
                " : new DragEvent(arguments[0], {...options, dataTransfer: data});"
                "document.querySelector('.rescale-header').dispatchEvent(event);"
                "return event.defaultPrevented",
                event,
                base64.b64encode(file.read_bytes()).decode(),
                file.name,
            )
        )

    def device(self, width: int, dark: bool = False) -> None:
        set_device(self.browser, width, dark)

    def _fetch(self, link: str, then: str) -> Any:
        return self.browser.execute_async_script(
            f"const done = arguments[1]; fetch(arguments[0]).then(response => {{ {then} }});", link
        )


@pytest.fixture
def page(browser: Any, address: str) -> Page:
    return Page(browser, address)


# --- what comes first -----------------------------------------------------------------------------


def test_a_sample_is_done_when_the_page_opens(
    page: Page, rescaler: Rescaler, tmp_path: Path
) -> None:
    comparison = rescaler.compare(skimage.data.chelsea(), 2.5)
    restored, bicubic = comparison.quality.psnr_y, comparison.bicubic_quality.psnr_y
    heading = page.text("#result h2")
    assert re.match(rf"\d+ kB \N{{RIGHTWARDS ARROW}} \d+ kB, 181 {TIMES} 120; ", heading)
    numbers = re.search(r"; restored at ([\d.]+) dB, ([\d.]+) dB better than bicubic$", heading)
    assert numbers is not None
    expected = [restored, restored - bicubic]
    assert [*map(float, numbers.groups())] == pytest.approx(expected, abs=0.07)
    compare = page.one("#result rescale-compare").shadow_root
    tags = compare.find_elements("css selector", ".tag")
    assert [tag.text for tag in tags] == ["Bicubic", "Restored"]

    files = {}
    for where in ("#result", "#jpeg"):
        link = page.one(f"{where} .rescale-head a")
        file = tmp_path / link.get_attribute("download")
        file.write_bytes(page.download(link.get_attribute("href")))
        files[where] = file
    assert_equal(read_image(files["#result"]), comparison.lr.pixels)
    assert files["#result"].suffix == ".png" and files["#jpeg"].suffix == ".jpg"
    info = read_info(files["#jpeg"])
    assert info is not None and weights_with_fingerprint(info.weights) == "aidn-plus"
    assert re.search(r"As JPEG of quality 90: .* better than bicubic", page.text("#jpeg h2"))

    assert "SSIM" not in page.text("#result")
    page.one("#result summary").click()
    assert "SSIM" in page.text("#result") and "LR fidelity" in page.text("#result")
    names = [each.text.strip() for each in page.all("#weights label")]
    assert names == ["Fast", "Best", "For JPEG", "By 16"]
    # nothing came from elsewhere
    names = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    assert [
        name
        for name in page.run(names)
        if not name.startswith((page.address, "data:", f"blob:{page.address}"))
    ] == []


def test_samples_have_thumbnails(page: Page) -> None:
    page.one("#samples button img")
    thumbnails = page.all("#samples button img")
    assert [image.get_attribute("alt") for image in thumbnails] == [
        "Cat", "Coffee", "Astronaut", "Rocket",
    ]  # fmt: skip
    until(lambda: all(page.run("return arguments[0].naturalWidth", each) for each in thumbnails))
    thumbnails[3].click()
    page.wait_for("#result", "rocket.png")
    page.wait_until_idle()


# --- computing ------------------------------------------------------------------------------------


def test_files_are_dropped_anywhere_and_pasted(page: Page, images: Path) -> None:
    assert page.give("dragover", images / "small.png")
    assert "rescale-dropping" in page.one("body").get_attribute("class")
    assert page.give("drop", images / "small.png")
    assert "rescale-dropping" not in page.one("body").get_attribute("class")
    page.wait_for("#result", "small.png")
    assert page.give("paste", images / "other.png")
    page.wait_for("#result", "other.png")
    assert f"32 {TIMES} 24" in page.text("#result h2")
    page.wait_until_idle()
    assert page.browser.current_url == page.address


def test_settings(page: Page, images: Path) -> None:
    page.upload(images / "small.png")
    page.wait_for("#result h2", f"40 {TIMES} 31")
    page.wait_until_idle()
    page.set("scale", 2)
    page.wait_for("#result h2", f"50 {TIMES} 38")
    page.wait_until_idle()
    # of what only quality changes, PNG is not part
    png, jpeg = page.links("#result"), page.links("#jpeg")
    page.set("quality", 30)
    page.wait_for("#jpeg h2", "As JPEG of quality 30")
    page.wait_until_idle()
    assert page.links("#result") == png
    assert page.links("#jpeg") != jpeg
    assert {page.status_code(link) for link in page.links("#result")} == {200}
    # the longest side starts at what it is
    page.choose("by", "Longest side")
    longest = page.one("#longest input")
    until(lambda: longest.get_attribute("value") == "50")
    assert page.links("#result") == png
    page.set("longest", 30)
    page.wait_for("#result h2", f"30 {TIMES} 23")
    page.wait_until_idle()
    page.set("longest", 7)
    page.wait_for("#status", "small.png: the longest side is 100: it can become 25 to 99, not 7")
    assert f"30 {TIMES} 23" in page.text("#result h2")


def test_png_comes_first(page: Page, images: Path) -> None:
    page.run(
        "const seen = window.seen = [];"
        "const text = id => document.querySelector(id)?.innerText ?? '';"
        "const look = () => seen.push([text('#result .rescale-name'), text('#jpeg')]);"
        "new MutationObserver(look).observe(document.body, {childList: true, subtree: true});"
    )
    page.upload(images / "small.png")
    page.wait_for("#result", "small.png")
    page.wait_until_idle()
    below = [jpeg for name, jpeg in page.run("return seen") if name == "small.png"]
    assert "What JPEG does to it is being computed." in below[0]
    assert "As JPEG of quality 90" in below[-1]
    tops = [page.one(where).location["y"] for where in ("#result", "#jpeg")]
    assert tops == sorted(tops)


def test_lists_are_those_of_the_browser(page: Page) -> None:
    """Which close themselves, and are operated by the keyboard."""
    assert page.all("[role=listbox], [role=combobox], .gradio-dropdown") == []
    compare = page.one("#result rescale-compare").shadow_root
    assert len(compare.find_elements("css selector", "select")) == 2


def test_a_network_with_one_factor(page: Page) -> None:
    until(page.one("#scale").is_displayed)
    page.choose("weights", "By 16")
    page.wait_for("#result h2", f"29 {TIMES} 19")
    page.wait_until_idle()
    assert not any(box.is_displayed() for box in page.all("#by, #scale, #longest"))
    assert page.one("#effort").is_displayed()
    page.one("#result summary").click()
    page.wait_for("#result .rescale-facts", "By 16: VQIR 16")


def test_effort(page: Page, images: Path, tmp_path: Path) -> None:
    psnr = "return +document.querySelector(`${arguments[0]} .best td`)?.textContent"
    page.upload(images / "small.png")
    page.wait_for("#result", "small.png")
    page.wait_until_idle()
    without = {where: page.run(psnr, where) for where in ("#result", "#jpeg")}
    shown = page.links("#result")
    page.set("effort", 3)
    until(lambda: page.links("#result") != shown)
    page.wait_until_idle()
    for where, before in without.items():
        page.one(f"{where} summary").click()
        page.wait_for(f"{where} .rescale-facts", "3 steps of optimization")
        assert page.run(psnr, where) >= before > 20
    # an unchanged `rescale up` restores the file to what the page shows
    views = page.links("#result")
    (restored,) = (view for view in views if view.endswith("/restored.png"))
    link = page.one("#result .rescale-head a")
    lr, back = tmp_path / link.get_attribute("download"), tmp_path / "back.png"
    lr.write_bytes(page.download(link.get_attribute("href")))
    (tmp_path / "shown.png").write_bytes(page.download(restored))
    command = [sys.executable, "-m", "rescale_app.cli", "up", str(lr), "-o", str(back)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert_equal(read_image(back), read_image(tmp_path / "shown.png"))
    quality = image_quality(read_image(images / "small.png"), read_image(back), 3)
    assert quality.psnr_y == pytest.approx(page.run(psnr, "#result"), abs=0.07)
    # without effort again: another result
    page.set("effort", 0)
    until(lambda: page.run(psnr, "#result") == without["#result"])
    page.wait_until_idle()


def test_effort_can_be_cancelled(page: Page, images: Path) -> None:
    page.set("effort", 30)
    page.upload(images / "medium.png")
    until(lambda: re.search(r"^\d+ % Optimizing, about \d+ \w+ left$", page.text("#status")))
    heading = page.text("#result h2")
    page.one("#cancel").click()
    page.wait_for("#status", "Cancelled.")
    until(lambda: not page.all("#cancel"))
    assert page.text("#result h2") == heading
    page.set("effort", 0)
    page.wait_for("#result", "medium.png")
    page.wait_until_idle()


def test_a_result_stays_until_the_next_is_there(page: Page, images: Path) -> None:
    page.upload(images / "small.png")
    page.wait_for("#result", "small.png")
    page.wait_until_idle()
    shown = page.links("#result") + page.links("#jpeg")
    assert len(shown) == 2 * 8
    page.upload(images / "minutes.png")
    until(lambda: page.all("#status progress"))
    assert re.search(r"^\d+ % ", page.text("#status"))
    assert page.links("#result") + page.links("#jpeg") == shown
    assert {page.status_code(link) for link in shown} == {200}
    page.one("#cancel").click()
    page.wait_for("#status", "Cancelled.")
    until(lambda: not page.all("#cancel"))
    assert {page.status_code(link) for link in shown} == {200}
    page.upload(images / "other.png")
    page.wait_for("#result", "other.png")
    page.wait_until_idle()
    until(lambda: page.status_code(shown[0]) != 200)


def test_a_newer_request_takes_the_place_of_a_running_one(page: Page, images: Path) -> None:
    page.choose("weights", "Best")
    page.upload(images / "minutes.png")
    until(lambda: page.all("#status progress"))
    page.upload(images / "small.png")
    page.wait_for("#result", "small.png")
    page.wait_until_idle()


def test_a_run_ends_when_its_visitor_is_gone(page: Page, images: Path) -> None:
    browser = page.browser
    page.choose("weights", "Best")
    page.upload(images / "minutes.png")
    until(lambda: "Downscaling" in page.text("#status"))
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    second = Page(browser, page.address)
    second.upload(images / "small.png")
    second.wait_for("#status", "Waiting for 1 other")
    handle = browser.current_window_handle
    browser.switch_to.window(first)
    browser.close()
    browser.switch_to.window(handle)
    second.wait_for("#result", "small.png")


# --- messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("huge.png", "huge.png is 1600x1600, 2.56 megapixels: this page accepts up to 2.5."),
        ("broken.png", "broken.png: not an image"),
    ],
)
def test_errors_leave_the_result_where_it_is(
    page: Page, images: Path, file: str, message: str
) -> None:
    heading = page.text("#result h2")
    page.upload(images / file)
    page.wait_for("#status [role=alert]", message)
    assert page.text("#result h2") == heading
    assert not page.all("#cancel")


def test_names_are_shown_as_they_are(page: Page, images: Path) -> None:
    page.upload(images / "odd" / ODD)
    page.wait_for("#result .rescale-name", ODD)
    page.wait_until_idle()
    page.choose("by", "Longest side")
    page.set("longest", 3)
    page.wait_for("#status [role=alert]", f"{ODD}: the longest side is 100")


# --- restoring ------------------------------------------------------------------------------------


def test_restore_this(page: Page, images: Path, tmp_path: Path) -> None:
    page.upload(images / "small.png")
    page.wait_for("#result", "small.png")
    page.wait_until_idle()
    views = page.links("#result")
    for where, name in (("#result", "small-x2.5.png"), ("#jpeg", "small-x2.5-q90.jpg")):
        page.one(f"{where} [data-press]").click()
        page.wait_for("#restored .rescale-name", name)
        page.wait_for("#restored h2", f"40 {TIMES} 31 \N{RIGHTWARDS ARROW} 100 {TIMES} 76")
        link = page.one("#restored .rescale-head a")
        assert link.get_attribute("download") == f"{Path(name).stem}-restored.png"
        if where == "#result":
            (restored,) = (view for view in views if view.endswith("/restored.png"))
            for file, address in (("a.png", link.get_attribute("href")), ("b.png", restored)):
                (tmp_path / file).write_bytes(page.download(address))
            assert np.array_equal(read_image(tmp_path / "a.png"), read_image(tmp_path / "b.png"))
        page.one("[role=tab]:nth-of-type(1)").click()
        until(page.one("#result").is_displayed)


def test_a_file_without_a_record(page: Page, rescaler: Rescaler, tmp_path: Path) -> None:
    hr = skimage.data.astronaut()[40:116, 160:260]
    lr = rescaler.downscale(hr, 2.5)
    write_image(tmp_path / "stripped.png", lr.pixels)
    page.one("[role=tab]:nth-of-type(2)").click()
    until(page.one("#small").is_displayed)
    assert not page.all("#given-scale")
    page.upload(tmp_path / "stripped.png", "small")
    page.wait_for("#restore-status", "stripped.png contains no record")
    values = ("return ['scale', 'width', 'height'].map("
              "e => document.querySelector(`#given-${e} input`)?.value)")  # fmt: skip
    until(lambda: page.run(values) == ["2", "80", "62"])
    page.set("given-width", 0)
    page.one("#given-start").click()
    page.wait_for("#restore-status", "Scale, width and height of the original are needed.")
    for field, value in (("scale", 2.5), ("width", 100), ("height", 76)):
        page.set(f"given-{field}", value)
    page.one("#given-start").click()
    page.wait_for("#restored h2", f"40 {TIMES} 31 \N{RIGHTWARDS ARROW} 100 {TIMES} 76")
    assert "contains no record" in page.text("#restored")
    (tmp_path / "back.png").write_bytes(
        page.download(page.one("#restored .rescale-head a").get_attribute("href"))
    )
    assert_equal(read_image(tmp_path / "back.png"), rescaler.upscale(lr))
    # its name may say it
    (tmp_path / "stripped.png").rename(tmp_path / "other.s2.5.100x76.png")
    page.upload(tmp_path / "other.s2.5.100x76.png", "small")
    page.wait_for("#restored .rescale-name", "other.s2.5.100x76.png")
    assert "contains no record" in page.text("#restored")
    until(lambda: not page.all("#given-scale"))


# --- how it looks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1400, 380])
def test_layout(page: Page, width: int, dark: bool) -> None:
    page.device(width, dark)
    page.browser.get(page.address)
    until(lambda: page.all("#result rescale-compare"))
    assert ("dark" in page.one("body").get_attribute("class")) is dark
    for tab in (1, 2, 1):
        page.one(f"[role=tab]:nth-of-type({tab})").click()
        until(page.one(("#result", "#restored")[tab - 1]).is_displayed)
        until(lambda: page.run("return document.documentElement.scrollWidth") <= width, 10)
        box = page.run("return document.querySelector('.gradio-container').offsetWidth")
        assert box == min(width, 1360)
        assert faint_texts(page.browser) == []


def test_progress_does_not_move_the_result(page: Page, images: Path) -> None:
    top = "return document.querySelector('#result').getBoundingClientRect().top + scrollY"
    before = page.run(top)
    page.upload(images / "minutes.png")
    until(lambda: page.all("#cancel") and page.all("#status progress"))
    assert page.run(top) == before
    page.one("#cancel").click()
    page.wait_for("#status", "Cancelled.")
    assert page.run(top) == before


def test_a_phone_scrolls_to_the_result(page: Page, images: Path) -> None:
    page.device(380)
    page.run("scrollTo(0, document.body.scrollHeight)")
    page.set("quality", 89)  # at the end of the page
    page.upload(images / "small.png")
    page.wait_for("#result", "small.png")
    until(
        lambda: (
            0
            <= page.run("return document.querySelector('#result').getBoundingClientRect().top")
            < 425
        )
    )


def test_keyboard_focus_is_visible(page: Page) -> None:
    from selenium.webdriver import ActionChains, Keys

    focused = """
      let e = document.activeElement;
      while (e?.shadowRoot?.activeElement) e = e.shadowRoot.activeElement;
      if (!e || e === document.body) return null;
      // a radio button or a slider may have its outline on its label
      const outlined = [e, e.parentElement, getComputedStyle(e, '::after')].some(each => {
        const style = each instanceof Element ? getComputedStyle(each) : each;
        return style && style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
      });
      return [e.outerHTML.slice(0, 100), outlined];
    """
    stops = {}
    page.run("document.querySelector('.rescale-header').scrollIntoView()")
    for _ in range(40):
        ActionChains(page.browser).send_keys(Keys.TAB).perform()
        stop = page.run(focused)
        if stop is not None:
            stops[stop[0]] = stop[1]
    assert len(stops) > 15
    assert [html for html, outlined in stops.items() if not outlined] == []

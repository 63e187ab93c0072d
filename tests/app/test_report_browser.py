"""The page of ``rescale report`` in a browser."""

import re
from pathlib import Path
from typing import Any

import pytest
from looks import faint_texts, set_device
from report_page import Report


@pytest.mark.browser
def test_in_a_browser(browser: Any, report: Report, tested: Path) -> None:
    from selenium.webdriver import ActionChains

    browser.get((tested / "results" / "evaluated" / "report.html").as_uri())
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

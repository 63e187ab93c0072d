"""How the page of ``rescale demo`` looks in a browser, at every width, light and dark."""

from pathlib import Path

import pytest
from demo_page import DemoPage, until
from looks import faint_texts

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1400, 380])
def test_layout(demo: DemoPage, width: int, dark: bool) -> None:
    demo.device(width, dark)
    demo.browser.get(demo.address)
    until(lambda: demo.all("#result rescale-compare"))
    assert ("dark" in demo.one("body").get_attribute("class")) is dark
    for tab in (1, 2, 1):
        demo.one(f"[role=tab]:nth-of-type({tab})").click()
        until(demo.one(("#result", "#restored")[tab - 1]).is_displayed)
        until(lambda: demo.run("return document.documentElement.scrollWidth") <= width, 10)
        box = demo.run("return document.querySelector('.gradio-container').offsetWidth")
        assert box == min(width, 1360)
        assert faint_texts(demo.browser) == []


def test_progress_does_not_move_the_result(demo: DemoPage, demo_images: Path) -> None:
    top = "return document.querySelector('#result').getBoundingClientRect().top + scrollY"
    before = demo.run(top)
    demo.upload(demo_images / "minutes.png")
    until(lambda: demo.all("#cancel") and demo.all("#status progress"))
    assert demo.run(top) == before
    demo.one("#cancel").click()
    demo.wait_for("#status", "Cancelled.")
    assert demo.run(top) == before


def test_a_phone_scrolls_to_the_result(demo: DemoPage, demo_images: Path) -> None:
    demo.device(380)
    demo.run("scrollTo(0, document.body.scrollHeight)")
    demo.set("quality", 89)  # at the end of the page
    demo.upload(demo_images / "small.png")
    demo.wait_for("#result", "small.png")
    until(
        lambda: (
            0
            <= demo.run("return document.querySelector('#result').getBoundingClientRect().top")
            < 425
        )
    )


def test_keyboard_focus_is_visible(demo: DemoPage) -> None:
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
    demo.run("document.querySelector('.rescale-header').scrollIntoView()")
    for _ in range(40):
        ActionChains(demo.browser).send_keys(Keys.TAB).perform()
        stop = demo.run(focused)
        if stop is not None:
            stops[stop[0]] = stop[1]
    assert len(stops) > 15
    assert [html for html, outlined in stops.items() if not outlined] == []

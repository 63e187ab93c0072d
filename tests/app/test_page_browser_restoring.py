"""Restoring on the page of ``rescale demo``, in a browser."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from demo_page import TIMES, DemoPage, assert_equal, until

from rescale_app.rescaler import Rescaler
from rescale_data.image_file import read_image, write_image

pytestmark = pytest.mark.browser


def test_restore_this(demo: DemoPage, demo_images: Path, tmp_path: Path) -> None:
    demo.upload(demo_images / "small.png")
    demo.wait_for("#result", "small.png")
    demo.wait_until_idle()
    views = demo.links("#result")
    for where, name in (("#result", "small-x2.5.png"), ("#jpeg", "small-x2.5-q90.jpg")):
        demo.one(f"{where} [data-press]").click()
        demo.wait_for("#restored .rescale-name", name)
        demo.wait_for("#restored h2", f"40 {TIMES} 31 \N{RIGHTWARDS ARROW} 100 {TIMES} 76")
        link = demo.one("#restored .rescale-head a")
        assert link.get_attribute("download") == f"{Path(name).stem}-restored.png"
        if where == "#result":
            (restored,) = (view for view in views if view.endswith("/restored.png"))
            for file, address in (("a.png", link.get_attribute("href")), ("b.png", restored)):
                (tmp_path / file).write_bytes(demo.download(address))
            assert np.array_equal(read_image(tmp_path / "a.png"), read_image(tmp_path / "b.png"))
        demo.one("[role=tab]:nth-of-type(1)").click()
        until(demo.one("#result").is_displayed)


def test_a_file_without_a_record(demo: DemoPage, demo_rescaler: Rescaler, tmp_path: Path) -> None:
    hr = skimage.data.astronaut()[40:116, 160:260]
    lr = demo_rescaler.downscale(hr, 2.5)
    write_image(tmp_path / "stripped.png", lr.pixels)
    demo.one("[role=tab]:nth-of-type(2)").click()
    until(demo.one("#small").is_displayed)
    assert not demo.all("#given-scale")
    demo.upload(tmp_path / "stripped.png", "small")
    demo.wait_for("#restore-status", "stripped.png contains no record")
    values = ("return ['scale', 'width', 'height'].map("
              "e => document.querySelector(`#given-${e} input`)?.value)")  # fmt: skip
    until(lambda: demo.run(values) == ["2", "80", "62"])
    demo.set("given-width", 0)
    demo.one("#given-start").click()
    demo.wait_for("#restore-status", "Scale, width and height of the original are needed.")
    for field, value in (("scale", 2.5), ("width", 100), ("height", 76)):
        demo.set(f"given-{field}", value)
    demo.one("#given-start").click()
    demo.wait_for("#restored h2", f"40 {TIMES} 31 \N{RIGHTWARDS ARROW} 100 {TIMES} 76")
    assert "contains no record" in demo.text("#restored")
    (tmp_path / "back.png").write_bytes(
        demo.download(demo.one("#restored .rescale-head a").get_attribute("href"))
    )
    assert_equal(read_image(tmp_path / "back.png"), demo_rescaler.upscale(lr))
    # its name may say it
    (tmp_path / "stripped.png").rename(tmp_path / "other.s2.5.100x76.png")
    demo.upload(tmp_path / "other.s2.5.100x76.png", "small")
    demo.wait_for("#restored .rescale-name", "other.s2.5.100x76.png")
    assert "contains no record" in demo.text("#restored")
    until(lambda: not demo.all("#given-scale"))

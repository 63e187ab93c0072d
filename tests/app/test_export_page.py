"""The exported web page in a browser: it restores as the command does."""

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recipe
import torch
from exported_page import (
    INFO,
    PIXELS,
    ExportedPage,
    Handler,
    HandlerForOldBrowsers,
    IsolatingHandler,
)
from looks import faint_texts, set_device
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from side_data_images import P3, camera_exif
from skimage import data

from rescale_app import cli
from rescale_arch import AIDN
from rescale_data.exif import carried_exif
from rescale_data.image_file import LRInfo, read_image, write_image
from rescale_data.losses import Loss
from rescale_data.weight_file import save_weights

TIMES = "\N{MULTIPLICATION SIGN}"
TINY: dict[str, Any] = {"num_feat": 8, "num_block": 1, "adapt_interval": 1}


@pytest.fixture(scope="module")
def far_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network whose learned offsets exceed the margin that the page begins with."""
    net = recipe.fill(AIDN(**TINY))
    with torch.no_grad():
        net.get_parameter("up_net.sa_sample.offset.bias").copy_(torch.tensor([-9.0, 13.0]))
    path = tmp_path_factory.mktemp("weights") / "far.safetensors"
    save_weights(path, net.state_dict(), TINY)
    return path


@pytest.fixture(scope="module")
def site(far_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    folder = tmp_path_factory.mktemp("export") / "site"
    names = ("aidn-small", "aidn-plus", str(far_weights))
    weights = [word for name in names for word in ("--weights", name)]
    assert cli.main(["export", "page", "-o", str(folder), *weights]) == 0
    return folder


@pytest.fixture
def address(site: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    handler = getattr(request, "param", Handler)
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(site))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def browser_flags() -> tuple[str, ...]:
    return ("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",)  # no other server


@pytest.fixture
def page(browser: Any, address: str, tmp_path: Path) -> ExportedPage:
    return ExportedPage(browser, address, tmp_path / "downloads")


def shrunk(source: Path, target: Path, *options: str) -> Path:
    assert cli.main(["down", str(source), "-o", str(target), *options]) == 0
    return target


def restored(lr: Path, target: Path, *options: str) -> NDArray[Any]:
    assert cli.main(["up", str(lr), "-o", str(target), "--precision", "fp32", *options]) == 0
    return read_image(target)


def agree(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Within one level for 99.9 % of the samples."""
    assert first.shape == second.shape
    return float((np.abs(first.astype(int) - second) <= 1).mean()) >= 0.999


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("address", [Handler, IsolatingHandler], indirect=True)
def test_page_restores_as_the_command_does(
    page: ExportedPage, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = tmp_path / "cat.png"
    write_image(source, data.chelsea()[40:201, 100:301])
    png = shrunk(source, tmp_path / "cat-1.png", "-s", "2.5x1.7")
    jpeg = shrunk(source, tmp_path / "cat-2.jpg", "-s", "2", "--quality", "90")
    webp = shrunk(source, tmp_path / "cat-3.webp", "-s", "2.5")
    lossy = shrunk(source, tmp_path / "cat-4.webp", "-s", "2", "--quality", "90")
    for lr, weights in (
        (png, "aidn-small"),
        (jpeg, "aidn-plus"),
        (webp, "aidn-small"),
        (lossy, "aidn-plus"),
    ):
        found = page.restore(lr)
        expected = restored(lr, tmp_path / "expected.png")
        assert agree(found, expected), lr.name
        assert f"Weights {weights}" in page.find("details").text
        assert page.find("warnings").text == ""
        assert f"{lr.name}: restored to 201 {TIMES} 161" == page.find("summary").text
    assert "nothing is uploaded" in page.browser.find_element("tag name", "main").text
    isolated = page.browser.execute_script("return crossOriginIsolated")
    assert isolated == ("Isolating" in request.node.callspec.id)
    if not isolated:
        assert "WebAssembly, 1 thread " in page.find("details").text
    # nothing else was asked for, and nothing failed
    urls = page.browser.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    here = page.browser.current_url
    assert urls and all(url.startswith((here, f"blob:{here}")) for url in urls)
    severe = [line for line in page.browser.get_log("browser") if line["level"] == "SEVERE"]
    assert severe == []


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("is_transparent", [False, True])
def test_side_data_is_restored_as_by_the_command(
    page: ExportedPage, tmp_path: Path, is_transparent: bool
) -> None:
    colors = data.chelsea()[40:161, 100:281]
    height, width = colors.shape[:2]
    if is_transparent:
        rows, columns = np.mgrid[:height, :width]
        rings = 127.5 + 160 * np.sin(np.hypot(rows - 60, columns - 90) / 9)
        source = Image.fromarray(np.dstack([colors, rings.clip(0, 255).astype(np.uint8)]))
    else:
        source = Image.fromarray(colors)
    details = camera_exif().replace(b"Maker", b"Other")
    source.save(tmp_path / "cat.png", icc_profile=P3, exif=details)
    files = [("1.png",), ("2.webp",), ("3.webp", "--quality", "90")]
    if not is_transparent:
        files.append(("4.jpg", "--quality", "90"))
    for name, *options in files:
        lr = shrunk(tmp_path / "cat.png", tmp_path / name, "-s", "2.5x1.7", *options)
        found = page.restore(lr)
        expected = restored(lr, tmp_path / "expected.png")
        assert agree(found, expected), name
        assert page.find("warnings").text == ""
        with Image.open(page.saved(lr)) as one, Image.open(tmp_path / "expected.png") as other:
            assert one.mode == other.mode == ("RGBA" if is_transparent else "RGB")
            assert one.info["icc_profile"] == other.info["icc_profile"] == P3
            assert carried_exif(one.info["exif"]) == carried_exif(other.info["exif"])
            assert one.getexif()[271] == "Other"
            if is_transparent:
                alphas = [np.asarray(each)[..., 3].astype(int) for each in (one, other)]
                assert alphas[0].min() == 0 and alphas[0].max() == 255
                assert np.abs(alphas[0] - alphas[1]).max() <= 1


@pytest.mark.slow
@pytest.mark.browser
def test_what_is_dropped_is_said(
    page: ExportedPage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, lr = tmp_path / "cat.png", tmp_path / "lr.png"
    write_image(source, data.chelsea()[100:190, 100:220])
    shrunk(source, lr, "-s", "2.5")
    with Image.open(lr) as image:  # as an editor might write it
        texts = PngInfo()
        texts.add_text("rescale", image.info["rescale"])
        texts.add_text("Title", "Cat")
        frames = {"save_all": True, "append_images": [image.copy()]}
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        image.save(tmp_path / "edited.png", pnginfo=texts, icc_profile=lab, **frames)
    capsys.readouterr()
    expected = restored(tmp_path / "edited.png", tmp_path / "expected.png")
    told = capsys.readouterr().err
    found = page.restore(tmp_path / "edited.png")
    assert agree(found, expected)
    assert page.find("warnings").text.splitlines() == [
        "Only the first of several images is restored.",
        "The color profile is damaged or not for RGB, and is dropped.",
        "Metadata other than EXIF (XMP, IPTC, comments, texts) is dropped.",
    ]
    for loss in (Loss.FRAMES, Loss.PROFILE, Loss.METADATA):
        assert loss.value in told


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("address", [HandlerForOldBrowsers], indirect=True)
def test_without_exact_colors_under_transparency_the_page_says_so(
    page: ExportedPage, tmp_path: Path
) -> None:
    source = Image.fromarray(data.chelsea()[100:190, 100:220]).convert("RGBA")
    source.putalpha(99)
    source.save(tmp_path / "cat.png")
    lr = shrunk(tmp_path / "cat.png", tmp_path / "lr.png", "-s", "2.5")
    page.restore(lr)
    assert page.find("warnings").text == "Colors under transparency are inexact in this browser."


@pytest.mark.slow
@pytest.mark.browser
def test_texts_are_legible_at_every_width(page: ExportedPage, tmp_path: Path) -> None:
    write_image(tmp_path / "cat.png", data.chelsea()[100:190, 100:220])
    lr = shrunk(tmp_path / "cat.png", tmp_path / "lr.png", "-s", "2.5")
    (tmp_path / "notes.png").write_text("not an image")
    write_image(tmp_path / "bare.png", PIXELS)

    def check() -> None:
        for width in (1400, 380):
            for dark in (False, True):
                set_device(page.browser, width, dark)
                script = "return document.documentElement.scrollWidth"
                assert page.browser.execute_script(script) <= width
                assert faint_texts(page.browser) == []

    check()
    page.restore(lr)
    check()
    page.refuse(tmp_path / "notes.png")
    check()
    page.refuse(tmp_path / "bare.png")
    assert page.shows("geometry")
    check()


@pytest.mark.slow
@pytest.mark.browser
def test_tiles_equal_the_whole_and_can_be_canceled(
    page: ExportedPage, far_weights: Path, tmp_path: Path
) -> None:
    source = tmp_path / "large.png"
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (67, 80, 3), dtype=np.uint8)
    large = Image.fromarray(coarse).resize((1203, 1011), Image.Resampling.BICUBIC)
    write_image(source, np.asarray(large))
    weights = ("--weights", str(far_weights))
    lr = shrunk(source, tmp_path / "large-lr.png", "-s", "3.3x2.1", *weights)
    expected = restored(lr, tmp_path / "expected.png", "--tile", "none", *weights)

    page.browser.execute_script(
        "window.seen = [];"
        "new MutationObserver(() => window.seen.push(document.getElementById('bar').value))"
        ".observe(document.getElementById('bar'), { attributes: true });"
    )
    page.give(lr)
    page.until(lambda: "%" in page.find("step").text)
    page.find("cancel").click()
    assert not page.shows("progress") and not page.shows("result")
    page.browser.execute_script("window.seen = []")
    found = page.restore(lr)
    assert agree(found, expected)
    seen = page.browser.execute_script("return window.seen")
    steps = [value for value in seen if value > 0]
    assert steps == sorted(steps) and steps[-1] == 1
    assert len(set(steps)) == 6  # tiles


@pytest.mark.slow
@pytest.mark.browser
def test_invalid_files_are_reported(page: ExportedPage, tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("not an image")
    assert page.refuse(text) == "notes.png is not a PNG, JPEG or WebP file."

    info = LRInfo("vqir16", (16.0, 16.0), (320, 480), "sha256:0123456789abcdef")
    write_image(tmp_path / "vqir.png", PIXELS, info=info)
    assert "network vqir16, which this page does not have" in page.refuse(tmp_path / "vqir.png")

    info = LRInfo("aidn", (5.0, 5.0), (40, 100), "sha256:0123456789abcdef")
    write_image(tmp_path / "five.png", PIXELS, info=info)
    assert "this network restores scales up to 4." in page.refuse(tmp_path / "five.png")

    write_image(tmp_path / "cut.png", PIXELS, info=INFO)
    cut = (tmp_path / "cut.png").read_bytes()[:-15]
    (tmp_path / "cut.png").write_bytes(cut)
    assert "cut.png is damaged or incomplete" in page.refuse(tmp_path / "cut.png")

    write_image(tmp_path / "other.png", PIXELS, info=LRInfo("aidn", (2, 2), (20, 30), "sha256:0"))
    message = page.refuse(tmp_path / "other.png")
    assert f"is 20 {TIMES} 8, but the small image of 30 {TIMES} 20" in message


@pytest.mark.slow
@pytest.mark.browser
def test_files_without_a_record_are_restored_with_scale_and_size(
    page: ExportedPage, tmp_path: Path
) -> None:
    source = tmp_path / "cat.png"
    write_image(source, data.chelsea()[100:190, 100:220])
    with Image.open(shrunk(source, tmp_path / "lr.png", "-s", "2.5")) as image:
        image.save(tmp_path / "bare.png")  # without the record
    assert "contains no record" in page.refuse(tmp_path / "bare.png")
    assert page.shows("geometry")
    for name, value in (("scale", "9"), ("width", "120"), ("height", "90")):
        page.find(name).send_keys(value)
    page.find("height").submit()
    page.until(lambda: "Scale must be a number" in page.find("notice").text)
    page.find("scale").clear()
    page.find("scale").send_keys("2.5")
    page.find("height").submit()
    page.until(lambda: page.shows("result"))
    found = page.save(tmp_path / "bare.png")
    assert agree(found, restored(tmp_path / "lr.png", tmp_path / "expected.png"))
    assert "does not name its weights: restored with aidn-small" in page.find("warnings").text

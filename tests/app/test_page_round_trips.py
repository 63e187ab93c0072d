"""What the page of ``rescale demo`` computes."""

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from rescale_app.page import results
from rescale_app.page.computing import Source
from rescale_app.page.jobs import Cancelled
from rescale_app.page.restoring import Given, restore
from rescale_app.page.round_trip import (
    LongestSide,
    scale_for_longest,
    through_jpeg,
    through_png,
)
from rescale_app.page.weights import for_jpeg, titles, without_record
from rescale_app.page.workspace import Workspace
from rescale_app.rescaler import Rescaler
from rescale_arch import VQIR
from rescale_data.image_file import read_image, read_info, write_image
from rescale_data.weight_file import save_weights

WIDTH, HEIGHT = 100, 76
ENOUGH = 10**6


def nothing(step: str, done: float) -> None:
    """Progress that nobody looks at."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (19, 25, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("images") / "an image.png"
    write_image(path, coarse.repeat(4, axis=0).repeat(4, axis=1))
    return Source(path, "an image!.png")


@pytest.fixture(scope="module")
def rescalers() -> dict[str, Rescaler]:
    return {name: Rescaler(name, "cpu") for name in ("aidn-small", "aidn-plus")}


def test_round_trips_and_back(
    source: Source, rescalers: dict[str, Rescaler], tmp_path: Path
) -> None:
    told: list[float] = []
    small, plus = rescalers["aidn-small"], rescalers["aidn-plus"]
    (tmp_path / "png").mkdir()
    trip = through_png(
        source, small, 2.5, tmp_path / "png", lambda _, done: told.append(done), ENOUGH
    )
    assert told == sorted(told)
    assert read_image(trip.lr_file).shape == (31, 40, 3)
    expected = small.compare(read_image(source.path), 2.5)
    assert (trip.quality, trip.bicubic_quality) == (expected.quality, expected.bicubic_quality)
    html = results.png_html(trip, "Fast")
    assert f"{trip.quality.psnr_y:.2f}" in html and f"{trip.bicubic_quality.psnr_y:.2f}" in html
    assert "an image!.png" in html

    (tmp_path / "jpeg").mkdir()
    told.clear()
    jpeg = through_jpeg(trip, plus, 80, tmp_path / "jpeg", lambda _, done: told.append(done))
    assert told == sorted(told)
    info = read_info(jpeg.lr_file)
    assert info is not None
    assert (info.size, info.weights) == ((HEIGHT, WIDTH), plus.fingerprint)
    assert np.array_equal(jpeg.lr.pixels, plus.downscale(read_image(source.path), 2.5).pixels)
    assert jpeg.bicubic_quality.psnr < trip.bicubic_quality.psnr
    assert f"{jpeg.quality.psnr_y:.2f}" in results.jpeg_html(trip, jpeg, "For JPEG")

    for lr_file, name, restored in (
        (trip.lr_file, "aidn-small", trip.views["restored"]),
        (jpeg.lr_file, "aidn-plus", jpeg.views["restored"]),
    ):
        file = Source(lr_file, lr_file.name)
        record = read_info(lr_file)
        assert record is not None
        back = restore(file, record, rescalers, tmp_path, nothing, ENOUGH)
        assert (back.weights, back.warning) == (name, "")
        assert np.array_equal(read_image(back.file), read_image(restored))
        others = {key: value for key, value in rescalers.items() if key != name}
        assert "poor" in restore(file, record, others, tmp_path, nothing, ENOUGH).warning


def test_the_lr_image_for_jpeg_is_computed_once(
    source: Source, rescalers: dict[str, Rescaler], tmp_path: Path
) -> None:
    plus = rescalers["aidn-plus"]
    trip = through_png(source, rescalers["aidn-small"], 2, tmp_path, nothing, ENOUGH)
    first = through_jpeg(trip, plus, 90, tmp_path, nothing)
    second = through_jpeg(trip, plus, 50, tmp_path, nothing, first.lr)
    assert second.lr is first.lr
    assert second.lr_file.stat().st_size < first.lr_file.stat().st_size
    same = through_png(source, plus, 2, tmp_path, nothing, ENOUGH)
    assert through_jpeg(same, plus, 90, tmp_path, nothing).lr is same.lr


def test_effort_is_that_of_the_command(
    source: Source, rescalers: dict[str, Rescaler], tmp_path: Path
) -> None:
    hr = read_image(source.path)
    for folder in ("none", "png", "jpeg", "other"):
        (tmp_path / folder).mkdir()
    small, plus = rescalers["aidn-small"], rescalers["aidn-plus"]
    told: list[tuple[str, float]] = []

    def tell(step: str, done: float) -> None:
        told.append((step, done))

    plain = through_png(source, small, 2.5, tmp_path / "none", nothing, ENOUGH)
    trip = through_png(source, small, 2.5, tmp_path / "png", tell, ENOUGH, effort=4)
    assert [text for text, _ in told].count("Optimizing") == 4
    assert told == sorted(told, key=lambda step: step[1])
    assert trip.quality.psnr > plain.quality.psnr
    expected = Rescaler("aidn-small", "cpu", effort=4).downscale(hr, 2.5)
    assert np.array_equal(read_image(trip.lr_file), expected.pixels)
    assert "4 steps of optimization" in results.png_html(trip, "Fast")
    assert "Effort</dt><dd>none" in results.png_html(plain, "Fast")

    told.clear()
    jpeg = through_jpeg(trip, plus, 80, tmp_path / "jpeg", tell, effort=2)
    assert [text for text, _ in told].count("Optimizing") == 2
    assert told == sorted(told, key=lambda step: step[1])
    expected = Rescaler("aidn-plus", "cpu", effort=2, jpeg_quality=80).downscale(hr, 2.5)
    assert np.array_equal(jpeg.lr.pixels, expected.pixels)
    assert "2 steps of optimization" in results.jpeg_html(trip, jpeg, "For JPEG")
    # an LR image that was optimized for PNG is not used for JPEG
    same = through_png(source, plus, 2.5, tmp_path / "other", nothing, ENOUGH, effort=1)
    assert through_jpeg(same, plus, 80, tmp_path / "jpeg", nothing).lr is not same.lr
    assert [(each.effort, each.jpeg_quality) for each in (small, plus)] == [(0, None)] * 2


def test_effort_ends_when_progress_raises(source: Source, tmp_path: Path) -> None:
    rescaler = Rescaler("aidn-small", "cpu")

    def stop(text: str, done: float) -> None:
        if text == "Optimizing":
            raise Cancelled(False)

    with pytest.raises(Cancelled):
        through_png(source, rescaler, 2, tmp_path, stop, ENOUGH, effort=1000)
    assert (rescaler.effort, rescaler.progress) == (0, False)
    assert list(tmp_path.iterdir()) == []


def test_effort_is_offered_where_the_network_supports_it(
    source: Source, rescalers: dict[str, Rescaler]
) -> None:
    pytest.importorskip("gradio", reason="needs the extra demo")
    from rescale_app.page import page
    from rescale_app.page.handlers import BY_SCALE, Handlers

    able, unable = rescalers["aidn-small"], Rescaler("aidn-small", "cpu")
    unable.architecture = replace(unable.architecture, search=None)

    async def shrink(handlers: Handlers) -> Any:
        visitor = SimpleNamespace(session_hash="one")
        settings = (BY_SCALE, 2.0, None, "aidn-small", 90, 2)
        inputs: list[Any] = [str(source.path), source.name, *settings, visitor]
        return [update async for update in handlers.shrink(*inputs)][-1]

    with Workspace() as workspace:
        for rescaler, expected in ((able, "2 steps of optimization"), (unable, "none")):
            handlers = Handlers({"aidn-small": rescaler}, workspace, ENOUGH)
            built = page.build(handlers, {"Sample": source.path}, (Markup(), Markup()))
            blocks = {block.elem_id: block for block in built.blocks.values()}
            assert blocks["effort"].visible is (rescaler is able)
            _, _, *html = asyncio.run(shrink(handlers))
            for result in html:
                assert f"Effort</dt><dd>{expected}" in result


def test_tiles_are_told_of(source: Source, tmp_path: Path) -> None:
    rescaler = Rescaler("aidn-small", "cpu", tile=48)
    told: list[tuple[str, float]] = []
    trip = through_png(
        source, rescaler, LongestSide(40), tmp_path, lambda *step: told.append(step), ENOUGH
    )
    assert trip.lr.pixels.shape == (31, 40, 3)
    assert told == sorted(told, key=lambda step: step[1])
    assert {"Downscaling", "Restoring"} <= {text for text, _ in told}
    assert len(told) > 8
    assert rescaler.progress is False


@pytest.mark.parametrize("step", ["Downscaling", "Restoring"])
def test_a_computation_ends_when_progress_raises(source: Source, tmp_path: Path, step: str) -> None:
    rescaler = Rescaler("aidn-small", "cpu", tile=48)

    def stop(text: str, done: float) -> None:
        if text == step and done > 0.02:
            raise Cancelled(False)

    with pytest.raises(Cancelled):
        through_png(source, rescaler, 2, tmp_path, stop, ENOUGH)
    assert rescaler.progress is False
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_exact_tiles_can_be_stopped_between_layers(
    source: Source, tmp_path: Path
) -> None:
    config: dict[str, Any] = {"ch": 32, "ch_mult": [1] * 5, "num_res_blocks": 1}
    config |= {"z_channels": 32, "embed_dim": 32, "n_embed": 16}
    save_weights(tmp_path / "vqir.safetensors", VQIR(**config).state_dict(), config)
    rescaler = Rescaler(tmp_path / "vqir.safetensors", "cpu")
    calls = 0

    def stop(text: str, done: float) -> None:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise Cancelled(False)

    with pytest.raises(Cancelled):
        through_png(source, rescaler, None, tmp_path, stop, ENOUGH)
    assert calls == 21
    hooks = [module._forward_pre_hooks for module in rescaler.network.modules()]
    assert not any(hooks)


def test_jpeg_uses_the_weights_that_the_command_uses(
    rescalers: dict[str, Rescaler], tmp_path: Path
) -> None:
    assert for_jpeg("aidn-small", rescalers) == "aidn-plus"
    assert for_jpeg("aidn-plus", rescalers) == "aidn-plus"
    assert for_jpeg("aidn-small", {"aidn-small": rescalers["aidn-small"]}) == "aidn-small"
    assert [without_record(lossless, rescalers) for lossless in (True, False)] == [
        "aidn-small", "aidn-plus",
    ]  # fmt: skip
    assert titles(rescalers) == {"aidn-small": "Fast", "aidn-plus": "For JPEG"}


@pytest.mark.parametrize(("suffix", "weights"), [("png", "aidn-small"), ("jpg", "aidn-plus")])
def test_a_file_without_a_record_is_restored_with_what_is_given(
    source: Source, rescalers: dict[str, Rescaler], tmp_path: Path, suffix: str, weights: str
) -> None:
    lr = rescalers[weights].downscale(read_image(source.path), 2.5)
    path = tmp_path / f"stripped.{suffix}"
    write_image(path, lr.pixels)
    file = Source(path, path.name)
    given = Given(2.5, (HEIGHT, WIDTH))
    back = restore(file, given, rescalers, tmp_path, nothing, ENOUGH)
    assert (back.weights, back.created_by) == (weights, None)
    assert "contains no record" in back.warning
    expected = rescalers[weights].upscale(read_image(path), 2.5, (HEIGHT, WIDTH))
    assert np.array_equal(read_image(back.file), expected)
    assert "unknown" in results.restored_html(back, "Fast")
    with pytest.raises(ValueError, match="is 40x31, but the LR image of"):
        restore(file, Given(2.5, (HEIGHT, WIDTH + 9)), rescalers, tmp_path, nothing, ENOUGH)


def test_large_images_are_refused_before_they_are_decoded(
    rescalers: dict[str, Rescaler], tmp_path: Path
) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (16000, 12000)).save(path)
    with pytest.raises(ValueError, match=r"a\.png is 16000x12000, 192 megapixels: .* up to 24\."):
        through_png(
            Source(path, "a.png"), rescalers["aidn-small"], 2, tmp_path, nothing, 24 * 10**6
        )
    write_image(path, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"a\.png would become 9000x9000"):
        restore(
            Source(path, "a.png"),
            Given(4, (9000, 9000)),
            rescalers,
            tmp_path,
            nothing,
            24 * 10**6,
        )


@pytest.mark.parametrize("longest", [25, 40, 99])
def test_scale_for_longest(longest: int) -> None:
    assert max(WIDTH, HEIGHT) / scale_for_longest((HEIGHT, WIDTH), longest) == longest


@pytest.mark.parametrize("longest", [0, 24, 100, 101])
def test_impossible_longest_side_is_named(longest: int) -> None:
    with pytest.raises(ValueError, match=f"it can become 25 to 99, not {longest}"):
        scale_for_longest((HEIGHT, WIDTH), longest)

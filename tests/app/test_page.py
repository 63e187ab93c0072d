"""What the page of ``rescale demo`` computes, in which order, and its files."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from rescale_app import cli
from rescale_app.html.error_levels import COLORS, MOST, error_image, error_levels
from rescale_app.page import results
from rescale_app.page.computing import Source
from rescale_app.page.jobs import Cancelled, Job, Jobs, Status
from rescale_app.page.restoring import Given, restore
from rescale_app.page.round_trip import (
    LongestSide,
    scale_for_longest,
    through_jpeg,
    through_png,
)
from rescale_app.page.weights import for_jpeg, titles, without_record
from rescale_app.page.workspace import KEPT_SECONDS, Workspace
from rescale_app.quality import Quality
from rescale_app.rescaler import Rescaler
from rescale_arch import VQIR
from rescale_data.image_file import decode_image, read_image, read_info, write_image
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


# --- round trips ----------------------------------------------------------------------------------


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


# --- files without a record -----------------------------------------------------------------------


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


def test_error_map_has_the_colors_of_its_scale() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    levels = error_levels(one, other)
    assert np.array_equal(levels, np.abs(one.astype(int) - other).max(axis=2))
    ends = np.array([[0, MOST, 255]], np.uint8)
    pixels = decode_image(error_image(ends), "errors.png")
    last = [int(COLORS[-1][i : i + 2], 16) for i in (1, 3, 5)]
    assert pixels[0].tolist() == [[0, 0, 4], last, last]


# --- words ----------------------------------------------------------------------------------------


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


# --- jobs -----------------------------------------------------------------------------------------

Progress = Callable[[str, float], None]


class Work:
    """Work that goes on until it is let go, and counts what runs at the same time."""

    running = 0
    most = 0

    def __init__(self, result: str) -> None:
        self.result = result
        self.started = threading.Event()
        self.go = threading.Event()

    def __call__(self, progress: Progress) -> str:
        Work.running += 1
        Work.most = max(Work.most, Work.running)
        try:
            self.started.set()
            while not self.go.wait(0.01):
                progress("Working", 0.5)
            return self.result
        finally:
            Work.running -= 1


async def finish(job: Job[str]) -> str:
    async for _ in job.statuses():
        pass
    return job.result()


async def has_started(work: Work) -> None:
    assert await asyncio.to_thread(work.started.wait, 60)


def test_jobs_take_turns_in_the_order_of_arrival() -> None:
    async def run() -> None:
        jobs, works = Jobs(), [Work(name) for name in "abc"]
        started = [jobs.start(work.result, work) for work in works]
        await has_started(works[0])
        statuses: list[AsyncIterator[Status]] = [job.statuses() for job in started]
        assert [(await anext(each)).ahead for each in statuses] == [0, 1, 2]
        assert not works[1].started.is_set()
        for work, job in zip(works, started, strict=True):
            work.go.set()
            assert await finish(job) == work.result

    Work.most = 0
    asyncio.run(run())
    assert Work.most == 1


def test_a_newer_job_of_the_same_owner_takes_the_place_of_the_former() -> None:
    async def run() -> None:
        jobs, old, new, other = Jobs(), Work("old"), Work("new"), Work("other")
        former = asyncio.ensure_future(finish(jobs.start("me", old)))
        await has_started(old)
        waiting = jobs.start("other", other)
        latest = jobs.start("me", new)
        for work in (new, other):
            work.go.set()
        with pytest.raises(Cancelled) as caught:
            await former
        assert caught.value.superseded
        assert await finish(waiting) == "other"
        assert await finish(latest) == "new"
        assert not old.go.is_set()

    asyncio.run(run())


def test_a_job_that_waits_can_be_cancelled_and_does_not_start() -> None:
    async def run() -> None:
        jobs, first, second, third = Jobs(), Work("first"), Work("second"), Work("third")
        running = jobs.start("one", first)
        await has_started(first)
        waiting = jobs.start("two", second)
        jobs.cancel("two")
        with pytest.raises(Cancelled) as caught:
            await finish(waiting)
        assert not caught.value.superseded
        last = jobs.start("three", third)
        for work in (first, third):
            work.go.set()
        assert [await finish(running), await finish(last)] == ["first", "third"]
        assert not second.started.is_set()

    asyncio.run(run())


def test_a_job_ends_when_nobody_looks_at_it_any_more() -> None:
    async def run() -> None:
        jobs, left, next_ = Jobs(), Work("left"), Work("next")
        watch: Any = jobs.start("one", left).statuses()
        await anext(watch)
        await has_started(left)
        await watch.aclose()  # as Gradio does when the connection has ended
        next_.go.set()
        assert await finish(jobs.start("two", next_)) == "next"
        assert not left.go.is_set()

    asyncio.run(run())


def test_errors_of_a_job_are_those_of_its_work() -> None:
    def work(progress: Progress) -> str:
        raise ValueError("too small")

    async def run() -> None:
        jobs = Jobs()
        with pytest.raises(ValueError, match="too small"):
            await finish(jobs.start("me", work))
        done = Work("done")
        done.go.set()
        assert await finish(jobs.start("me", done)) == "done"

    asyncio.run(run())


# --- files of visitors ----------------------------------------------------------------------------


def test_a_result_stays_until_the_next_is_delivered() -> None:
    with Workspace() as workspace:
        with workspace.new("one", "png") as first:
            (first / "file").touch()
        with workspace.new("two", "png") as other:
            pass
        with workspace.new("one", "png") as second:
            assert first.exists()
        assert first.exists()
        workspace.delivered("one", "png", second)
        assert (first.exists(), second.exists(), other.exists()) == (False, True, True)
        with pytest.raises(ValueError, match="no result"), workspace.new("one", "png") as failed:
            raise ValueError("no result")
        assert (failed.exists(), second.exists()) == (False, True)
    assert not workspace.root.exists()


def test_results_outlive_a_lost_connection_for_a_while() -> None:
    now = [0.0]
    with Workspace(clock=lambda: now[0]) as workspace:
        with workspace.new("one", "png") as gone, workspace.new("two", "png") as back:
            pass
        workspace.leave("one")
        workspace.leave("two")
        now[0] = KEPT_SECONDS / 2
        with workspace.new("two", "png") as later:
            pass
        now[0] = KEPT_SECONDS
        workspace.leave("three")
        assert (gone.exists(), back.exists(), later.exists()) == (False, True, True)


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

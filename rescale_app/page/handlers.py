"""What the page does at events: computations, and what becomes of their results."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rescale_compat.errors import RescaleError

import gradio as gr
from markupsafe import Markup

from rescale_app.html.components import notice
from rescale_app.html.rendering import render
from rescale_app.page import results
from rescale_app.page.computing import Source
from rescale_app.page.jobs import Cancelled, Jobs, Status
from rescale_app.page.restoring import Given, Restored, restore
from rescale_app.page.round_trip import (
    JpegTrip,
    LongestSide,
    PngTrip,
    Target,
    through_jpeg,
    through_png,
)
from rescale_app.page.weights import Rescalers, can_optimize, for_jpeg, titles
from rescale_app.page.workspace import Workspace
from rescale_app.rescaler import OnProgress
from rescale_data.decoding import image_size
from rescale_data.image_file import LRInfo, read_info
from rescale_data.lr_info import hint_in_name

Update = tuple[Any, ...]
"""A value for each output of an event; `gr.skip()` leaves one as it is."""

BY_SCALE, BY_SIDE = "Scale", "Longest side"
SHRINK, RESTORE = "shrink", "restore"
QUALITY = 90
"""Initial quality of JPEG files."""
SCALE = 2.5
"""Initial scale."""
MAX_EFFORT = 30
"""Largest number of optimization steps: more gain little."""

_PNG_SHARE = 0.6  # of the time for both round trips
_MOST_REMEMBERED = 16  # visitors; each takes the memory of a few LR images


@dataclass(frozen=True)
class _Key:
    """Identifies a round trip through PNG.

    Attributes:
        file: name and digest of the original.
        weights: name of the weights.
        target: what to downscale to.
        effort: number of optimization steps.
    """

    file: str
    weights: str
    target: Target
    effort: int = 0


@dataclass(frozen=True)
class _Shown:
    """What a visitor sees: the round trip through PNG, of what, and that through JPEG."""

    key: _Key
    png: PngTrip
    jpeg: JpegTrip | None = None


class Handlers:
    """Event handlers of the page.

    Args:
        rescalers: name of weights -> the network with them.
        workspace: folder for the files of visitors.
        max_pixels: limit for images, HR pixels.
    """

    def __init__(self, rescalers: Rescalers, workspace: Workspace, max_pixels: int) -> None:
        self.rescalers = rescalers
        self.workspace = workspace
        self.max_pixels = max_pixels
        self.titles = titles(rescalers)
        self.jobs = Jobs()
        self._first: _Shown | None = None
        self._shown: dict[str, _Shown] = {}

    def prepare(self, sample: Path) -> tuple[Markup, Markup]:
        """Computes what every visitor sees first; returns the results as HTML."""
        weights = next(iter(self.rescalers))
        source = Source(sample, sample.name)
        fixed = self.rescalers[weights].architecture.fixed_scale
        key = _Key(_identity(source), weights, SCALE if fixed is None else None)
        png = self._png("", source, key, lambda *_: None)
        jpeg = self._jpeg("", _Shown(key, png), QUALITY, lambda *_: None)
        self._first = _Shown(key, png, jpeg)
        return self._html(self._first)

    async def shrink(
        self,
        file: str | None,
        name: str,
        by: str,
        scale: float,
        longest: float | None,
        weights: str,
        quality: int,
        effort: int,
        request: gr.Request,
    ) -> AsyncIterator[Update]:
        """Yields status, cancel button, and the round trips through PNG and JPEG as HTML."""
        if file is None:
            yield _idle("Choose an image first."), gr.skip(), gr.skip(), gr.skip()
            return
        source = Source(Path(file), name)
        visitor = _visitor(request)
        owner = (visitor, SHRINK)
        target: Target = scale
        if self.rescalers[weights].architecture.fixed_scale:
            target = None
        elif by == BY_SIDE:
            target = LongestSide(round(longest or 0))
        try:
            identity = await asyncio.to_thread(_identity, source)
            key = _Key(identity, weights, target, self._effort(weights, effort))
            shown = self._known(visitor, key)
            start = seconds = 0.0
            if shown is None:
                job = self.jobs.start(owner, partial(self._png, visitor, source, key))
                async for status in job.statuses():
                    seconds = status.seconds
                    yield results.status_html(status, 0, _PNG_SHARE), *_BUSY
                shown, start = _Shown(key, job.result()), _PNG_SHARE
                self._remember(visitor, shown)
                bar = results.status_html(Status(0), start, 1 - start, seconds)
                html = results.png_html(shown.png, self.titles[weights])
                yield bar, gr.skip(), html, results.pending_html()
                self.workspace.delivered(visitor, "png", shown.png.folder)
            if shown.jpeg is None or shown.jpeg.jpeg_quality != quality:
                work = self.jobs.start(owner, partial(self._jpeg, visitor, shown, quality))
                async for status in work.statuses():
                    bar = results.status_html(status, start, 1 - start, seconds)
                    yield bar, *_BUSY
                shown = _Shown(key, shown.png, work.result())
            self._remember(visitor, shown)
            yield _idle(), _HIDDEN, *self._html(shown)
            for kind, trip in (("png", shown.png), ("jpeg", shown.jpeg)):
                if trip is not None:
                    self.workspace.delivered(visitor, kind, trip.folder)
        except Exception as error:
            message = _failure(error, source)
            if message is not None:
                yield message, _HIDDEN, gr.skip(), gr.skip()

    async def restore(
        self, file: str | None, name: str, request: gr.Request
    ) -> AsyncIterator[Update]:
        """Yields status, cancel button, the restored image, and fields for what is missing.

        The last values are those of the fields: scale, width and height, as an example.
        """
        if file is None:
            return
        source = Source(Path(file), name)
        try:
            info: LRInfo | Given | None = read_info(source.path)
            height, width = image_size(source.path.read_bytes(), source.name)
        except (RescaleError, OSError) as error:
            yield _failure(error, source), _HIDDEN, gr.skip(), *_NO_FIELDS
            return
        hint = hint_in_name(source.name)
        if info is None and hint is not None:
            info = Given(hint.scale, hint.size)
        if info is None:
            text = (
                f"{source.name} contains no record of its scale and original size: either it was "
                "not created by this program, or a platform has stripped the record. If they are "
                f"known, enter them; as an example, the fields say that it was {2 * width}x"
                f"{2 * height} and became {width}x{height}."
            )
            fields = (gr.update(visible=True), 2, 2 * width, 2 * height)
            yield notice(text, "hint"), _HIDDEN, gr.skip(), *fields
            return
        async for update in self._restore(source, info, _visitor(request)):
            yield *update, *_NO_FIELDS

    async def restore_given(
        self,
        file: str | None,
        name: str,
        scale: float | None,
        width: float | None,
        height: float | None,
        weights: str,
        request: gr.Request,
    ) -> AsyncIterator[Update]:
        """As `restore`, for a file without a record."""
        if file is None or not (width and height and (scale or self._fixed(weights))):
            text = "Scale, width and height of the original are needed."
            yield notice(text, "hint"), _HIDDEN, gr.skip()
            return
        source = Source(Path(file), name)
        given = Given(
            None if self._fixed(weights) else scale, (round(height), round(width)), weights or None
        )
        async for update in self._restore(source, given, _visitor(request)):
            yield update

    async def hand_over_png(self, request: gr.Request) -> Update:
        """Selects the tab for restoring, and the LR image that the visitor sees as PNG."""
        shown = self._shown.get(_visitor(request), self._first)
        return gr.Tabs(selected=RESTORE), str(shown.png.lr_file) if shown else None

    async def hand_over_jpeg(self, request: gr.Request) -> Update:
        """As `hand_over_png`, as JPEG."""
        shown = self._shown.get(_visitor(request), self._first)
        return gr.Tabs(selected=RESTORE), str(shown.jpeg.lr_file) if shown and shown.jpeg else None

    async def cancel_shrink(self, request: gr.Request) -> None:
        """Cancels the visitor's round trip."""
        self.jobs.cancel((_visitor(request), SHRINK))

    async def cancel_restore(self, request: gr.Request) -> None:
        """Cancels restoring for the visitor."""
        self.jobs.cancel((_visitor(request), RESTORE))

    async def leave(self, request: gr.Request) -> None:
        """Cancels the computations of a visitor who has left."""
        visitor = _visitor(request)
        for tab in (SHRINK, RESTORE):
            self.jobs.cancel((visitor, tab))
        self.workspace.leave(visitor)

    async def longest_side(self, by: str, request: gr.Request) -> Any:
        """The longest side of the small image that the visitor sees, to start from."""
        shown = self._shown.get(_visitor(request), self._first)
        if by != BY_SIDE or shown is None:
            return gr.skip()
        return max(shown.png.lr.pixels.shape[:2])

    async def _restore(
        self, source: Source, info: LRInfo | Given, visitor: str
    ) -> AsyncIterator[Update]:
        def work(progress: OnProgress) -> Restored:
            with self.workspace.new(visitor, RESTORE) as folder:
                return restore(source, info, self.rescalers, folder, progress, self.max_pixels)

        try:
            job = self.jobs.start((visitor, RESTORE), work)
            async for status in job.statuses():
                yield results.status_html(status), gr.update(visible=True), gr.skip()
            result = job.result()
            title = self.titles[result.weights]
            yield "", _HIDDEN, results.restored_html(result, title)
            self.workspace.delivered(visitor, RESTORE, result.folder)
        except Exception as error:
            message = _failure(error, source)
            if message is not None:
                yield message, _HIDDEN, gr.skip()

    def _png(self, visitor: str, source: Source, key: _Key, progress: OnProgress) -> PngTrip:
        rescaler, limit = self.rescalers[key.weights], self.max_pixels
        with self.workspace.new(visitor, "png") as folder:
            return through_png(source, rescaler, key.target, folder, progress, limit, key.effort)

    def _jpeg(self, visitor: str, shown: _Shown, quality: int, progress: OnProgress) -> JpegTrip:
        weights = for_jpeg(shown.key.weights, self.rescalers)
        rescaler, effort = self.rescalers[weights], self._effort(weights, shown.key.effort)
        lr = None if shown.jpeg is None or effort else shown.jpeg.lr
        with self.workspace.new(visitor, "jpeg") as folder:
            return through_jpeg(shown.png, rescaler, int(quality), folder, progress, lr, effort)

    def _html(self, shown: _Shown) -> tuple[Markup, Markup]:
        weights = shown.key.weights
        assert shown.jpeg is not None
        for_jpegs = self.titles[for_jpeg(weights, self.rescalers)]
        return (
            results.png_html(shown.png, self.titles[weights]),
            results.jpeg_html(shown.png, shown.jpeg, for_jpegs),
        )

    def _known(self, visitor: str, key: _Key) -> _Shown | None:
        """What is known of the round trips of ``key``, if they need not be computed again."""
        for shown in (self._shown.get(visitor), self._first):
            if shown is not None and shown.key == key and shown.png.folder.is_dir():
                return shown
        return None

    def _remember(self, visitor: str, shown: _Shown) -> None:
        self._shown.pop(visitor, None)
        self._shown[visitor] = shown
        while len(self._shown) > _MOST_REMEMBERED:
            del self._shown[next(iter(self._shown))]

    def _effort(self, weights: str, effort: int) -> int:
        """``effort``, or 0 for a network whose LR images cannot be optimized."""
        return int(effort) if can_optimize(self.rescalers[weights]) else 0

    def _fixed(self, weights: str) -> bool:
        return bool(weights) and self.rescalers[weights].architecture.fixed_scale is not None


_HIDDEN = gr.update(visible=False)
_NO_FIELDS = (_HIDDEN, gr.skip(), gr.skip(), gr.skip())
_BUSY = (gr.update(visible=True), gr.skip(), gr.skip())


def _idle(text: str = "Drop an image anywhere, or paste one.") -> Markup:
    return render("page_hint.html", text=text)


def _identity(source: Source) -> str:
    """Name and digest of a file."""
    with source.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{digest} {source.name}"


def _failure(error: Exception, source: Source) -> Markup | None:
    """What a visitor is told of an error; None: nothing, as another computation goes on.

    Raises:
        Exception: the error, if it is a bug.
    """
    if isinstance(error, Cancelled):
        return None if error.superseded else _idle("Cancelled.")
    if not isinstance(error, RescaleError | OSError | MemoryError):
        raise error
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.replace(str(source.path), source.name)
    return notice(text if source.name in text else f"{source.name}: {text}")


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash)

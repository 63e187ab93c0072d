"""Computations of visitors: one at a time, in the order of arrival, and cancellable.

Gradio's queue neither interrupts a running function nor starts the request that would supersede it,
so handlers are asynchronous generators that Gradio starts at once, and wait here for their turn.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rescale_app.rescaler import OnProgress

T = TypeVar("T")
Work = Callable[[OnProgress], T]
"""Called in a thread with a function to report progress, which raises `Cancelled`."""

_INTERVAL = 0.25  # seconds between two statuses


class Cancelled(Exception):
    """A job was cancelled, or superseded by a later one of its owner.

    Attributes:
        superseded: whether a later job takes its place.
    """

    def __init__(self, superseded: bool) -> None:
        super().__init__("superseded" if superseded else "cancelled")
        self.superseded = superseded


@dataclass(frozen=True)
class Status:
    """State of an unfinished job.

    Attributes:
        ahead: number of jobs that come first; 0: it is running.
        step: what it is doing.
        done: completed fraction, 0 to 1.
        seconds: time since it started.
    """

    ahead: int
    step: str = ""
    done: float = 0.0
    seconds: float = 0.0


class Job(Generic[T]):
    """A computation; created by `Jobs.start`."""

    def __init__(self, work: Work[T], line: list[Job[Any]], turn: asyncio.Lock) -> None:
        self._work = work
        self._line = line
        self._turn = turn
        self._cancelled: Cancelled | None = None
        self._stop = threading.Event()
        self._progress = ("", 0.0)
        self._started: float | None = None
        line.append(self)
        self._task = asyncio.ensure_future(self._run())
        # What becomes of a job that nobody waits for any more is of no interest.
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    def cancel(self, *, superseded: bool = False) -> None:
        """Stops the job at its next progress report, if it is not finished."""
        if self._cancelled is None and not self._task.done():
            self._cancelled = Cancelled(superseded)
            self._stop.set()

    async def statuses(self) -> AsyncIterator[Status]:
        """Yields statuses until the job is finished or cancelled; closing this cancels it."""
        try:
            while not self._task.done() and self._cancelled is None:
                yield self._status()
                await asyncio.wait({self._task}, timeout=_INTERVAL)
        finally:
            self.cancel()

    def result(self) -> T:
        """The result of the finished job.

        Raises:
            Cancelled: it was cancelled.
            Exception: whatever its work raised.
        """
        if self._cancelled is not None:
            raise self._cancelled
        return self._task.result()

    async def _run(self) -> T:
        try:
            async with self._turn:
                self._check()
                self._started = time.monotonic()
                # The turn ends with the thread, not with the interest in its result.
                return await asyncio.to_thread(self._work, self._report)
        finally:
            self._line.remove(self)

    def _report(self, step: str, done: float) -> None:
        self._check()
        self._progress = (step, done)

    def _check(self) -> None:
        if self._stop.is_set():
            raise self._cancelled or Cancelled(False)

    def _status(self) -> Status:
        if self._started is None:
            return Status(self._line.index(self) if self in self._line else 0)
        return Status(0, *self._progress, time.monotonic() - self._started)


class Jobs:
    """The jobs of all visitors. Use it from within one event loop."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._line: list[Job[Any]] = []
        self._latest: dict[Hashable, Job[Any]] = {}

    def start(self, owner: Hashable, work: Work[T]) -> Job[T]:
        """Starts a job as soon as it is its turn, and cancels the owner's earlier one."""
        self.cancel(owner, superseded=True)
        job = Job(work, self._line, self._turn)
        self._latest[owner] = job
        return job

    def cancel(self, owner: Hashable, *, superseded: bool = False) -> None:
        """Cancels the owner's latest job, if it is unfinished."""
        job = self._latest.pop(owner, None)
        if job is not None:
            job.cancel(superseded=superseded)

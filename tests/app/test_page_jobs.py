"""Jobs of the page of ``rescale demo``: their order and their end, and the files of visitors."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from rescale_app.page.jobs import Cancelled, Job, Jobs, Status
from rescale_app.page.workspace import KEPT_SECONDS, Workspace

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

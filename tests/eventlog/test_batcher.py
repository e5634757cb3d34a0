"""The batcher: what waits is done together, in bounds, and each caller gets its own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import SourceUnavailableError, UsageError
from headwater.eventlog._batcher import Asked, Batcher
from support.until import until

Work = Callable[[Sequence[Asked[int, int]]], Awaitable[None]]


class Disk:
    """Squares numbers, one group at a time while it is ``open``.

    Attributes:
        groups: the jobs of each group that came.
    """

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.open = asyncio.Event()
        self.error: Exception | None = None

    async def write(self, group: Sequence[Asked[int, int]]) -> None:
        self.groups.append([one.job for one in group])
        await self.open.wait()
        for one in group:
            if self.error is not None and one.job < 0:
                raise self.error
            one.answer(one.job**2)


def batcher(work: Work, **options: Any) -> Batcher[int, int]:
    return Batcher("test log", work, lambda job: (1, abs(job)), (3, 100), **options)


async def test_jobs_that_wait_are_done_together_in_the_order_of_asking() -> None:
    """A hundred appends that come at once wait for a few commits, not for a hundred."""
    disk = Disk()
    jobs = batcher(disk.write)
    asking = [asyncio.create_task(jobs.ask(n)) for n in range(1, 9)]
    await until(lambda: len(disk.groups) == 1)
    disk.open.set()
    assert await asyncio.gather(*asking) == [n**2 for n in range(1, 9)]
    assert disk.groups == [[1, 2, 3], [4, 5, 6], [7, 8]]


async def test_a_job_above_the_bound_is_done_alone() -> None:
    disk = Disk()
    disk.open.set()
    jobs = batcher(disk.write)
    await asyncio.gather(*(jobs.ask(n) for n in (1, 500, 60, 50)))
    assert disk.groups == [[1], [500], [60], [50]]


async def test_an_error_reaches_each_caller_as_its_own_and_the_next_group_goes_on() -> None:
    """An exception that several callers raise would collect all their tracebacks."""
    disk = Disk()
    disk.open.set()
    disk.error = SourceUnavailableError("test log", "away")
    disk.error.__cause__ = OSError("cut")
    jobs = batcher(disk.write)
    results = await asyncio.gather(*(jobs.ask(n) for n in (7, -1, -2, 3)), return_exceptions=True)
    assert (results[0], results[3]) == (49, 9), "a job with an answer keeps it"
    errors = results[1:3]
    assert errors[0] is not errors[1]
    assert [str(one) for one in errors] == [str(disk.error)] * 2
    assert all(
        one.__cause__ is disk.error.__cause__ for one in errors if isinstance(one, Exception)
    )


async def test_a_caller_that_left_costs_nothing() -> None:
    disk = Disk()
    jobs = batcher(disk.write)
    first = asyncio.create_task(jobs.ask(1))
    await until(lambda: disk.groups)
    leaving, staying = asyncio.create_task(jobs.ask(2)), asyncio.create_task(jobs.ask(3))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait([leaving])
    disk.open.set()
    assert (await first, await staying) == (1, 9)
    assert disk.groups == [[1], [3]]


async def test_a_full_queue_refuses_one_more_and_loses_none() -> None:
    """The bound of what waits: an engine that hangs must not fill the memory."""
    disk = Disk()
    jobs = batcher(disk.write, room=5)
    running = [asyncio.create_task(jobs.ask(1))]
    await until(lambda: disk.groups)
    running += [asyncio.create_task(jobs.ask(n)) for n in range(2, 7)]
    await until(lambda: len(jobs.waiting) == 5)
    with pytest.raises(SourceUnavailableError, match="5 requests wait for it already"):
        await jobs.ask(7)
    disk.open.set()
    assert await asyncio.gather(*running) == [n**2 for n in range(1, 7)]


async def test_jobs_that_waited_for_a_group_that_failed_do_not_wait_again() -> None:
    """A server that hangs costs each of a thousand callers one time-out, not their sum."""
    disk = Disk()
    disk.error = SourceUnavailableError("test log", "hangs")
    jobs = batcher(disk.write, patience=0.01)
    old = [asyncio.create_task(jobs.ask(-n)) for n in range(1, 9)]
    await until(lambda: len(jobs.waiting) == 5)
    await asyncio.sleep(0.02)  # the clock itself is what is waited for
    young = asyncio.create_task(jobs.ask(9))
    await until(lambda: len(jobs.waiting) == 6)
    disk.open.set()
    errors = await asyncio.gather(*old, return_exceptions=True)
    assert [str(one).partition("now: ")[2] for one in errors] == ["hangs"] * 3 + [
        "no answer within 0.01 s"
    ] * 5
    assert await young == 81, "it has not waited long enough to be given up"
    assert disk.groups == [[-1, -2, -3], [9]]


async def test_lanes_work_at_the_same_time_and_close_waits_for_all() -> None:
    disk = Disk()
    jobs = batcher(disk.write, lanes=2)
    asking = [asyncio.create_task(jobs.ask(n)) for n in range(1, 10)]
    await until(lambda: len(disk.groups) == 2)
    closing = asyncio.create_task(jobs.close())
    await asyncio.sleep(0)
    assert not closing.done()
    async with asyncio.timeout(5):
        with pytest.raises(UsageError, match="closed"):
            await jobs.ask(10)
    disk.open.set()
    await closing
    assert [task.done() for task in asking] == [True] * 9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-60, 60), st.booleans()), max_size=25), st.integers(1, 3))
async def test_each_job_is_done_once_in_groups_within_the_bounds(
    jobs: list[tuple[int, bool]], lanes: int
) -> None:
    """The law: whatever comes when, each caller gets its own result, and groups keep the bounds."""
    disk = Disk()
    disk.open.set()
    asked = batcher(disk.write, lanes=lanes)
    tasks = []
    for job, pause in jobs:
        tasks.append(asyncio.create_task(asked.ask(job)))
        if pause:
            await asyncio.sleep(0)
    assert await asyncio.gather(*tasks) == [job**2 for job, _ in jobs]
    assert [job for group in disk.groups for job in group] == [job for job, _ in jobs]
    for group in disk.groups:
        assert len(group) <= 3
        assert len(group) == 1 or sum(map(abs, group)) <= 100

"""Runs that belong together: what becomes of a second one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headwater.errors import SourceUnavailableError
from headwater.eventlog import EventLog, MemoryLog, Record
from headwater.eventlog import Run as Read
from headwater.runs import BusyError, Run, Runs
from support.until import until


async def start(runs: Runs, handler: Any, **options: Any) -> str:
    return (await runs.create("/a", "ann", group="g", handler=handler, **options)).state.id


async def is_over(runs: Runs, run_id: str) -> bool:
    found = await runs.state(run_id)
    return found is not None and found.ended


async def test_of_many_at_once_one_begins(log: EventLog, runs: Runs) -> None:
    """Two tabs, or an impatient user: one answer is paid for, also over two processes."""
    go = asyncio.Event()
    begun: list[str] = []

    async def answer(run: Run) -> None:
        begun.append(run.id)
        await go.wait()

    async with Runs(log, lease=30.0) as other:
        both = [runs, other]
        found = await asyncio.gather(
            *(start(both[n % 2], answer, busy="reject") for n in range(50)),
            return_exceptions=True,
        )
        ids = [one for one in found if isinstance(one, str)]
        refused = [one.active for one in found if isinstance(one, BusyError)]
        assert len(ids) == 1 and refused == ids * 49, found
        await until(lambda: begun == ids)
        created = await runs.create("/a", "bob", group="g", busy="reject", handler=answer)
        assert created.is_new, "groups belong to their owner"
        assert (await other.latest("/a", "ann", "g")).id == ids[0]
        assert await other.latest("/a", "ann", "h") is None
        go.set()
        await until(lambda: is_over(runs, ids[0]))
        again = await start(other, answer, busy="reject")
        await until(lambda: is_over(other, again))
    assert begun.count(ids[0]) == 1


async def test_the_same_key_is_not_busy_with_itself(runs: Runs) -> None:
    """A repeated request gets its own run, not a refusal because of it."""
    go = asyncio.Event()

    async def answer(run: Run) -> None:
        await go.wait()

    ids = await asyncio.gather(*(start(runs, answer, busy="reject", key="k") for _ in range(20)))
    assert len(set(ids)) == 1
    go.set()


async def test_queued_runs_begin_one_after_the_other(runs: Runs) -> None:
    """In the order in which they were asked for."""
    order: list[str] = []
    running = 0

    async def answer(run: Run) -> None:
        nonlocal running
        running += 1
        assert running == 1, "two at once"
        order.append(run.id)
        await asyncio.sleep(0)
        running -= 1

    ids = [await start(runs, answer, busy="queue") for _ in range(5)]
    for run_id in ids:
        await until(lambda run_id=run_id: is_over(runs, run_id))
    assert order == ids


async def test_a_queued_run_that_is_cancelled_lets_the_next_one_wait_on(runs: Runs) -> None:
    """It leaves the queue, and the one behind it still waits for the one before."""
    go = asyncio.Event()
    order: list[str] = []

    async def answer(run: Run) -> None:
        order.append(run.id)
        await go.wait()

    first, second, third = [await start(runs, answer, busy="queue") for _ in range(3)]
    await until(lambda: order == [first])
    await runs.cancel(second)
    assert (await runs.state(second)).state == "cancelled"
    assert (await runs.state(third)).state == "queued"
    go.set()
    await until(lambda: is_over(runs, third))
    assert order == [first, third]


async def test_a_new_run_cancels_the_active_one(runs: Runs) -> None:
    """And begins once that has cleaned up."""
    order: list[str] = []

    async def answer(run: Run) -> None:
        order.append(f"begin {run.id}")
        try:
            if len(order) == 1:
                await asyncio.Event().wait()
        finally:
            order.append(f"end {run.id}")

    first = await start(runs, answer, busy="cancel")
    await until(lambda: order)
    second = await start(runs, answer, busy="cancel")
    await until(lambda: is_over(runs, second))
    assert (await runs.state(first)).state == "cancelled"
    assert order == [f"begin {first}", f"end {first}", f"begin {second}", f"end {second}"]


async def test_allowed_runs_know_nothing_of_each_other(runs: Runs) -> None:
    """The group is then only a name to list them by."""
    go = asyncio.Event()

    async def answer(run: Run) -> None:
        await go.wait()

    ids = [await start(runs, answer, busy="allow") for _ in range(3)]
    assert [(await runs.state(run_id)).state for run_id in ids] == ["running"] * 3
    assert (await runs.latest("/a", "ann", "g")).id == ids[-1]
    page = await runs.runs_of("/a", "ann").where(group="g", state="running").page(10)
    assert [change.item["id"] for change in page.changes] == ids
    go.set()


async def test_a_group_has_a_bound(runs: Runs) -> None:
    """A client that asks in a loop does not fill the log."""
    go = asyncio.Event()

    async def answer(run: Run) -> None:
        await go.wait()

    with pytest.raises(BusyError):
        for _ in range(50):
            await start(runs, answer, busy="queue")
    go.set()


async def test_the_latest_run_of_a_group_is_the_one_that_began_last(runs: Runs) -> None:
    """Not the one that changed last: a cancelled run ends after the next one has begun."""

    async def waits(run: Run) -> None:
        await asyncio.Event().wait()

    assert await runs.latest("/a", "ann", "g") is None
    first = await start(runs, waits, busy="cancel")
    second = await start(runs, waits, busy="cancel")
    await until(lambda: is_over(runs, first))
    found = await runs.latest("/a", "ann", "g")
    assert found is not None and found.id == second
    assert await runs.latest("/a", "bob", "g") is None
    await runs.cancel(second)
    await until(lambda: is_over(runs, second))
    found = await runs.latest("/a", "ann", "g")
    assert found is not None and (found.id, found.state) == (second, "cancelled")


class Away(MemoryLog):
    """A log that answers nothing for a moment, once the first run has ended."""

    ended = False
    failures = 0

    async def append(self, topic: str, *args: Any, **options: Any) -> list[Record]:
        self._check()
        stored = await super().append(topic, *args, **options)
        if topic.startswith("run:runs:r:") and stored[0].data["t"] == "end" and not self.ended:
            self.ended, self.failures = True, 4
        return stored

    async def read(self, *args: Any) -> Read:
        self._check()
        return await super().read(*args)

    def _check(self) -> None:
        if self.failures:
            self.failures -= 1
            raise SourceUnavailableError("the log", "it is away")


@pytest.mark.parametrize("by_queue", [False, True])
async def test_a_run_that_waits_outlives_an_outage_of_the_log(by_queue: bool) -> None:
    """Its turn comes while the log is away: it begins once the log is back, and does not fail."""
    go = asyncio.Event()
    jobs: list[str] = []

    async def first(run: Run) -> None:
        await go.wait()

    async def second(run: Run) -> None:
        jobs.append(run.id)

    async with Runs(Away()) as runs:
        await start(runs, first, busy="queue")
        work: dict[str, Any] = {"start": jobs.append} if by_queue else {"handler": second}
        waits = await runs.create("/a", "ann", group="g", busy="queue", **work)
        go.set()
        await until(lambda: jobs == [waits.state.id])
        if by_queue:
            async with runs.attempt(waits.state.id):
                pass
        events = [one async for one in runs.follow(waits.state.id)]
    assert [one.data for one in events] == [{"state": "done"}]

"""Cancelling a run, from wherever it is asked for."""

from __future__ import annotations

import asyncio
import time

import pytest

from headwater.errors import RunCancelled
from headwater.eventlog import EventLog, open_log
from headwater.runs import Run, Runs, RunState, SyncRun
from support.until import until


async def ended(runs: Runs, run_id: str) -> RunState:
    async def state() -> RunState | None:
        found = await runs.state(run_id)
        return found if found is not None and found.ended else None

    return await until(state)


async def test_the_handler_is_cancelled_and_may_clean_up(runs: Runs) -> None:
    """It ends at its next await, and what it says at the end is shown."""
    begun = asyncio.Event()

    async def answer(run: Run) -> str:
        try:
            await run.delta("so far")
            begun.set()
            await asyncio.Event().wait()
        finally:
            await run.delta(" and no further")
        return "never"

    run_id = (await runs.create("/a", "ann", handler=answer)).state.id
    await begun.wait()
    assert (await runs.cancel(run_id)).state == "running"
    await runs.cancel(run_id)
    state = await ended(runs, run_id)
    assert (state.state, state.result, state.error) == ("cancelled", None, None)
    events = [event async for event in runs.follow(run_id)]
    assert "".join(e.data["text"] for e in events[:-1]) == "so far and no further"
    assert events[-1].data == {"state": "cancelled"}
    assert (await runs.cancel(run_id)).state == "cancelled", "again, after its end"
    assert await runs.cancel("unknown") is None


async def test_a_handler_that_swallows_it_ends_after_its_grace(log: EventLog, caplog) -> None:
    """Its events count no more, and everybody gets the end."""
    async with Runs(log, grace=0.2) as runs:
        await _swallow(runs)
    assert "must not catch CancelledError" in caplog.text


async def _swallow(runs: Runs) -> None:
    begun, over = asyncio.Event(), asyncio.Event()
    after: list[str] = []

    async def answer(run: Run) -> None:
        begun.set()
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                continue
        try:
            await run.delta("late")
        except RunCancelled as error:
            after.append(error.reason)

    run_id = (await runs.create("/a", "ann", handler=answer)).state.id
    await begun.wait()
    await runs.cancel(run_id)
    assert (await ended(runs, run_id)).state == "cancelled"
    over.set()
    await until(lambda: after == ["cancelled"])
    events = [event async for event in runs.follow(run_id)]
    assert [event.name for event in events] == ["end"]


async def test_a_handler_that_returns_after_all_was_cancelled(runs: Runs) -> None:
    """Who asked for the end is told that it came."""
    begun = asyncio.Event()

    async def answer(run: Run) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return "done after all"

    run_id = (await runs.create("/a", "ann", handler=answer)).state.id
    await begun.wait()
    await runs.cancel(run_id)
    state = await ended(runs, run_id)
    assert (state.state, state.result) == ("cancelled", None)


async def test_code_without_an_event_loop_gets_an_exception(runs: Runs) -> None:
    """At its next event."""
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    raised: list[str] = []

    def export(run: SyncRun) -> None:
        try:
            for n in range(100_000):
                run.send("progress", {"n": n})
                loop.call_soon_threadsafe(begun.set)
        except RunCancelled as error:
            raised.append(error.reason)
            raise

    run_id = (await runs.create("/a", "ann", handler=export)).state.id
    await begun.wait()
    await runs.cancel(run_id)
    assert (await ended(runs, run_id)).state == "cancelled"
    await until(lambda: len(raised) == 1)


async def test_another_process_cancels(log: EventLog, runs: Runs) -> None:
    """The request reaches any worker, the handler is in one."""
    begun = asyncio.Event()

    async def answer(run: Run) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with Runs(log, lease=30.0) as other:
        run_id = (await runs.create("/a", "ann", handler=answer)).state.id
        await begun.wait()
        await other.cancel(run_id)
        assert (await ended(other, run_id)).state == "cancelled"


async def test_a_queued_run_ends_at_once(runs: Runs) -> None:
    """Nobody needs to take it first."""
    run_id = (await runs.create("/a", "ann")).state.id
    await runs.cancel(run_id)
    assert (await runs.state(run_id)).state == "cancelled"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", [20, pytest.param(1000, marks=pytest.mark.soak)])
async def test_races_of_the_end_and_cancelling(log: EventLog, runs: Runs, rounds: int) -> None:
    """Whoever comes first: one end, the same for all."""
    seen = set()
    async with Runs(log, lease=30.0) as other:
        for n in range(rounds):
            go = asyncio.Event()

            async def answer(run: Run, go: asyncio.Event = go) -> None:
                await go.wait()

            run_id = (await runs.create("/a", "ann", handler=answer)).state.id
            cancelling = asyncio.create_task(other.cancel(run_id))
            for _ in range(n % 7):
                await asyncio.sleep(0)
            go.set()
            await cancelling
            events = [event async for event in runs.follow(run_id)]
            again = [event async for event in other.follow(run_id)]
            assert [event.name for event in events] == ["end"]
            assert [event.data for event in again] == [event.data for event in events]
            seen.add(events[0].data["state"])
    assert seen <= {"done", "cancelled"} and seen


async def test_a_run_that_is_cancelled_before_its_first_step_ends(runs: Runs) -> None:
    """The handler has not begun, and never does."""
    begun: list[str] = []

    async def answer(run: Run) -> None:
        begun.append(run.id)
        await asyncio.Event().wait()

    creating = asyncio.create_task(runs.create("/a", "ann", key="k", handler=answer))
    while True:
        created = await runs.create("/a", "ann", key="k", handler=answer)
        await runs.cancel(created.state.id)
        if creating.done():
            break
        await asyncio.sleep(0)
    assert (await ended(runs, (await creating).state.id)).state == "cancelled"


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_how_soon_a_run_of_another_process_is_cancelled(url: str) -> None:
    """Whoever presses "stop" sees it stop."""

    async def answer(run: Run) -> None:
        await run.delta("x")
        await asyncio.Event().wait()

    taken: list[float] = []
    async with open_log(url) as log, open_log(url) as far, Runs(log) as runs, Runs(far) as other:
        for _ in range(100):
            run_id = (await runs.create("/a", "ann", handler=answer)).state.id
            following = asyncio.create_task(_last(other, run_id))
            await until(lambda run_id=run_id: _state_is(other, run_id, "running"))
            began = time.monotonic()
            await other.cancel(run_id)
            assert await following == {"state": "cancelled"}
            taken.append(time.monotonic() - began)
    taken.sort()
    print(f"cancelled after {taken[50] * 1000:.0f} ms, p99 {taken[98] * 1000:.0f} ms")
    assert taken[98] < 1


async def _last(runs: Runs, run_id: str) -> object:
    return [event.data async for event in runs.follow(run_id)][-1]


async def _state_is(runs: Runs, run_id: str, wanted: str) -> bool:
    found = await runs.state(run_id)
    return found is not None and found.state == wanted

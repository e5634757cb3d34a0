"""Wrong uses of runs: each is refused with a sentence that says what would be right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel

from headwater.errors import UsageError
from headwater.eventlog import MemoryLog
from headwater.runs import Run, Runs, SyncRun


@pytest.fixture
async def runs() -> AsyncIterator[Runs]:
    """What is refused does not reach the log, so one engine is enough."""
    async with Runs(MemoryLog()) as made:
        yield made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": 7}, r"create\(kind=7\): write a str"),
        ({"owner": 7}, r"create\(owner=7\): write a str"),
        ({"owner": None}, r"create\(owner=None\): write a str"),
        ({"group": 7}, r"create\(group=7\): write a str"),
        ({"key": 7}, r"create\(key=7\): write a str"),
        ({"busy": "wait"}, r"create\(busy='wait'\): write 'reject', 'cancel', 'queue' or 'allow'"),
        ({"handler": "work"}, r"create\(handler='work'\): write a function"),
        ({"start": "jobs"}, r"create\(start='jobs'\): write a function"),
        ({"start": print}, "a handler or start=, not both"),
        ({"input": {"day": date(2026, 11, 30)}}, "its input is not JSON: Object of type date"),
        ({"input": "\ud800"}, "its input has a lone surrogate"),
    ],
)
async def test_a_run_that_cannot_be_is_refused_before_it_begins(
    runs: Runs, options: dict[str, Any], message: str
) -> None:
    """An id of a database is an int: its run must not begin while its caller gets an error."""
    begun: list[str] = []

    async def work(run: Run) -> None:
        begun.append(run.id)

    given = {"kind": "/a", "owner": "ann", "handler": work, **options}
    before = (await runs.log.bounds("run:runs:news")).latest
    with pytest.raises(UsageError, match=message):
        await runs.create(**given)
    assert (await runs.log.bounds("run:runs:news")).latest == before
    assert begun == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda runs, run: runs.state(run), r"state\(run_id=Created\(.*\): write a str"),
        (lambda runs, run: runs.cancel(run.state), r"cancel\(run_id=RunState\(.*\): write a str"),
        (lambda runs, _: runs.forget(None), r"\(run_id=None\): write a str"),
        (lambda runs, run: anext(runs.follow(run)), r"follow\(run_id=Created\("),
        (lambda runs, run: anext(runs.follow(run.state.id, after=5)), r"follow\(after=5\)"),
        (lambda runs, run: runs.attempt(run).__aenter__(), r"attempt\(run_id=Created\("),
        (lambda runs, _: runs.latest("/a", "ann", None), r"latest\(group=None\)"),
        (lambda runs, _: runs.runs_of("/a", 7), r"runs_of\(owner=7\)"),
    ],
)
async def test_what_is_no_id_is_named(runs: Runs, call: Any, message: str) -> None:
    """The run itself, say, in place of its id."""
    run = await runs.create("/a", "ann")
    with pytest.raises(UsageError, match=message):
        await call(runs, run)


@pytest.mark.parametrize("log", ["sqlite:///log.db", MemoryLog, None])
def test_runs_need_a_log(log: Any) -> None:
    """The address of a log is not one."""
    with pytest.raises(UsageError, match=r"write a log, as from open_log\(...\)"):
        Runs(log)


async def test_a_model_may_be_the_input(runs: Runs) -> None:
    """As it may be the data of an event, and the result."""

    class Question(BaseModel):
        text: str

    created = await runs.create("/a", "ann", input=Question(text="why?"))
    assert created.state.input == {"text": "why?"}


async def test_a_run_is_used_in_its_own_event_loop(runs: Runs) -> None:
    """A loop of a thread would take events with it when it ends, or bind the log to itself."""
    refused: list[str] = []

    async def work(run: Run) -> None:
        async def elsewhere() -> None:
            for call in (run.delta("lost"), run.send("step"), run.result(7), run.flush()):
                with pytest.raises(UsageError) as error:
                    await call
                refused.append(str(error.value))

        await asyncio.to_thread(asyncio.run, elsewhere())
        await run.delta("kept")

    created = await runs.create("/a", "ann", handler=work)
    events = [(one.name, one.data) async for one in runs.follow(created.state.id)]
    assert events == [("delta", {"text": "kept"}), ("end", {"state": "done"})]
    assert len(refused) == 4
    assert "in another event loop than its own: give a plain function a SyncRun" in refused[0]


async def test_a_sync_run_does_not_block_its_event_loop(runs: Runs) -> None:
    """A callback that runs there would wait for itself, and the whole server with it."""
    found: asyncio.Future[SyncRun] = asyncio.get_running_loop().create_future()
    go = asyncio.Event()

    def work(run: SyncRun) -> None:
        found.get_loop().call_soon_threadsafe(found.set_result, run)
        asyncio.run_coroutine_threadsafe(go.wait(), found.get_loop()).result()
        run.delta("kept")

    created = await runs.create("/a", "ann", handler=work)
    run = await found
    with pytest.raises(UsageError, match="would block this event loop for ever"):
        run.delta("lost")
    go.set()
    events = [(one.name, one.data) async for one in runs.follow(created.state.id)]
    assert events == [("delta", {"text": "kept"}), ("end", {"state": "done"})]

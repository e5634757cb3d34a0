"""A run from its start to its end, and what its followers get."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel

from headwater.errors import PositionError, RunCancelled, RunClaimError, RunFailed, UsageError
from headwater.eventlog import MemoryLog
from headwater.runs import KeyConflictError, Run, Runs, RunState, SyncRun
from support.until import until


class Progress(BaseModel):
    percent: int


async def events_of(runs: Runs, run_id: str, after: str | None = None) -> list[tuple[str, object]]:
    """All events of a run, deltas that follow each other as one."""
    found: list[tuple[str, object]] = []
    async with asyncio.timeout(10):
        async for event in runs.follow(run_id, after=after):
            data = event.data
            if event.name == "delta":
                data = data["text"]
                if found and found[-1][0] == "delta":
                    data = str(found.pop()[1]) + data
            found.append((event.name, data))
    return found


async def ended(runs: Runs, run_id: str) -> RunState:
    """The run, once it has ended."""

    async def state() -> RunState | None:
        found = await runs.state(run_id)
        return found if found is not None and found.ended else None

    return await until(state)


async def start(runs: Runs, handler: object, **options: object) -> str:
    created = await runs.create("/answers", "ann", handler=handler, **options)
    return created.state.id


async def test_a_run_has_its_events_and_one_end(runs: Runs) -> None:
    """What was sent comes in order, and the result is the run's."""

    async def answer(run: Run) -> None:
        for word in ("one ", "two ", "three"):
            await run.delta(word)
        await run.send("progress", Progress(percent=50))
        await run.delta("four")
        await run.result({"ok": True})

    run_id = await start(runs, answer, input={"question": 1})
    assert await events_of(runs, run_id) == [
        ("delta", "one two three"),
        ("progress", {"percent": 50}),
        ("delta", "four"),
        ("end", {"state": "done"}),
    ]
    state = await ended(runs, run_id)
    assert (state.state, state.result, state.error) == ("done", {"ok": True}, None)
    assert (state.owner, state.kind, state.input) == ("ann", "/answers", {"question": 1})
    assert state.ended_at is not None and state.ended_at >= state.created_at
    assert await runs.state("unknown") is None
    assert await runs.state("no/id") is None


async def test_late_followers_get_the_same_text_in_few_pieces(runs: Runs) -> None:
    """A page that is reloaded shows what it would have shown, and resumes anywhere."""
    joined, go = asyncio.Event(), asyncio.Event()

    async def answer(run: Run) -> None:
        await joined.wait()
        for n in range(40):
            await run.delta(f"<{n} ä>")
            if n % 10 == 9:
                await run.flush()
        await run.send("half")
        await go.wait()
        for n in range(40):
            await run.delta(f"[{n}]")

    run_id = await start(runs, answer)
    live = asyncio.create_task(_collect_live(runs, run_id, joined))
    early = await _collect_until(runs, run_id, "half")
    go.set()
    seen = await live
    late = await _collect(runs, run_id)
    assert _text(late) == _text(seen) == _text(early) + "".join(f"[{n}]" for n in range(40))
    assert [event.name for event in late] == ["delta", "half", "delta", "end"]
    assert late[-1].number == seen[-1].number, "numbers are of the run, not of the reader"
    assert [event.number for event in seen] == list(range(1, len(seen) + 1)), "they are dense"
    for place, event in enumerate(seen):
        rest = await _collect(runs, run_id, after=event.id)
        assert _text(rest) == _text(seen[place + 1 :]), f"resumed after {event.number}"
        assert [one.name for one in rest][-1:] == (["end"] if event.name != "end" else [])


async def _collect_live(runs: Runs, run_id: str, joined: asyncio.Event) -> list:
    found = []
    async with asyncio.timeout(10):
        async for events in (await runs.reader(run_id)).events():
            found += events
            joined.set()
    return found


async def _collect(runs: Runs, run_id: str, after: str | None = None) -> list:
    async with asyncio.timeout(10):
        return [event async for event in runs.follow(run_id, after=after)]


async def _collect_until(runs: Runs, run_id: str, name: str) -> list:
    found = []
    async with asyncio.timeout(10):
        async for event in runs.follow(run_id):
            found.append(event)
            if event.name == name:
                break
    return found


def _text(events: list) -> str:
    return "".join(event.data["text"] for event in events if event.name == "delta")


async def test_a_position_of_another_run_is_refused(runs: Runs) -> None:
    """Its number would be taken for a place in this one."""

    async def answer(run: Run) -> None:
        await run.delta("x")

    first, second = await start(runs, answer), await start(runs, answer)
    last = (await _collect(runs, first))[-1]
    await ended(runs, second)
    for after in (last.id, "nonsense", last.id.replace("_", "~"), last.id[:-1] + "0"):
        with pytest.raises(PositionError):
            await _collect(runs, second, after=after)
    head, _, place = (await _collect(runs, first))[0].id.rpartition(".")
    offset = place.partition(",")[2]
    for fold in ("-1_-1_", "1_1_99-x", "1_1_" + "9" * 1000 + "-a", "1_1", "1_1_1-a_x"):
        with pytest.raises(PositionError):
            await _collect(runs, first, after=f"{head}.{fold},{offset}")
    with pytest.raises(RunClaimError):
        await _collect(runs, "unknown")


async def test_an_error_ends_a_run_and_stays_in_the_log(runs: Runs, caplog) -> None:
    """Its text may hold a password; a sentence for clients is raised on purpose."""

    async def fails(run: Run) -> None:
        await run.delta("x")
        raise ValueError("secret")

    async def says(run: Run) -> None:
        raise RunFailed("The model is overloaded.")

    run_id = await start(runs, fails)
    assert await events_of(runs, run_id) == [("delta", "x"), ("end", {"state": "failed"})]
    assert (await ended(runs, run_id)).error == "the run failed: ValueError"
    assert "secret" in caplog.text
    state = await ended(runs, await start(runs, says))
    assert (state.state, state.error) == ("failed", "The model is overloaded.")


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), object(), "\ud800", "x" * 2_000_000])
async def test_a_value_that_is_no_json_fails_the_run(runs: Runs, value: object) -> None:
    """The handler's fault ends the run with a sentence, and never leaves it running."""

    async def answer(run: Run) -> object:
        return value

    async def asks(run: Run) -> None:
        with pytest.raises(UsageError):
            await run.result(value)

    state = await ended(runs, await start(runs, answer))
    assert state.state == "failed" and "its result" in (state.error or "")
    assert (await ended(runs, await start(runs, asks))).state == "done"


async def test_events_that_cannot_be_are_refused(runs: Runs) -> None:
    """Before anything of them is stored."""
    refused = []

    async def answer(run: Run) -> None:
        for call in (
            lambda: run.send("end", 1),
            lambda: run.send("delta", {"text": "x"}),
            lambda: run.send("a b", 1),
            lambda: run.send("", 1),
            lambda: run.send("x" * 101, 1),
            lambda: run.send("big", "x" * 1_048_576),
            lambda: run.send("odd", {1, 2}),
            lambda: run.delta(7),
            lambda: run.delta("\udc00"),
        ):
            try:
                await call()
            except UsageError as error:
                refused.append(str(error))

    run_id = await start(runs, answer)
    assert await events_of(runs, run_id) == [("end", {"state": "done"})]
    assert len(refused) == 9
    assert "elsewhere" in refused[5]


async def test_the_same_key_is_the_same_run(runs: Runs) -> None:
    """A client that asks again because its connection broke does not pay twice."""
    begun = []

    async def answer(run: Run) -> None:
        begun.append(run.id)

    async def ask(**options: object) -> str:
        return await start(runs, answer, key="k", hashed="h", **options)

    ids = set(await asyncio.gather(*(ask() for _ in range(50))))
    assert len(ids) == 1
    (run_id,) = ids
    await ended(runs, run_id)
    assert begun == [run_id]
    assert await ask() == run_id
    with pytest.raises(KeyConflictError):
        await start(runs, answer, key="k", hashed="other")
    other = await runs.create("/answers", "bob", key="k", hashed="other", handler=answer)
    assert other.state.id != run_id, "keys belong to their owner"
    await ended(runs, other.state.id)
    assert await runs.forget(run_id)
    assert await ask() == run_id, "a key is kept as long as its run, and may begin another"
    await ended(runs, run_id)
    assert begun.count(run_id) == 2


async def test_a_run_that_is_over_can_be_forgotten(runs: Runs) -> None:
    """A client that follows it then does not wait for ever."""
    go = asyncio.Event()

    async def answer(run: Run) -> None:
        await go.wait()

    run_id = await start(runs, answer)
    assert not await runs.forget(run_id), "not while it runs"
    go.set()
    await ended(runs, run_id)
    assert await runs.forget(run_id)
    assert await runs.state(run_id) is None
    assert not await runs.forget(run_id)

    async def nothing_listed() -> bool:
        return not (await runs.runs_of("/answers", "ann").page(10)).changes

    # What ended it may list it once more, and takes that back.
    await until(nothing_listed)


async def test_old_runs_are_swept_and_active_ones_never(log) -> None:
    """After days of running, what is left is what is kept."""
    async with Runs(log, keep=timedelta(milliseconds=1), grace=0.3) as runs:
        go = asyncio.Event()

        async def waits(run: Run) -> None:
            await go.wait()

        async def quick(run: Run) -> None:
            await run.delta("x")

        active = await start(runs, waits)
        gone = [await start(runs, quick) for _ in range(10)]
        for run_id in gone:
            await until(lambda run_id=run_id: _is_over(runs, run_id))
        await asyncio.sleep(0.005)  # the clock itself is what is waited for

        async def swept() -> bool:
            await runs.sweep()
            return [await runs.state(run_id) for run_id in gone] == [None] * 10

        await until(swept)
        assert (await runs.state(active)).state == "running"
        async with Runs(log, keep=timedelta(days=1), name=runs.name) as other:
            assert (await other.state(active)).state == "running"
            page = await other.runs_of("/answers", "ann").page(100)
            assert [change.item["id"] for change in page.changes] == [active]
        go.set()
        await until(lambda: _is_over(runs, active))


async def test_clocks_that_differ_leave_no_run_behind() -> None:
    """What was appended before something old is old, whatever the clock of its process said."""
    ages = [timedelta(minutes=30)]
    log = MemoryLog(clock=lambda: datetime.now(UTC) - ages[-1])

    async def quick(run: Run) -> None:
        await run.delta("x")

    async with Runs(log, keep=timedelta(hours=1)) as runs:
        await ended(runs, await start(runs, quick))
        ages.append(timedelta(hours=2))
        await ended(runs, await start(runs, quick))
        await until(lambda: _count(runs, 2))
        assert await runs.sweep() == 2


async def _count(runs: Runs, number: int) -> bool:
    return len((await runs.runs_of("/answers", "ann").page(9)).changes) == number


async def _is_over(runs: Runs, run_id: str) -> bool:
    found = await runs.state(run_id)
    return found is None or found.ended


async def test_a_handler_without_an_event_loop_has_the_same_methods(runs: Runs) -> None:
    """A library that blocks runs in a thread."""

    def export(run: SyncRun) -> int:
        for n in range(5):
            run.delta(str(n))
        run.send("progress", {"percent": 100})
        run.flush()
        assert (run.owner, run.attempt, run.is_cancelled) == ("ann", 1, False)
        return 7

    run_id = await start(runs, export)
    assert await events_of(runs, run_id) == [
        ("delta", "01234"), ("progress", {"percent": 100}), ("end", {"state": "done"}),
    ]  # fmt: skip
    assert (await ended(runs, run_id)).result == 7


async def test_odd_settings_are_refused() -> None:
    """With a sentence that names the value."""
    log = MemoryLog()
    for options in (
        {"lease": 0}, {"grace": -1}, {"silence": 0}, {"keep": timedelta()}, {"name": "a b"},
        {"lease": float("inf")}, {"lease": "30"}, {"keep": 3600},
    ):  # fmt: skip
        with pytest.raises(UsageError, match=next(iter(options))):
            Runs(log, **options)
    runs = Runs(log)
    await runs.close()
    with pytest.raises(UsageError, match="closed"):
        await runs.state("x")


async def test_code_that_goes_on_after_its_end_is_told(runs: Runs) -> None:
    """A task that a handler left behind must not write into a run that is over."""
    kept: list[Run] = []

    async def answer(run: Run) -> None:
        kept.append(run)

    run_id = await start(runs, answer)
    await ended(runs, run_id)
    with pytest.raises(RunCancelled):
        await until(lambda: kept[0].delta("late"))
    assert await events_of(runs, run_id) == [("end", {"state": "done"})]


async def test_a_caller_that_leaves_while_a_run_is_created_leaves_nothing_behind(
    runs: Runs,
) -> None:
    """Some servers cancel a request whose client has gone."""

    async def answer(run: Run) -> None:
        await run.delta("x")

    for turns in range(12):
        task = asyncio.create_task(runs.create("/a", "ann", key=f"k{turns}", handler=answer))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        run_id = (await runs.create("/a", "ann", key=f"k{turns}", handler=answer)).state.id
        assert await events_of(runs, run_id) == [("delta", "x"), ("end", {"state": "done"})]


@pytest.mark.parametrize("error", [SystemExit, StopIteration, KeyboardInterrupt])
async def test_a_thread_that_exits_fails_its_run_only(runs: Runs, error: type) -> None:
    """A script that calls sys.exit() must not end the server."""

    def script(run: SyncRun) -> None:
        raise error

    assert (await ended(runs, await start(runs, script))).state == "failed"


async def test_a_handler_that_exits_fails_its_run_only(runs: Runs) -> None:
    """So must one in the event loop not, which a library calls sys.exit() in."""

    async def script(run: Run) -> None:
        raise SystemExit(3)

    async def waits(run: Run) -> None:
        """For something that was cancelled, which nobody asked of the run."""
        other = asyncio.ensure_future(asyncio.Event().wait())
        other.cancel()
        await other

    async def generator(run: Run) -> None:
        raise GeneratorExit

    for handler in (script, waits, generator):
        assert (await ended(runs, await start(runs, handler))).state == "failed", handler


async def test_runs_can_be_kept_for_ever() -> None:
    """``timedelta.max`` is longer ago than the first date."""

    async def answer(run: Run) -> None:
        await run.delta("x")

    async with Runs(MemoryLog(), keep=timedelta.max) as runs:
        run_id = await start(runs, answer)
        await ended(runs, run_id)
        assert await runs.sweep() == 0
        assert await runs.state(run_id) is not None

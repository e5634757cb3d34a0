"""Runs that a queue's worker produces: claimed once, ended once, tried again where it says so."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from headwater.errors import (
    RunCancelled,
    RunClaimError,
    RunFailed,
    SourceUnavailableError,
    UsageError,
)
from headwater.eventlog import EventLog, MemoryLog, Record, open_log
from headwater.runs import Run, Runs
from support.until import until


async def queued(runs: Runs, **options: Any) -> str:
    return (await runs.create("/a", "ann", **options)).state.id


async def state_of(runs: Runs, run_id: str) -> str:
    found = await runs.state(run_id)
    return "unknown" if found is None else found.state


async def names(runs: Runs, run_id: str) -> list[Any]:
    async with asyncio.timeout(10):
        return [(event.name, event.data) async for event in runs.follow(run_id)]


async def test_a_worker_claims_a_run_and_ends_it(runs: Runs) -> None:
    """The queue carries the id; what the run is given stands in the run."""
    handed: list[str] = []
    run_id = await queued(runs, input={"rows": 3}, start=handed.append)
    assert handed == [run_id]
    assert await state_of(runs, run_id) == "queued"
    async with runs.attempt(run_id) as run:
        assert await state_of(runs, run_id) == "running"
        assert (run.input, run.owner, run.attempt) == ({"rows": 3}, "ann", 1)
        await run.send("progress", {"percent": 1})
        await run.result(3)
    assert (await runs.state(run_id)).result == 3
    assert await names(runs, run_id) == [("progress", {"percent": 1}), ("end", {"state": "done"})]


async def test_a_queue_of_the_same_process_may_deliver_at_once(log: EventLog, runs: Runs) -> None:
    """An ``asyncio.Queue`` delivers before the function that fills it has returned."""
    queue: asyncio.Queue[str] = asyncio.Queue()
    claimed = asyncio.Event()

    async def work() -> None:
        async with runs.attempt(await queue.get()) as run:
            claimed.set()
            await run.delta("at once")

    async def start(run_id: str) -> None:
        await queue.put(run_id)
        await claimed.wait()

    working = asyncio.create_task(work())
    run_id = await queued(runs, start=start)
    await working
    assert await names(runs, run_id) == [
        ("delta", {"text": "at once"}),
        ("end", {"state": "done"}),
    ]


async def test_a_second_delivery_is_refused(log: EventLog, runs: Runs) -> None:
    """Queues deliver at least once."""
    run_id = await queued(runs)
    async with Runs(log, lease=30.0) as other, runs.attempt(run_id):
        for each in (runs, other):
            with pytest.raises(RunClaimError) as caught:
                async with each.attempt(run_id):
                    raise AssertionError
            assert caught.value.reason == "running"
    for wanted, each in (("ended", run_id), ("unknown", "never")):
        with pytest.raises(RunClaimError) as caught:
            async with runs.attempt(each):
                raise AssertionError
        assert caught.value.reason == wanted


async def test_of_many_workers_one_gets_it(log: EventLog, runs: Runs) -> None:
    """The log decides."""
    run_id = await queued(runs)
    got: list[int] = []

    async def work(each: Runs, number: int) -> None:
        try:
            async with each.attempt(run_id):
                got.append(number)
        except RunClaimError:
            pass

    async with Runs(log, lease=30.0) as other:
        await asyncio.gather(*(work([runs, other][n % 2], n) for n in range(30)))
    assert len(got) == 1
    assert (await names(runs, run_id)) == [("end", {"state": "done"})]


async def test_an_exception_ends_the_run_and_goes_on(runs: Runs) -> None:
    """The queue sees it too."""
    run_id = await queued(runs)
    with pytest.raises(ValueError, match="odd"):
        async with runs.attempt(run_id):
            raise ValueError("odd")
    assert (await runs.state(run_id)).error == "the run failed: ValueError"
    run_id = await queued(runs)
    with pytest.raises(RunFailed):
        async with runs.attempt(run_id):
            raise RunFailed("No such file.")
    assert (await runs.state(run_id)).error == "No such file."


async def test_a_queue_that_tries_again_restarts_the_run(runs: Runs) -> None:
    """What was shown is void, and followers are told."""
    run_id = await queued(runs)
    with pytest.raises(ValueError, match="odd"):
        async with runs.attempt(run_id, retry=True) as run:
            await run.delta("first")
            raise ValueError("odd")
    assert await state_of(runs, run_id) == "queued"
    async with runs.attempt(run_id, retry=True) as again:
        assert again.attempt == 2
        with pytest.raises(RunCancelled):
            await run.delta("late")
        await again.delta("second")
    assert await names(runs, run_id) == [
        ("delta", {"text": "first"}),
        ("restart", {"attempt": 2}),
        ("delta", {"text": "second"}),
        ("end", {"state": "done"}),
    ]


async def test_what_a_lost_attempt_writes_later_does_not_count(log: EventLog, runs: Runs) -> None:
    """A process that hung writes into a run that another one has by then."""
    run_id = await queued(runs)
    async with runs.attempt(run_id) as run:
        await run.delta("one")
        await run.flush()
        topic = f"run:{runs.name}:r:{run_id}"
        (first,) = [one for one in (await log.latest(topic, 9)).records if one.data["t"] == "event"]
        zombie = {**first.data, "c": "0-zombie", "s": 2}
        await log.append(topic, zombie)
        await log.append(topic, {**first.data, "s": 1})
        await run.delta(" two")
        await run.flush()
    await log.append(topic, {**first.data, "s": 3})
    await log.append(topic, {"t": "end", "state": "failed"})
    events = [event async for event in runs.follow(run_id)]
    assert "".join(one.data["text"] for one in events[:-1]) == "one two"
    assert events[-1].data == {"state": "done"}
    assert await state_of(runs, run_id) == "done"


async def test_records_that_do_not_count_hide_no_later_output(log: EventLog, runs: Runs) -> None:
    """Each page of them is read past: an empty group says that there is nothing more so far."""
    run_id = await queued(runs)
    topic = f"run:{runs.name}:r:{run_id}"
    zombie = {"t": "event", "c": "0-zombie", "e": "delta", "d": {"text": "no"}}
    await log.append(topic, [{**zombie, "s": n} for n in range(1, 100)])
    async with runs.attempt(run_id) as run:
        await run.delta("yes")
        await run.flush()
        groups = (await runs.reader(run_id)).events()
        assert [one.data for one in await anext(groups)] == [{"text": "yes"}]
        assert await anext(groups) == ()
        await groups.aclose()


async def test_a_cancelled_attempt_ends_its_block_quietly(runs: Runs) -> None:
    """The queue must not try again what somebody stopped."""
    run_id = await queued(runs)
    begun = asyncio.Event()
    passed: list[str] = []

    async def work() -> None:
        async with runs.attempt(run_id, retry=True):
            begun.set()
            await asyncio.Event().wait()
        passed.append("after")
        await asyncio.sleep(0)

    task = asyncio.create_task(work())
    await begun.wait()
    await runs.cancel(run_id)
    await task
    assert passed == ["after"] and not task.cancelling()
    assert await state_of(runs, run_id) == "cancelled"


async def test_a_run_that_was_cancelled_before_is_not_begun(runs: Runs) -> None:
    """The queue delivers it all the same."""
    run_id = await queued(runs)
    await runs.cancel(run_id)
    with pytest.raises(RunClaimError) as caught:
        async with runs.attempt(run_id):
            raise AssertionError
    assert caught.value.reason == "ended"


async def test_a_task_that_is_cancelled_by_its_queue_loses_the_run(runs: Runs) -> None:
    """A worker that is stopped says so; with a retry another one may have it."""
    for retry, wanted in ((False, "lost"), (True, "queued")):
        run_id = await queued(runs)
        begun = asyncio.Event()

        async def work(
            run_id: str = run_id, retry: bool = retry, begun: asyncio.Event = begun
        ) -> None:
            async with runs.attempt(run_id, retry=retry):
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await state_of(runs, run_id) == wanted


async def test_workers_without_an_event_loop(log: EventLog, runs: Runs) -> None:
    """Celery's tasks are plain functions, in threads and processes of their own."""
    ids = [await queued(runs) for _ in range(4)]
    found: list[str] = []

    def work(run_id: str) -> None:
        with runs.attempt(run_id) as run:
            run.delta("a")
            run.delta("b")
            run.send("progress", {"percent": 50})
            run.result([1])
        try:
            with runs.attempt(run_id):
                raise AssertionError
        except RunClaimError as error:
            found.append(error.reason)

    def fails(run_id: str) -> None:
        with runs.attempt(run_id):
            raise ValueError("odd")

    def cancelled(run_id: str) -> None:
        with runs.attempt(run_id) as run:
            for _ in range(100_000):
                run.send("progress")
        found.append("quiet")

    await asyncio.gather(*(asyncio.to_thread(work, one) for one in ids[:2]))
    assert found == ["ended", "ended"]
    for run_id in ids[:2]:
        assert (await runs.state(run_id)).result == [1]
        assert (await names(runs, run_id))[-2:] == [
            ("progress", {"percent": 50}),
            ("end", {"state": "done"}),
        ]
    with pytest.raises(ValueError, match="odd"):
        await asyncio.to_thread(fails, ids[2])
    assert await state_of(runs, ids[2]) == "failed"
    task = asyncio.create_task(asyncio.to_thread(cancelled, ids[3]))
    await until(lambda: _has(runs, ids[3], "running"))
    await runs.cancel(ids[3])
    await task
    assert found[2:] == ["quiet"]
    assert await state_of(runs, ids[3]) == "cancelled"
    with pytest.raises(UsageError, match="async with"), runs.attempt(ids[3]):
        raise AssertionError


@pytest.mark.parametrize("queue", [False, True])
async def test_cancelling_while_the_claim_is_on_its_way(queue: bool) -> None:
    """The log has it, and the process that made it does not know that yet."""
    log = SlowAnswers()
    begun: list[str] = []

    async def answer(run: Run) -> None:
        begun.append(run.id)
        await asyncio.Event().wait()

    async with Runs(log) as runs, Runs(log) as other:
        run_id = await queued(runs) if queue else ""

        async def begin() -> None:
            if not queue:
                await runs.create("/a", "ann", key="k", handler=answer)
                return
            async with runs.attempt(run_id) as run:
                await answer(run)

        log.answers.clear()
        beginning = asyncio.create_task(begin())
        await log.stored.wait()
        run_id = run_id or (await runs.create("/a", "ann", key="k", handler=answer)).state.id
        assert await state_of(other, run_id) == "running"
        await other.cancel(run_id)
        assert await state_of(other, run_id) == "running", "its process is to end it"
        log.answers.set()
        await beginning
        await until(lambda: _has(other, run_id, "cancelled"))
        assert not begun or queue


@pytest.mark.parametrize("fails", [False, True])
async def test_a_block_that_waits_for_nothing_ends_quietly_when_its_run_is_cancelled(
    fails: bool,
) -> None:
    """It has ended before the cancelling reaches it. The worker's task must not be cancelled."""
    log = SlowAnswers()

    async with Runs(log) as runs, Runs(log) as other:
        run_id = await queued(runs)

        async def work() -> str:
            with suppress(ValueError):
                async with runs.attempt(run_id):
                    if fails:
                        raise ValueError
            await asyncio.sleep(0)
            return "the next job"

        log.answers.clear()
        working = asyncio.create_task(work())
        await log.stored.wait()
        await other.cancel(run_id)
        log.answers.set()
        assert await working == "the next job"
        assert await state_of(other, run_id) == "cancelled"


class SlowAnswers(MemoryLog):
    """Its answer to whoever claims a run waits, while it has stored the claim.

    Attributes:
        answers: set: no answer waits.
        stored: an answer waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answers, self.stored = asyncio.Event(), asyncio.Event()
        self.answers.set()

    async def append(self, topic: str, data: Any, **options: Any) -> list[Record]:
        found = await super().append(topic, data, **options)
        if ":r:" in topic and isinstance(data, dict) and data["t"] in ("run", "claim"):
            if not self.answers.is_set():
                self.stored.set()
            await self.answers.wait()
        return found


async def test_a_worker_without_an_event_loop_beside_one(url: str) -> None:
    """The log is in use in the process's event loop, for feeds or by tasks that are `async`."""
    async with open_log(url) as log:
        await log.append("orders", {"n": 1})
        async with Runs(log) as others:
            run_id = await queued(others)
        runs = Runs(log)

        def work() -> None:
            with runs.attempt(run_id) as run:
                run.delta("a")

        await asyncio.to_thread(work)
        await log.append("orders", {"n": 2})
        assert await names(runs, run_id) == [
            ("delta", {"text": "a"}),
            ("end", {"state": "done"}),
        ]
        await runs.close()


async def _has(runs: Runs, run_id: str, wanted: str) -> bool:
    return await state_of(runs, run_id) == wanted


async def test_a_queue_that_does_not_take_it_fails_the_run(runs: Runs) -> None:
    """The broker is away: the caller hears of it, and no run waits for a worker."""

    def broken(run_id: str) -> None:
        ids.append(run_id)
        raise ConnectionError("no broker")

    ids: list[str] = []
    with pytest.raises(SourceUnavailableError) as caught:
        await runs.create("/a", "ann", start=broken)
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert await state_of(runs, ids[0]) == "failed"


async def test_a_worker_that_died_is_followed_by_another(log: EventLog) -> None:
    """A run with a retry is queued again, and lost when nobody comes."""
    async with Runs(log, lease=30.0, start_within=timedelta(seconds=0.5)) as runs:
        run_id = await queued(runs)
        begun = asyncio.Event()

        async def work() -> None:
            async with runs.attempt(run_id, retry=True) as run:
                await run.delta("x")
                await run.flush()
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await begun.wait()
        # As the watcher of another process does it.
        topic = f"run:{runs.name}:r:{run_id}"
        claim = next(
            one.data["c"]
            for one in (await log.latest(topic, 9)).records
            if one.data["t"] == "event"
        )
        await log.append(topic, {"t": "release", "c": claim}, key="release:1")
        news = {"t": "release", "id": run_id, "c": claim, "by": claim.partition("-")[2]}
        await log.append(f"run:{runs.name}:news", news)
        assert await state_of(runs, run_id) == "queued"
        async with asyncio.timeout(10):
            events = [(one.name, one.data) async for one in runs.follow(run_id)]
        assert events[-1] == ("end", {"state": "lost"})
        with pytest.raises(RunCancelled):
            await task


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_run_whose_worker_died_waits_for_the_next_attempt(
    log: EventLog, cancelled: bool
) -> None:
    """The queue delivers it again; one that was cancelled meanwhile is over."""
    async with Runs(log, lease=2.0) as runs:
        run_id = await queued(runs)
        topic = f"run:{runs.name}:r:{run_id}"
        # As a process does it that dies then.
        news = {"t": "claim", "id": run_id, "w": "dead"}
        claim = {"t": "claim", "c": "1-dead", "retry": True, "nonce": "its own"}
        event = {"t": "event", "c": "1-dead", "s": 1, "e": "delta", "d": {"text": "old"}}
        await log.append(f"run:{runs.name}:news", news)
        await log.append(topic, claim, key="claim:1")
        await log.append(topic, event)
        assert await state_of(runs, run_id) == "running"
        if cancelled:
            await runs.cancel(run_id)
            # What waited for the log then is stored after it.
            waited = [{**event, "s": place} for place in range(2, 102)]
            await log.append(topic, waited)
            await until(lambda: _has(runs, run_id, "cancelled"))
            return
        await until(lambda: _has(runs, run_id, "queued"))
        async with runs.attempt(run_id) as run:
            await run.delta("new")
        assert await names(runs, run_id) == [
            ("delta", {"text": "old"}),
            ("restart", {"attempt": 2}),
            ("delta", {"text": "new"}),
            ("end", {"state": "done"}),
        ]

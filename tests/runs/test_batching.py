"""Tokens on their way into the log: few appends, in order, nothing twice, bounded."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from headwater.errors import SourceUnavailableError
from headwater.eventlog import MemoryLog, Record
from headwater.runs import Run, Runs
from support.until import until


class WatchedLog(MemoryLog):
    """Notes the appends to runs, and may be slow, or away, or say so of what it stored.

    Attributes:
        appends: the events of each append to a run.
        gate: appends of events wait for it.
        faults: errors of the next appends of events, each with whether it is stored all the same.
    """

    def __init__(self) -> None:
        super().__init__(max_count=None)
        self.appends: list[list[Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.faults: list[bool] = []

    async def append(self, topic: str, data: Any, **options: Any) -> list[Record]:
        events = data if isinstance(data, list) else [data]
        if events[0].get("t") != "event":
            return await super().append(topic, data, **options)
        await self.gate.wait()
        if self.faults:
            if self.faults.pop(0):
                await super().append(topic, data, **options)
            raise SourceUnavailableError("log", "whether it was done is not known")
        self.appends.append(events)
        return await super().append(topic, data, **options)


@pytest.fixture
async def log() -> WatchedLog:
    return WatchedLog()


@pytest.fixture
async def runs(log: WatchedLog) -> AsyncIterator[Runs]:
    async with Runs(log, lease=30.0, grace=5.0) as made:
        yield made


async def produce(runs: Runs, handler: Any) -> list[Any]:
    """Run a handler, and return what a late follower gets."""
    created = await runs.create("/answers", "ann", handler=handler)
    async with asyncio.timeout(30):
        return [event async for event in runs.follow(created.state.id)]


def text(events: list[Any]) -> str:
    return "".join(event.data["text"] for event in events if event.name == "delta")


async def test_the_first_delta_is_stored_at_once_and_the_next_ones_together(
    runs: Runs, log: WatchedLog
) -> None:
    """The reader sees the first word without delay; a word is not worth a commit."""

    async def answer(run: Run) -> None:
        await run.delta("first")
        await until(lambda: len(log.appends) == 1)
        for n in range(50):
            await run.delta(f" {n}")
        await run.send("own", 1)
        await run.delta("after")

    events = await produce(runs, answer)
    assert log.appends[0][0]["d"] == {"text": "first"}
    assert [each["e"] for each in log.appends[1]][:2] == ["delta", "own"], "before any other event"
    assert log.appends[1][0]["d"]["text"].split() == [str(n) for n in range(50)]
    assert text(events) == "first" + "".join(f" {n}" for n in range(50)) + "after"


async def test_a_producer_at_the_pace_of_appends_waits_for_none(
    runs: Runs, log: WatchedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token each 50 ms reaches its reader at once, although no two tokens come 50 ms apart."""
    loop = asyncio.get_running_loop()
    now = loop.time()
    passed = 0.0
    at_once: list[bool] = []

    async def answer(run: Run) -> None:
        nonlocal passed
        # No time passes by itself, so an append that waits for its time never comes.
        monkeypatch.setattr(loop, "time", lambda: now + passed)
        for number, late in enumerate([0.0, 0.04, 0.01, 0.03, 0.0, 0.02]):
            passed = number * 0.05 + late
            await run.delta(str(number))
            for _ in range(20):
                await asyncio.sleep(0)
            at_once.append(len(log.appends) > number)
        before = len(log.appends)
        for _ in range(100):
            await run.delta(".")
            await asyncio.sleep(0)
        at_once.append(len(log.appends) <= before + 1)
        monkeypatch.undo()

    events = await produce(runs, answer)
    assert at_once == [True] * 7
    assert text(events) == "012345" + "." * 100


async def test_four_kilobytes_do_not_wait(runs: Runs, log: WatchedLog) -> None:
    """A fast producer's text is stored in pieces of that size, without a pause."""

    async def answer(run: Run) -> None:
        await run.delta("x")
        await until(lambda: len(log.appends) == 1)
        async with asyncio.timeout(30):
            for _ in range(40):
                await run.delta("y" * 1024)
                await asyncio.sleep(0)

    events = await produce(runs, answer)
    assert len(text(events)) == 40 * 1024 + 1
    assert 2 <= len(log.appends) <= 45


async def test_a_slow_log_slows_the_producer_at_a_bound(runs: Runs, log: WatchedLog) -> None:
    """A log that hangs must not fill the memory of the process."""
    given = 0

    async def answer(run: Run) -> None:
        nonlocal given
        log.gate.clear()
        for _ in range(1000):
            await run.delta("x" * 1024)
            given += 1

    created = await runs.create("/answers", "ann", handler=answer)
    await until(lambda: given > 250)
    for _ in range(200):
        await asyncio.sleep(0)
    assert given < 270, f"{given} KB wait for the log"
    log.gate.set()
    async with asyncio.timeout(30):
        events = [event async for event in runs.follow(created.state.id)]
    assert len(text(events)) == 1000 * 1024


async def test_few_events_wait_for_the_log(runs: Runs, log: WatchedLog) -> None:
    """Whoever cancels a run that floods waits until they are stored."""
    given = 0

    async def export(run: Run) -> None:
        nonlocal given
        log.gate.clear()
        for n in range(10_000):
            await run.send("progress", {"row": n})
            given += 1

    run_id = (await runs.create("/exports", "ann", handler=export)).state.id
    await until(lambda: given > 200)
    for _ in range(200):
        await asyncio.sleep(0)
    await runs.cancel(run_id)
    log.gate.set()
    async with asyncio.timeout(30):
        events = [event async for event in runs.follow(run_id)]
    assert events[-1].data == {"state": "cancelled"}
    assert [event.data["row"] for event in events[:-1]] == list(range(len(events) - 1))
    assert len(log.appends) <= 20, f"{len(log.appends)} appends"


@pytest.mark.parametrize("stored", [True, False])
async def test_what_may_have_been_stored_counts_once(
    runs: Runs, log: WatchedLog, stored: bool
) -> None:
    """A connection that breaks during a commit doubles and loses no word."""

    async def answer(run: Run) -> None:
        for n in range(20):
            if n % 5 == 0:
                log.faults = [stored, not stored]
            await run.delta(f"{n},")
            await run.flush()

    events = await produce(runs, answer)
    assert text(events) == "".join(f"{n}," for n in range(20))
    assert events[-1].number == 21, "numbers stay dense"


async def test_a_text_of_any_length_is_stored_in_pieces(runs: Runs, log: WatchedLog) -> None:
    """A delta may be larger than an event of the log can be."""
    whole = "".join(chr(0x4E00 + n % 20_000) for n in range(600_000))

    async def answer(run: Run) -> None:
        await run.delta(whole)

    events = await produce(runs, answer)
    assert text(events) == whole
    assert all(len(event.data["text"]) <= 64 * 1024 for event in events if event.name == "delta")


async def test_pieces_are_as_small_as_the_log_wants_them() -> None:
    """A NATS server may take less than a megabyte, and control characters take six bytes each."""
    whole = "\0" * 20_000 + "one token" * 500

    async def answer(run: Run) -> None:
        for start in range(0, len(whole), 9):
            await run.delta(whole[start : start + 9])
        await run.delta(whole)

    async with Runs(MemoryLog(max_event_bytes=8_000)) as runs:
        assert text(await produce(runs, answer)) == whole * 2


async def at_pace(take: Callable[[str], Awaitable[None]]) -> float:
    """A thousand tokens at a hundred a second. Returns the seconds that it took."""
    began = time.monotonic()
    for n in range(1000):
        await take(f"{time.monotonic():.6f} ")
        await asyncio.sleep(max(began + (n + 1) / 100 - time.monotonic(), 0))  # a model's pace
    return time.monotonic() - began


@pytest.mark.soak
async def test_a_thousand_tokens_at_a_hundred_a_second(runs: Runs, log: WatchedLog) -> None:
    """At most 220 appends, each token half a batch late at the middle, and no slower producer.

    A twin that only keeps the pace says how much of a delay is the machine's.
    """
    delays: list[float] = []
    took: list[float] = []

    async def answer(run: Run) -> None:
        took.append(await at_pace(run.delta))

    async def alone(_: str) -> None: ...

    run_id = (await runs.create("/answers", "ann", handler=answer)).state.id
    twin = asyncio.create_task(at_pace(alone))
    async for event in runs.follow(run_id):
        if event.name == "delta":
            delays += [time.monotonic() - float(one) for one in event.data["text"].split()]
    slower = took[0] / await twin - 1
    print(
        f"{len(log.appends)} appends, p50 {statistics.median(delays) * 1000:.1f} ms, "
        f"{slower:.2%} slower"
    )
    assert len(delays) == 1000
    assert len(log.appends) <= 220, f"{len(log.appends)} appends"
    assert statistics.median(delays) < 0.06
    assert slower < 0.02

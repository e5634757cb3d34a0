"""The reader of engines that push, on an engine that pushes badly on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.errors import SourceUnavailableError
from headwater.eventlog import START, MemoryLog, Offset, Run
from headwater.eventlog._pushed import PushReader
from headwater.eventlog._pushes import Push, States
from headwater.testing._eventlog import Recorder
from headwater.testing._eventlog._harness import numbers
from support.until import until


class Bad:
    """A log in memory whose pushes are the test's.

    Attributes:
        lose: pushes that are lost from now on.
        hold: pushes that wait; ``flush`` makes them.
        lag: reads that find nothing yet, as on a slow replica.
        early: pushes that come before the next answer.
    """

    name = "bad log"

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.lose = 0
        self.hold = False
        self.lag = 0
        self.away = False
        self.reads = 0
        self.early: list[Push] = []
        self._held: list[Push] = []
        self._readers: list[PushReader] = []
        self._appends = 0

    async def append(self, topic: str, *data: int, with_records: bool = True) -> None:
        before = (await self.log.bounds(topic)).latest
        records = await self.log.append(topic, [{"n": n} for n in data])
        self._appends += 1
        last = records[-1].offset
        push = Push(topic, before, last, records if with_records else None, self._appends)
        if self.lose:
            self.lose -= 1
        elif self.hold:
            self._held.append(push)
        else:
            self._push(push)

    def flush(self) -> None:
        held, self._held = self._held, []
        for push in held:
            self._push(push)

    def cut(self) -> None:
        for reader in tuple(self._readers):
            reader.lost(SourceUnavailableError(self.name, "cut"))

    def _push(self, push: Push) -> None:
        for reader in tuple(self._readers):
            reader.receive(push)

    async def listen(self, reader: PushReader) -> Bad:
        await asyncio.sleep(0)
        if self.away:
            raise SourceUnavailableError(self.name, "away")
        self._readers.append(reader)
        return self

    async def subscribe(self, topics: Sequence[str]) -> None:
        await asyncio.sleep(0)

    unsubscribe = subscribe

    async def ping(self) -> None:
        await asyncio.sleep(0)

    async def close(self) -> None:
        self._readers.clear()

    async def states(self, topics: Sequence[str]) -> States:
        await asyncio.sleep(0)
        for push in self.early:
            self._push(push)
        self.early.clear()
        epoch = (await self.log.bounds("any")).epoch
        found = {topic: await self.log.bounds(topic) for topic in topics}
        await asyncio.sleep(0)
        return States(epoch, self._appends, found)

    async def read(self, topic: str, after: Offset, limit: int) -> Run:
        self.reads += 1
        await asyncio.sleep(0)
        run = await self.log.read(topic, after, limit)
        if self.lag:
            self.lag -= 1
            return Run([], replace(run.bounds, latest=after), run.place)
        return run

    async def begin_anew(self, epoch: str) -> None:
        await self.log.clear()


@pytest.fixture
async def bad() -> AsyncIterator[tuple[Bad, PushReader]]:
    engine = Bad()
    reader = PushReader(engine)
    yield engine, reader
    await reader.close()


async def test_a_lost_push_is_noticed_by_the_next_one(bad: tuple[Bad, PushReader]) -> None:
    engine, reader = bad
    follower = Recorder()
    await reader.follow("t", follower)
    await engine.append("t", 1)
    await follower.count(1)
    assert engine.reads == 0, "a push is delivered as it is"
    engine.lose = 2
    await engine.append("t", 2)
    await engine.append("t", 3, 4)
    await engine.append("t", 5)
    await follower.count(5)
    assert numbers(follower.records) == [1, 2, 3, 4, 5]


async def test_a_push_without_its_records_is_read(bad: tuple[Bad, PushReader]) -> None:
    engine, reader = bad
    follower = Recorder()
    await reader.follow("t", follower)
    await engine.append("t", *range(250), with_records=False)
    await engine.append("t", 250)
    await follower.count(251)
    assert numbers(follower.records) == list(range(251))


async def test_a_replica_that_lags_is_asked_again(bad: tuple[Bad, PushReader]) -> None:
    """What was pushed can be missing where it is read; then it is on its way."""
    engine, reader = bad
    follower = Recorder()
    await reader.follow("t", follower)
    engine.lag = 3
    await engine.append("t", 1, with_records=False)
    await follower.count(1)
    assert engine.reads == 4


async def test_what_was_trimmed_unseen_resets_the_followers(bad: tuple[Bad, PushReader]) -> None:
    """A follower that joins meanwhile begins at the place of the others."""
    engine, reader = bad
    early, late = Recorder(), Recorder()
    await reader.follow("t", early)
    engine.lose = 1
    await engine.append("t", 1, 2, 3)
    assert (await reader.follow("t", late)).latest == START
    engine.lose = 1
    await engine.append("t", 4)
    await engine.log.trim("t", max_count=1)
    await engine.append("t", 5)
    for follower in (early, late):
        await follower.until(lambda one: bool(one.resets), "a reset")
        assert follower.resets[0][0] == "expired"
    await engine.append("t", 6)
    for follower in (early, late):
        await follower.until(lambda one: bool(numbers(one.records)[-1:] == [6]), "the newest")
        assert 1 not in numbers(follower.records)


async def test_after_an_outage_a_push_is_not_taken_for_all_there_was(
    bad: tuple[Bad, PushReader],
) -> None:
    """A topic that was trimmed to nothing meanwhile: to some servers its next record is a first."""
    engine, reader = bad
    follower = Recorder()
    await reader.follow("t", follower)
    await engine.append("t", 1)
    await follower.count(1)
    engine.lose = 2
    engine.cut()
    await engine.append("t", 2)
    await engine.log.trim("t", max_age=timedelta(0))
    await engine.append("t", 3)
    newest = (await engine.log.latest("t", 1)).records
    engine.early = [Push("t", START, newest[0].offset, newest, 3)]
    await follower.until(lambda one: bool(one.resets), "a reset")
    assert [reason for reason, _, _ in follower.resets] == ["expired"]
    await engine.append("t", 4)
    await follower.count(2)
    assert numbers(follower.records) == [1, 4]


async def test_nothing_is_delivered_before_the_bounds_are(bad: tuple[Bad, PushReader]) -> None:
    """A follower must know its bounds before it gets the first record after them."""
    engine, reader = bad
    done = asyncio.Event()

    async def write() -> None:
        n = 0
        while not done.is_set():
            await engine.append("t", n)
            n += 1
            await asyncio.sleep(0)

    writing = asyncio.create_task(write())
    for _ in range(20):
        follower = Recorder()
        bounds = await reader.follow("t", follower)
        assert not follower.records
        await follower.count(1)
        assert follower.records[0].offset == bounds.latest.next()
    done.set()
    await writing


async def test_a_follower_that_leaves_while_joining_gets_nothing(
    bad: tuple[Bad, PushReader],
) -> None:
    engine, reader = bad
    tasks = asyncio.all_tasks()
    stays = Recorder()
    for delay in range(25):
        gone = Recorder()
        joining = asyncio.create_task(reader.follow("t", gone))
        for _ in range(delay):
            await asyncio.sleep(0)
        joining.cancel()
        await asyncio.wait([joining])
        reader.unfollow("t", gone)
        had = len(gone.records)
        await engine.append("t", delay)
        await asyncio.sleep(0)
        assert len(gone.records) == had
    await reader.follow("t", stays)
    await engine.append("t", 99)
    await stays.count(1)
    reader.unfollow("t", stays)
    await until(lambda: not asyncio.all_tasks() - tasks)


STEPS = st.lists(
    st.sampled_from(
        ["append", "append", "large", "lose", "hold", "flush", "cut", "join", "leave", "turn"]
    ),
    max_size=40,
)


@settings(max_examples=50, deadline=None)
@given(STEPS)
async def test_whatever_is_lost_held_or_cut_each_record_comes_once_and_in_order(
    steps: list[str],
) -> None:
    """The law of following: what came after the bounds, all of it, once."""
    engine = Bad()
    reader = PushReader(engine)
    expected: list[tuple[Recorder, Offset]] = []
    try:
        count = 0
        for step in steps:
            if step in {"append", "large"}:
                await engine.append("t", *range(count, count + 3), with_records=step == "append")
                count += 3
            elif step == "lose":
                engine.lose = 1
            elif step == "hold":
                engine.hold = True
            elif step == "flush":
                engine.hold = False
                engine.flush()
            elif step == "cut":
                engine.cut()
            elif step == "join":
                follower = Recorder()
                bounds = await reader.follow("t", follower)
                assert not follower.records, "delivered before it had its bounds"
                expected.append((follower, bounds.latest))
            elif step == "leave" and expected:
                reader.unfollow("t", expected.pop()[0])
            else:
                await asyncio.sleep(0)
        engine.lose, engine.hold = 0, False
        engine.flush()
        await engine.append("t", -1)
        for follower, after in expected:
            rest = (await engine.log.read("t", after, 10_000)).records
            await follower.count(len(rest))
            assert follower.records == list(rest)
            assert not follower.resets
    finally:
        await reader.close()


async def test_a_log_that_is_closed_while_its_reader_ends_leaves_no_connection() -> None:
    """The last follower leaves and the log is closed at once, as at the end of a process."""

    class Slow(Bad):
        closed = False

        async def close(self) -> None:
            closing.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self.closed = True

    closing = asyncio.Event()
    log = Slow()
    reader = PushReader(log)  # type: ignore[arg-type]
    follower = Recorder()
    await reader.follow("t", follower)
    reader.unfollow("t", follower)
    await closing.wait()
    await reader.close()
    assert log.closed

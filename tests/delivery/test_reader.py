"""The reader of an origin: each change once to each target that it is for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from headwater import Hub
from headwater.delivery._batch import WriteBatch
from headwater.delivery._open_streams import Counters
from headwater.delivery._reader import OriginReader
from headwater.delivery._targets import Subscription, Target
from headwater.eventlog import MemoryLog
from headwater.feeds._source import Change, Filter, OrderedPlace, Origin
from support.until import until


@dataclass(frozen=True)
class At(OrderedPlace):
    number: int

    def includes(self, other):
        return self.number >= other.number


class Storage(Origin):
    """An origin whose epoch can be away."""

    name = "storage"

    def __init__(self) -> None:
        self.life = "a"
        self.away = False
        self.asked = 0
        self.attached = False

    async def attach(self, sink, /):
        self.attached = True
        return At(0)

    async def detach(self):
        self.attached = False

    async def epoch(self):
        self.asked += 1
        if self.away:
            raise OSError("no answer")
        return self.life


class Noting(Target):
    """Notes what it is called with."""

    def __init__(self, filter_: Filter, *, broken: bool = False) -> None:
        self._filter = filter_
        self.broken = broken
        self.changes: list[int] = []
        self.flushed: list[list[int]] = []
        self.events: list[object] = []

    @property
    def name(self):
        return self

    @property
    def filter(self) -> Filter:
        return self._filter

    def deliver(self, change):
        if self.broken:
            raise ValueError("it does not fit")
        self.changes.append(change.place.number)

    def flush(self, now):
        self.flushed.append(list(self.changes))

    def restart(self, reason, head):
        self.events.append((reason, head))

    def fail(self, error):
        self.events.append("fail")

    def close(self):
        self.events.append("close")


def change(number: int, user: int = 1) -> Change:
    return Change(At(number), {"user": user}, {"n": number})


@pytest.fixture
async def reader():
    reader = OriginReader(Storage(), Counters(), WriteBatch(), lambda _: None)
    await reader.start()
    yield reader
    await reader.stop()


async def test_what_is_delivered_in_one_tick_is_flushed_once(reader):
    mine, other = Noting(Filter.of(user=1)), Noting(Filter.of(user=2))
    reader.add(mine)
    reader.add(other)
    reader.deliver([change(1), change(2)], At(2))
    reader.deliver([change(3)], At(3))
    assert (reader.head, mine.flushed) == (At(3), [])
    await until(lambda: mine.flushed)
    assert mine.flushed == [[1, 2, 3]]
    assert other.flushed == []


async def test_a_target_that_fails_does_not_keep_others_from_their_changes(reader, caplog):
    broken, whole = Noting(Filter(), broken=True), Noting(Filter())
    reader.add(broken)
    reader.add(whole)
    reader.deliver([change(1), change(2)], At(2))
    await until(lambda: whole.flushed)
    assert whole.changes == [1, 2]
    assert (broken.events, broken.flushed) == (["fail"], [])
    assert "cannot be shown" in caplog.text


async def test_a_target_that_waits_for_the_head_is_flushed_without_a_change_for_it(reader):
    target = Noting(Filter.of(user=2))
    reader.add(target)
    reader.flush_on_next_head(target)
    reader.deliver([change(1)], At(1))
    await until(lambda: target.flushed)
    reader.deliver([change(2)], At(2))
    await asyncio.sleep(0)
    assert target.flushed == [[]]


async def test_targets_restart_where_the_storage_is_once_its_epoch_can_be_read(reader):
    """What is delivered meanwhile is in the page from which they begin anew; callbacks get it."""
    target, called = Noting(Filter()), []
    reader.add(target)
    reader.add(Subscription(Filter(), called.extend))
    reader.origin.away, reader.origin.life = True, "b"
    asked = reader.origin.asked
    reader.reset("unknown", At(7))
    await until(lambda: reader.origin.asked > asked)
    reader.deliver([change(8)], At(8))
    await until(lambda: called)
    assert target.events == []
    reader.origin.away = False
    await until(lambda: target.events)
    assert target.events == [("unknown", At(8))]
    assert (reader.epoch, target.changes) == ("b", [])
    reader.deliver([change(9)], At(9))
    assert target.changes == [9]


async def test_a_reader_says_when_its_last_target_has_left():
    unused: list[OriginReader] = []
    reader = OriginReader(Storage(), Counters(), WriteBatch(), unused.append)
    await reader.start()
    first, second = Noting(Filter()), Subscription(Filter(), lambda _: None)
    reader.add(first)
    reader.add(second)
    reader.deliver([change(1)], At(1))
    reader.remove(first)
    reader.remove(first)
    assert (unused, reader.unused) == ([], False)
    reader.remove(second)
    assert (unused, reader.unused) == ([reader], True)
    await asyncio.sleep(0)
    assert (first.flushed, first.events) == ([], ["close"])
    await reader.stop()
    assert not reader.origin.attached


async def test_a_callback_that_fails_is_called_again(reader, caplog):
    seen: list[int] = []

    def call(changes):
        seen.extend(each.place.number for each in changes)
        raise RuntimeError("a fault of the application")

    reader.add(Subscription(Filter(), call))
    for number in (1, 2):
        reader.deliver([change(number)], At(number))
        await until(lambda number=number: len(seen) == number)
    assert seen == [1, 2]
    assert "a subscriber's callback failed" in caplog.text


async def test_a_subscriber_whose_callbacks_fail_disturbs_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The others hear of each change, and that the storage began anew."""

    def broken(*what: object) -> None:
        raise RuntimeError("broken on purpose")

    log, hub = MemoryLog(), Hub(io_uring=False)
    changes: list[Change] = []
    anew = asyncio.Event()
    await hub.subscribe(log.topic("t"), broken, broken)
    await hub.subscribe(log.topic("t"), changes.extend, anew.set)
    await log.append("t", {"n": 1})
    await until(lambda: changes)
    await log.clear()
    await until(anew.is_set)
    await hub.close()
    assert caplog.text.count("a subscriber's callback failed") == 2

"""Topics as sources of feeds; what every engine does is in the contract."""

import asyncio
import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace

import pytest

from headwater.errors import PositionError, ResetReason, SourceUnavailableError, UsageError
from headwater.eventlog import START, Bounds, MemoryLog, Offset
from headwater.eventlog._interface import TopicPlace
from headwater.feeds._position import Position
from headwater.feeds._source import Change, Place
from support.until import until


class Sink:
    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def deliver(self, changes: Sequence[Change], head: Place) -> None:
        self.said += [("item", str(change.place)) for change in changes]

    def reset(self, reason: ResetReason, head: Place) -> None:
        self.said.append((reason, str(head)))


async def test_topics_that_nobody_uses_leave_nothing() -> None:
    """Ten thousand satellites that came and went cost no memory."""
    log = MemoryLog()
    origin = weakref.ref(log.topic("t").origin)
    gc.collect()
    assert origin() is None
    kept = log.topic("t").origin
    assert log.topic("t").origin is kept


async def test_topics_of_two_logs_are_two() -> None:
    assert MemoryLog().topic("t").origin is not MemoryLog().topic("t").origin


async def test_a_log_that_nobody_uses_leaves_nothing() -> None:
    log = MemoryLog()
    log.topic("t")
    gone = weakref.ref(log)
    del log
    gc.collect()
    assert gone() is None


async def test_places_fit_into_positions() -> None:
    """Also the start of an empty page, and offsets of two numbers."""
    for place in (
        replace(TopicPlace.of(Offset.of(7), "m"), past=True),
        TopicPlace.of(Offset.of(1718000000000, 3), ""),
    ):
        token = str(Position("f", "e", str(place)))
        assert TopicPlace.parse(Position.parse(token).place) == place


async def test_an_expired_follower_is_reset_and_goes_on() -> None:
    """An engine whose reader was overtaken by a trim says so through the origin."""
    log = MemoryLog()
    origin = log.topic("t").origin
    sink = Sink()
    await origin.attach(sink)
    before = await origin.epoch()
    origin.reset("expired", Bounds("e2", Offset.of(4), Offset.of(6)))
    expired = ("expired", str(TopicPlace.of(Offset.of(6), "")))
    assert sink.said == [expired]
    assert await origin.epoch() != before
    (record,) = await log.append("t", {"n": 1})
    item = ("item", str(TopicPlace.of(record.offset, record.mark)))
    await origin.detach()
    origin.reset("expired", Bounds("e2", Offset.of(4), Offset.of(6)))
    assert sink.said == [expired, item], "it was notified after detach"


async def test_a_topic_that_cannot_be_followed_now_can_be_later() -> None:
    class Away(MemoryLog):
        away = True

        async def follow(self, topic: str, follower: object) -> Bounds:
            if self.away:
                raise SourceUnavailableError(self.name, "it is away")
            return await super().follow(topic, follower)  # type: ignore[arg-type]

    log = Away()
    origin, sink = log.topic("t").origin, Sink()
    with pytest.raises(SourceUnavailableError):
        await origin.attach(sink)
    log.away = False
    await origin.attach(sink)
    await log.append("t", {"n": 1})
    assert [(what, place.partition(":")[0]) for what, place in sink.said] == [("item", "1")]


async def test_paging_back_from_what_was_trimmed_is_expired() -> None:
    """A page before a trimmed place cannot show what was there."""
    topic = (log := MemoryLog()).topic("t")
    await log.append("t", [{"n": n} for n in range(5)])
    place = (await topic.page(5)).start
    await log.trim("t", max_count=2)
    with pytest.raises(PositionError) as caught:
        await topic.page(5, before=place)
    assert caught.value.reason == "expired"


async def test_a_place_of_another_source_is_refused() -> None:
    class Other:
        def includes(self, other: object, /) -> bool:
            return True

        def at(self, moment: object, /) -> "Other":
            return self

    with pytest.raises(UsageError, match="not a place in a topic"):
        await MemoryLog().topic("t").page(1, after=Other())


async def test_a_revision_says_whether_a_page_would_be_the_same() -> None:
    log = MemoryLog(max_count=3)
    topic = log.topic("t")
    await log.append("t", {"n": 1})
    assert await topic.revision() is None  # no follower
    await topic.origin.attach(Sink())
    before = await topic.revision()
    assert before is not None
    assert await topic.revision() == before
    for change in (
        log.append("t", {"n": 2}),
        log.append("t", [{"n": 3}, {"n": 4}]),
        log.trim("t", max_count=1),
        log.clear(),
    ):
        await change
        now = await topic.revision()
        assert now != before
        before = now
    await log.append("other", {"n": 1})
    assert await topic.revision() == before
    await topic.origin.detach()
    assert await topic.revision() is None


async def test_who_asks_in_one_moment_is_answered_together() -> None:
    class Slow(MemoryLog):
        asked = 0

        async def bounds(self, topic: str) -> Bounds:
            found = await super().bounds(topic)
            self.asked += 1
            await go_on.wait()
            return found

    log, go_on = Slow(), asyncio.Event()
    topic = log.topic("t")
    await topic.origin.attach(Sink())
    first = [asyncio.ensure_future(topic.revision()) for _ in range(20)]
    await until(lambda: log.asked)
    # Those that asked did not see what is appended now; a later question sees it.
    (record,) = await log.append("t", {"n": 1})
    later = [asyncio.ensure_future(topic.revision()) for _ in range(20)]
    go_on.set()
    for asking, latest in ((first, START), (later, record.offset)):
        found = await asyncio.gather(*asking)
        assert {bounds.latest for bounds in found if isinstance(bounds, Bounds)} == {latest}
    assert log.asked == 2

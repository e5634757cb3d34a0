"""The contract of ``trim``, and of ``log.topic``: a topic as the source of a feed."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from headwater.errors import PositionError, ResetReason, UsageError
from headwater.eventlog import START, EventLog
from headwater.feeds._source import Change, Page, Place
from headwater.testing._eventlog._harness import Harness, Waiting, numbers, read_all


class TrimmingContract(Harness):
    """The oldest go, the rest stays, and no offset is ever given out again."""

    async def test_by_count(self, log: EventLog) -> None:
        """A topic can be held to its newest N."""
        records = await log.append("t", [{"n": n} for n in range(10)])
        removed = await log.trim("t", max_count=4)
        assert removed == 6, f"6 records were to go and {removed} went"
        assert numbers(await read_all(log, "t")) == [6, 7, 8, 9], "the newest stay"
        bounds = await log.bounds("t")
        assert records[5].offset <= bounds.earliest < records[6].offset, f"earliest: {bounds}"
        assert bounds.latest == records[-1].offset, "latest does not change"
        run = await log.read("t", bounds.earliest, 100)
        assert numbers(run.records) == [6, 7, 8, 9], "earliest gives all that is kept"
        assert await log.trim("t", max_count=4) == 0, "nothing is left to trim"

    async def test_by_age(self, log: EventLog) -> None:
        """Old events go, younger ones stay."""
        (old,) = await log.append("t", {"n": "old"})
        await asyncio.sleep(0.04)  # the clock itself is what is waited for
        (young,) = await log.append("t", {"n": "young"})
        middle = old.at + (young.at - old.at) / 2
        removed = await log.trim("t", max_age=datetime.now(UTC) - middle)
        kept = numbers(await read_all(log, "t"))
        assert kept == ["young"], f"{kept} are kept"
        assert removed == 1, f"one record was to go and {removed} went"
        assert await log.trim("t", max_age=timedelta(days=1)) == 0, "nothing is that old"

    async def test_by_size(self, log: EventLog) -> None:
        """A topic can be held to so many bytes of JSON."""
        data = [{"n": n, "fill": "ä" * 50} for n in range(10)]
        size = len('{"n":0,"fill":""}') + 100
        await log.append("t", data)
        if not log.capabilities.trim_by_size:
            with pytest.raises(UsageError):
                await log.trim("t", max_bytes=3 * size)
            return
        removed = await log.trim("t", max_bytes=3 * size)
        assert removed == 7, f"3 of 10 fit exactly, and {removed} went"
        assert numbers(await read_all(log, "t")) == [7, 8, 9], "the newest stay"
        await log.trim("t", max_bytes=3 * size - 1)
        assert numbers(await read_all(log, "t")) == [8, 9], "only two fit now"
        assert await log.trim("t", max_bytes=size - 1) == 2, "not one fits now"

    async def test_before_an_offset(self, log: EventLog) -> None:
        """What was worked off goes, and nothing that came after it."""
        records = await log.append("t", [{"n": n} for n in range(6)])
        await log.append("u", {"n": 9})
        assert await log.trim("t", before=records[2].offset) == 2, "two are below the third"
        assert numbers(await read_all(log, "t")) == [2, 3, 4, 5], "it stays itself"
        assert await log.trim("t", before=records[0].offset) == 0, "nothing is below that"
        assert await log.trim("t", before=records[-1].offset.next()) == 4, "the rest goes"
        assert (await log.bounds("t")).latest == records[-1].offset, "it goes on counting"
        assert numbers(await read_all(log, "u")) == [9], "another topic was trimmed"
        with pytest.raises(UsageError, match="before"):
            await log.trim(before=records[0].offset)

    async def test_any_limit_counts(self, log: EventLog) -> None:
        """With several limits the strictest decides."""
        await log.append("t", [{"n": n} for n in range(10)])
        await log.trim("t", max_count=3, max_age=timedelta(days=1))
        assert numbers(await read_all(log, "t")) == [7, 8, 9], "the count is the stricter"

    async def test_all_topics(self, log: EventLog) -> None:
        """One call keeps a log of thousands of topics in bounds."""
        for topic in ("a", "b", "c"):
            await log.append(topic, [{"n": n} for n in range(5)])
        removed = await log.trim(max_count=2)
        assert removed == 9, f"3 of each of 3 topics were to go, and {removed} went"
        for topic in ("a", "b", "c"):
            assert numbers(await read_all(log, topic)) == [3, 4], f"topic {topic}"

    async def test_a_topic_trimmed_to_nothing_goes_on_counting(self, log: EventLog) -> None:
        """An offset given out again would make a client skip the new record that has it."""
        old = await log.append("t", [{"n": 1}, {"n": 2}])
        assert await log.trim("t", max_count=0) == 2, "both records were to go"
        bounds = await log.bounds("t")
        assert bounds.earliest == bounds.latest == old[-1].offset, f"{bounds} of nothing"
        (new,) = await log.append("t", {"n": 3})
        assert new.offset > old[-1].offset, f"{new.offset} was given out before"
        assert numbers(await read_all(log, "t", old[-1].offset)) == [3], "it is resumed at"

    async def test_a_quiet_topic_is_not_touched_by_others(self, log: EventLog) -> None:
        """A quiet feed's position must not expire because others are busy."""
        (quiet,) = await log.append("quiet", {"n": 1})
        for n in range(20):
            await log.append("busy", {"n": n})
        await log.trim("busy", max_count=1)
        bounds = await log.bounds("quiet")
        assert bounds.earliest == START, "the quiet topic was trimmed"
        assert bounds.latest == quiet.offset, "the quiet topic's end moved"

    async def test_followers_go_on_after_a_trim(self, log: EventLog) -> None:
        """Trimming what a follower has had already does not disturb it."""
        follower = await self.following(log)
        await log.append("t", [{"n": n} for n in range(5)])
        await follower.count(5)
        await log.trim("t", max_count=1)
        await log.append("t", {"n": 5})
        await follower.count(6)
        assert numbers(follower.records) == [0, 1, 2, 3, 4, 5], "something was lost"
        assert not follower.resets, f"it was reset for nothing: {follower.resets}"

    async def test_a_follower_that_a_trim_overtakes_is_reset(self, log: EventLog) -> None:
        """It gets each record or ``expired``, and then all that comes: nothing is lost silently."""
        follower = await self.following(log)
        appended = []
        for n in range(0, 60, 3):
            appended += await log.append("t", [{"n": n}, {"n": n + 1}, {"n": n + 2}])
            await log.trim("t", max_count=1)
        appended += await log.append("t", {"n": 60})
        last = appended[-1]
        await follower.until(
            lambda one: (
                last in one.records[-1:] or any(b.latest >= last.offset for _, b, _ in one.resets)
            ),
            "the last event, or a reset that covers it",
        )
        due, begun = appended, 0
        for reason, bounds, had in follower.resets:
            assert reason == "expired", f"a trim is 'expired', not {reason!r}"
            part = follower.records[begun:had]
            assert part == due[: len(part)], f"before a reset came {numbers(part)}"
            due, begun = [one for one in appended if one.offset > bounds.latest], had
        came = numbers(follower.records[begun:])
        assert came == numbers(due), f"{came} came after the last reset"

    async def test_nonsense_is_refused(self, log: EventLog) -> None:
        """A negative limit is a mistake, not an order to delete everything."""
        await log.append("t", {"n": 1})
        with pytest.raises(UsageError, match="max_count"):
            await log.trim("t", max_count=-1)
        with pytest.raises(UsageError, match="max_age"):
            await log.trim("t", max_age=timedelta(seconds=-1))
        with pytest.raises(UsageError, match="max_bytes"):
            await log.trim("t", max_bytes=-1)
        assert await log.trim("t") == 0, "no limit trims nothing"
        assert await log.trim("t", max_age=timedelta.max) == 0, "nothing is as old as that"
        assert await log.trim(max_age=timedelta.max) == 0, "nothing is as old as that"
        assert await log.trim("never", max_count=0) == 0, "an unknown topic holds nothing"
        assert await log.trim("t", before=START) == 0, "no record is below START"
        assert numbers(await read_all(log, "t")) == [1], "nonsense trimmed something"


class _Sink(Waiting):
    """A sink that remembers."""

    def __init__(self, patience: float) -> None:
        super().__init__(patience)
        self.changes: list[Change] = []
        self.head: Place | None = None
        self.resets: list[tuple[ResetReason, Place]] = []

    def __str__(self) -> str:
        return f"{len(self.changes)} changes and {len(self.resets)} resets"

    def deliver(self, changes: Sequence[Change], head: Place) -> None:
        self.changes += changes
        self.head = head
        self.news.set()

    def _ignore(self, *what: object) -> None:
        pass

    failed = interrupt = retire = replace = _ignore

    def wanted(self, names: Collection[str]) -> Mapping[str, frozenset[Hashable]]:
        return {name: frozenset() for name in names}

    def reset(self, reason: ResetReason, head: Place) -> None:
        self.resets.append((reason, head))
        self.news.set()


def _seen(page: Page) -> list[int]:
    return [change.item["n"] for change in page.changes]


class TopicContract(Harness):
    """Pages, positions and the hand-over, as the delivery of feeds needs them."""

    async def test_pages_back_and_forth(self, log: EventLog) -> None:
        """Each page's start, end and has_more lead to the neighbouring pages exactly."""
        await log.append("t", [{"n": n} for n in range(10)])
        topic = log.topic("t")
        newest = await topic.page(4)
        assert (_seen(newest), newest.has_more) == ([6, 7, 8, 9], True), "the newest page"
        older = await topic.page(4, before=newest.start)
        assert (_seen(older), older.has_more) == ([2, 3, 4, 5], True), "the page before it"
        oldest = await topic.page(4, before=older.start)
        assert (_seen(oldest), oldest.has_more) == ([0, 1], False), "the first page"
        again = await topic.page(4, after=oldest.end)
        assert (_seen(again), again.has_more) == ([2, 3, 4, 5], True), "forwards again"
        last = await topic.page(4, after=again.end)
        assert (_seen(last), last.has_more) == ([6, 7, 8, 9], False), "up to the head"
        assert last.end.includes(newest.end), "the last page ends at the head"
        nothing = await topic.page(4, after=last.end)
        assert (_seen(nothing), nothing.has_more) == ([], False), "nothing is newer"
        back = await topic.page(4, before=nothing.start)
        assert _seen(back) == [6, 7, 8, 9], "the page that comes just before an empty one"
        exact = await topic.page(10)
        assert (len(exact.changes), exact.has_more) == (10, False), "exactly all"

    async def test_pages_of_an_empty_topic(self, log: EventLog) -> None:
        """A feed without items has a position too, from which the first item is received."""
        topic = log.topic("t")
        page = await topic.page(4)
        assert (_seen(page), page.has_more) == ([], False), "it is empty"
        assert not (await topic.page(4, before=page.start)).changes, "also before that"
        place = await topic.locate(page.epoch, str(page.end))
        await log.append("t", {"n": 1})
        later = await topic.page(4, after=place)
        assert _seen(later) == [1], "what came since the empty page"

    async def test_items_have_an_id_and_a_time(self, log: EventLog) -> None:
        """An event without ``id`` and ``at`` gets them; its own are left as they are."""
        own = {"n": 1, "id": "mine", "at": "then"}
        bare, full = await log.append("t", [{"n": 0}, own])
        page = await log.topic("t").page(2)
        first, second = (change.item for change in page.changes)
        assert first["id"] == str(bare.offset), "id is the offset's text"
        assert str(first["at"]).endswith("Z"), f"at is {first['at']!r}, not UTC with Z"
        assert second == own, f"an item's own fields were changed: {second}"
        places = [str(change.place).partition(":")[0] for change in page.changes]
        assert places == [str(bare.offset), str(full.offset)], "places begin with offsets"

    async def test_one_origin_per_topic(self, log: EventLog) -> None:
        """All streams of a topic share one reader of it."""
        first, second = log.topic("t"), log.topic("t")
        assert first.origin is second.origin, "two origins for one topic"
        assert first.identity == second.identity, "equal sources must share their work"
        assert log.topic("u").origin is not first.origin, "one origin for two topics"
        with pytest.raises(UsageError):
            log.topic("not a topic")

    async def test_positions_are_checked(self, log: EventLog) -> None:
        """A place that cannot be resumed is an error, unknown or expired; no place is guessed."""
        topic = log.topic("t")
        await log.append("t", [{"n": n} for n in range(6)])
        page = await topic.page(6)
        places = [str(change.place) for change in page.changes]
        await log.trim("t", max_count=3)
        for text in places[2:]:
            place = await topic.locate(page.epoch, text)
            assert str(place) == text, f"{text} was read as {place}"
        offset, _, tag = places[-1].partition(":")
        future = "-".join("9" * 19 for _ in offset.split("-")) + f":{tag}"
        other = await log.topic("u").page(1)
        for epoch, text, reason in [
            (page.epoch, places[0], "expired"),
            (page.epoch, places[1], "expired"),
            ("0", places[-1], "unknown"),
            (page.epoch, future, "unknown"),
            (page.epoch, "nonsense", "unknown"),
            (page.epoch, f"-1:{tag}", "unknown"),
            (page.epoch, f"00:{tag}", "unknown"),
            (page.epoch, f"{offset}-0-0:{tag}", "unknown"),
            (page.epoch, offset, "unknown"),
            (page.epoch, f"{offset}:00000000", "unknown"),
            (other.epoch, str(other.end), "unknown"),
            (other.epoch, places[-1], "unknown"),
        ]:
            with pytest.raises(PositionError) as caught:
                await topic.locate(epoch, text)
            said = caught.value.reason
            assert said == reason, f"{text} of epoch {epoch} is {reason}, not {said}"

    async def test_a_page_after_what_was_trimmed_is_expired(self, log: EventLog) -> None:
        """A stream that fell behind retention gets an error and skips nothing silently."""
        topic = log.topic("t")
        start = (await topic.page(1)).end
        await log.append("t", [{"n": n} for n in range(6)])
        await log.trim("t", max_count=3)
        with pytest.raises(PositionError) as caught:
            await topic.page(10, after=start)
        assert caught.value.reason == "expired", f"said {caught.value.reason}"

    async def test_the_hand_over_goes_on_where_the_place_is(self, log: EventLog) -> None:
        """Attach, read up to the place, go on with what is delivered: all of it, once."""
        topic = log.topic("t")
        await log.append("t", [{"n": 0}, {"n": 1}])
        sink = _Sink(self.patience)
        place = await topic.origin.attach(sink)
        page = await topic.page(10)
        assert page.end.includes(place), "the page reaches what the hand-over begins after"
        assert page.epoch == await topic.origin.epoch(), "the page is of another epoch"
        await log.append("t", [{"n": 2}, {"n": 3}])
        await sink.until(lambda one: len(one.changes) == 2, "two changes")
        seen = [change.item["n"] for change in sink.changes]
        assert seen == [2, 3], f"after the place came {seen}"
        assert all(change.place is not None for change in sink.changes), "each has a place"
        assert sink.head is not None, "no head was delivered"
        assert str(sink.head) == str(sink.changes[-1].place), "the head is the last change"
        await topic.origin.detach()
        await log.append("t", {"n": 4})
        await log.bounds("t")
        assert len(sink.changes) == 2, "delivered after detach"

    async def test_a_wipe_is_handed_over_as_a_reset(self, log: EventLog) -> None:
        """Streams of a topic start anew with the new life's epoch in their positions."""
        topic = log.topic("t")
        await log.append("t", {"n": 0})
        sink = _Sink(self.patience)
        old = await topic.locate((start := await topic.page(1)).epoch, str(start.end))
        await topic.origin.attach(sink)
        before = await topic.origin.epoch()
        await self.wipe(log)
        await sink.until(lambda one: bool(one.resets), "a reset")
        assert sink.resets[0][0] == "unknown", f"said {sink.resets[0][0]}"
        epoch = await topic.origin.epoch()
        assert epoch != before, "the origin still has the old epoch"
        with pytest.raises(PositionError):
            await topic.locate(before, str(old))
        await topic.origin.detach()

"""The contract of ``log.topic``: a topic as the source of a feed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence

import pytest

from headwater.errors import PositionError, ResetReason, UsageError
from headwater.feeds.source import Change, Page, Place
from headwater.testing.eventlog.harness import Harness

__all__ = ["TopicContract"]


class _Sink:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.head: Place | None = None
        self.resets: list[tuple[ResetReason, Place]] = []
        self.news = asyncio.Event()

    def deliver(self, changes: Sequence[Change], head: Place) -> None:
        self.changes += changes
        self.head = head
        self.news.set()

    def failed(self) -> None:
        pass

    def retire(self, before: Place) -> None:
        pass

    def wanted(self, names: Collection[str]) -> Mapping[str, frozenset[Hashable]]:
        return {name: frozenset() for name in names}

    def reset(self, reason: ResetReason, head: Place) -> None:
        self.resets.append((reason, head))
        self.news.set()


def _seen(page: Page) -> list[int]:
    return [change.item["n"] for change in page.changes]


class TopicContract(Harness):
    """Pages, positions and the hand-over, as the delivery of feeds needs them."""

    async def test_pages_back_and_forth(self) -> None:
        """Each page's start, end and has_more lead to the neighbouring pages exactly."""
        async with self.opened() as log:
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

    async def test_pages_of_an_empty_topic(self) -> None:
        """A feed without items has a position too, from which the first item is received."""
        async with self.opened() as log:
            topic = log.topic("t")
            page = await topic.page(4)
            assert (_seen(page), page.has_more) == ([], False), "it is empty"
            assert not (await topic.page(4, before=page.start)).changes, "also before that"
            place = await topic.locate(page.epoch, str(page.end))
            await log.append("t", {"n": 1})
            later = await topic.page(4, after=place)
            assert _seen(later) == [1], "what came since the empty page"

    async def test_items_have_an_id_and_a_time(self) -> None:
        """An event without ``id`` and ``at`` gets them; its own are left as they are."""
        async with self.opened() as log:
            own = {"n": 1, "id": "mine", "at": "then"}
            bare, full = await log.append("t", [{"n": 0}, own])
            page = await log.topic("t").page(2)
            first, second = (change.item for change in page.changes)
            assert first["id"] == str(bare.offset), "id is the offset's text"
            assert str(first["at"]).endswith("Z"), f"at is {first['at']!r}, not UTC with Z"
            assert second == own, f"an item's own fields were changed: {second}"
            places = [str(change.place) for change in page.changes]
            assert places == [str(bare.offset), str(full.offset)], "places are offsets"

    async def test_one_origin_per_topic(self) -> None:
        """All streams of a topic share one reader of it."""
        async with self.opened() as log:
            first, second = log.topic("t"), log.topic("t")
            assert first.origin is second.origin, "two origins for one topic"
            assert first.identity == second.identity, "equal sources must share their work"
            assert log.topic("u").origin is not first.origin, "one origin for two topics"
            with pytest.raises(UsageError):
                log.topic("not a topic")

    async def test_positions_are_checked(self) -> None:
        """A place that cannot be resumed is an error, unknown or expired; no place is guessed."""
        async with self.opened() as log:
            topic = log.topic("t")
            await log.append("t", [{"n": n} for n in range(6)])
            page = await topic.page(6)
            places = [str(change.place) for change in page.changes]
            await log.trim("t", max_count=3)
            for text in places[2:]:
                place = await topic.locate(page.epoch, text)
                assert str(place) == text, f"{text} was read as {place}"
            future = "-".join("9" * 19 for _ in places[-1].split("-"))
            for epoch, text, reason in [
                (page.epoch, places[0], "expired"),
                (page.epoch, places[1], "expired"),
                ("0", places[-1], "unknown"),
                (page.epoch, future, "unknown"),
                (page.epoch, "nonsense", "unknown"),
                (page.epoch, "-1", "unknown"),
                (page.epoch, "00", "unknown"),
                (page.epoch, places[-1] + "-0-0", "unknown"),
            ]:
                with pytest.raises(PositionError) as caught:
                    await topic.locate(epoch, text)
                said = caught.value.reason
                assert said == reason, f"{text} of epoch {epoch} is {reason}, not {said}"

    async def test_a_page_after_what_was_trimmed_is_expired(self) -> None:
        """A stream that fell behind retention gets an error and skips nothing silently."""
        async with self.opened() as log:
            topic = log.topic("t")
            start = (await topic.page(1)).end
            await log.append("t", [{"n": n} for n in range(6)])
            await log.trim("t", max_count=3)
            with pytest.raises(PositionError) as caught:
                await topic.page(10, after=start)
            assert caught.value.reason == "expired", f"said {caught.value.reason}"

    async def test_the_hand_over_goes_on_where_the_place_is(self) -> None:
        """Attach, read up to the place, go on with what is delivered: all of it, once."""
        async with self.opened() as log:
            topic = log.topic("t")
            await log.append("t", [{"n": 0}, {"n": 1}])
            sink = _Sink()
            place = await topic.origin.attach(sink)
            page = await topic.page(10)
            assert page.end.includes(place), "the page reaches what the hand-over begins after"
            assert page.epoch == await topic.origin.epoch(), "the page is of another epoch"
            await log.append("t", [{"n": 2}, {"n": 3}])
            await self._wait(sink, lambda: len(sink.changes) == 2, "two changes")
            seen = [change.item["n"] for change in sink.changes]
            assert seen == [2, 3], f"after the place came {seen}"
            assert all(change.place is not None for change in sink.changes), "each has a place"
            assert sink.head is not None, "no head was delivered"
            assert str(sink.head) == str(sink.changes[-1].place), "the head is the last change"
            await topic.origin.detach()
            await log.append("t", {"n": 4})
            await log.bounds("t")
            assert len(sink.changes) == 2, "delivered after detach"

    async def test_a_wipe_is_handed_over_as_a_reset(self) -> None:
        """Streams of a topic start anew with the new life's epoch in their positions."""
        async with self.opened() as log:
            topic = log.topic("t")
            await log.append("t", {"n": 0})
            sink = _Sink()
            old = await topic.locate((await topic.page(1)).epoch, "0")
            await topic.origin.attach(sink)
            before = await topic.origin.epoch()
            await self.wipe(log)
            await self._wait(sink, lambda: bool(sink.resets), "a reset")
            assert sink.resets[0][0] == "unknown", f"said {sink.resets[0][0]}"
            epoch = await topic.origin.epoch()
            assert epoch != before, "the origin still has the old epoch"
            with pytest.raises(PositionError):
                await topic.locate(before, str(old))
            await topic.origin.detach()

    async def _wait(self, sink: _Sink, reached: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(self.patience):
                while not reached():
                    sink.news.clear()
                    await sink.news.wait()
        except TimeoutError:
            raise AssertionError(f"waited {self.patience} s for {what}") from None

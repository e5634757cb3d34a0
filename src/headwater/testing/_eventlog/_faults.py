"""The contract of a log that others harm: it goes back, is purged, or gets foreign entries.

An engine's test class overrides the methods that do this. The tests of the others are skipped.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, NamedTuple

import pytest

from headwater.errors import PositionError, SourceUnavailableError
from headwater.eventlog import START, EventLog, Offset, Record, Topic, foreign_entries
from headwater.feeds._source import Place
from headwater.testing._eventlog._harness import Harness, Recorder, numbers, read_all


class FaultContract(Harness):
    """Every acknowledged event once, or a reset before anything newer.

    Attributes:
        rounds: how often a log goes back in the test under load: 2, or ``HEADWATER_FAULT_ROUNDS``.
        gives_up: an append to an engine that stalls raises within this many seconds.
    """

    rounds = int(os.environ.get("HEADWATER_FAULT_ROUNDS", "2"))
    gives_up = 30.0

    async def keep_copy(self, log: EventLog) -> Any:
        """A copy of the storage as it is, for ``go_back``."""
        pytest.skip("the engine gives no way to go back")

    async def go_back(self, log: EventLog, copy: Any) -> None:
        """Put the copy in the place of the storage, behind the log's back."""

    async def purge(self, log: EventLog, topic: str, last: Offset) -> None:
        """Remove a topic's records up to an offset, as another program does."""
        pytest.skip("the engine gives no way to purge")

    async def remove(self, log: EventLog, record: Record) -> bool:
        """Remove one record, as another program does. False: the engine refuses that."""
        pytest.skip("the engine gives no way to remove a record")

    async def lose_topic(self, log: EventLog, topic: str) -> None:
        """Remove all that the engine keeps of a topic, and of no other."""
        pytest.skip("the engine gives no way to lose a topic")

    async def intrude(self, log: EventLog, topic: str) -> None:
        """Store something in a topic that is no event of the log."""
        pytest.skip("the engine gives no way to store something else")

    def refuse(self, log: EventLog) -> AbstractAsyncContextManager[None]:
        """Within the block the engine refuses appends, as without a permission or room."""
        pytest.skip("the engine gives no way to refuse")

    def stall(self, log: EventLog) -> AbstractAsyncContextManager[None]:
        """Within the block the engine keeps its connections, but does not answer."""
        pytest.skip("the engine gives no way to stall")

    @pytest.mark.parametrize("more", [1, 2, 7])
    async def test_a_log_that_went_back_is_noticed_however_fast_writers_are(
        self, log: EventLog, more: int
    ) -> None:
        """A restored copy, or a fail-over that lost writes: what a client has may be gone."""
        follower = await self.following(log)
        first = await log.append("t", [{"n": n} for n in range(3)])
        kept = await _end(log, 3)
        copy = await self.keep_copy(log)
        await log.append("t", [{"n": 3}, {"n": 4}])
        await follower.count(5)
        gone = await _end(log, 5)
        async with self.reopened(log) as other:
            await self.go_back(log, copy)
            new = [await self._insist(other, 10 + n) for n in range(more)]
            await follower.until(lambda one: bool(one.resets), "a reset")
            await self._delivered_after_reset(follower, other, new)
            assert await read_all(log, "t") == [*first, *new], "it is another log"
            assert await self._after(log, gone) is None, "a place that is gone was resumed"
            resumed = await self._after(log, kept)
            assert resumed in (None, [one.data["n"] for one in new]), f"{kept} gave {resumed}"

    async def test_a_writer_begins_a_log_anew_that_went_back(self, log: EventLog) -> None:
        """Clients that were away for all of it would miss what was lost, and get what is newer."""
        await log.append("t", [{"n": n} for n in range(3)])
        kept = await _end(log, 3)
        copy = await self.keep_copy(log)
        await self._insist(log, 3)
        await self._insist(log, 4)
        await self.go_back(log, copy)
        await self._insist(log, 5)
        assert await self._after(log, kept) is None, "a client was not reset"
        new = await _end(log, 4)
        await self._insist(log, 6)
        assert await self._after(log, new) == [6], "it begins anew again and again"

    @pytest.mark.parametrize("writers", [1, 20])
    async def test_rounds_of_going_back_while_writers_write(
        self, log: EventLog, writers: int
    ) -> None:
        """Whatever the moment: after its last reset a stream has just what the log has."""
        async with AsyncExitStack() as stack:
            await self.keep_copy(log)  # skips the test where there is no way
            other = await stack.enter_async_context(self.reopened(log))
            recorders = [await self.following(one) for one in (log, other)]
            stopped, count = False, itertools.count()

            async def write() -> None:
                while not stopped:
                    await self._insist(other, next(count))

            writing = [asyncio.create_task(write()) for _ in range(writers)]
            for task in writing:
                stack.callback(task.cancel)
            kept: list[_Kept] = []
            for _ in range(self.rounds):
                copy = await self.keep_copy(log)
                await recorders[0].count(len(recorders[0].records) + 5)
                page = await Topic(log, "t").page(1)
                kept.append(_Kept(page.epoch, str(page.end), START))
                await self.go_back(log, copy)
            stopped = True
            await asyncio.gather(*writing)
            async with asyncio.timeout(self.patience * 3):
                while True:  # an event that a reset covers is not delivered
                    last = await self._insist(other, next(count))
                    await asyncio.sleep(0.2)
                    if all(one.records[-1:] == [last] for one in recorders):
                        break
            there = await read_all(log, "t")
            for recorder in recorders:
                _, bounds, had = recorder.resets[-1]
                wanted = [one for one in there if one.offset > bounds.latest]
                assert recorder.records[had:] == wanted, "a stream has not what the log has"
            for place in kept:
                found = await self._after(log, place)
                tail = [one.data["n"] for one in there]
                assert found is None or tail[-len(found) :] == found, "a client got another log"

    async def test_a_client_that_was_away_is_reset_where_events_were_purged(
        self, log: EventLog
    ) -> None:
        """It would skip acknowledged events without a word."""
        places = await _six(log)
        await self.purge(log, "t", places[3].offset)
        for n in range(3):
            assert await self._after(log, places[n]) is None, f"resumed over a hole after {n}"
        assert await self._after(log, places[4]) == [5], "what is kept can be resumed"
        follower = await self.following(log)
        await log.append("t", {"n": 6})
        await follower.until(lambda one: bool(one.records or one.resets), "an event")
        await self.purge(log, "t", places[5].offset)
        for n in range(5):
            assert await self._after(log, places[n]) is None, f"resumed over a hole after {n}"

    async def test_a_client_that_was_away_is_reset_where_one_event_was_removed(
        self, log: EventLog
    ) -> None:
        """One hole is enough."""
        places = await _six(log)
        records = await read_all(log, "t")
        if not await self.remove(log, records[3]):
            assert await read_all(log, "t") == records, "it was refused and done"
            return
        for n in range(3):
            assert await self._after(log, places[n]) is None, f"resumed over a hole after {n}"
        assert await self._after(log, places[4]) == [5], "what is kept can be resumed"

    async def test_a_topic_that_is_lost_resets_its_streams(self, log: EventLog) -> None:
        """Its next event may have an offset that was given out before."""
        places = await _six(log)
        follower = await self.following(log)
        await self.lose_topic(log, "t")
        new = [(await log.append("t", {"n": 10 + n}))[0] for n in range(7)]
        await follower.until(lambda one: bool(one.resets), "a reset")
        await self._delivered_after_reset(follower, log, new)
        for n in range(6):
            assert await self._after(log, places[n]) is None, f"resumed after {n}"

    async def test_what_is_no_event_is_skipped(self, log: EventLog) -> None:
        """A program that writes to the engine directly must not stop a topic."""
        follower = await self.following(log)
        await log.append("t", {"n": 0})
        await follower.count(1)
        before = foreign_entries()
        for n in range(1, 4):
            await self.intrude(log, "t")
            await log.append("t", {"n": n})
        await self.intrude(log, "t")
        await follower.count(4)
        assert foreign_entries() > before, "they are not counted"
        assert numbers(follower.records) == [0, 1, 2, 3], "something was skipped"
        assert not follower.resets, f"it was reset for nothing: {follower.resets}"
        assert numbers(await read_all(log, "t")) == [0, 1, 2, 3], "reading stops there"
        assert numbers((await log.latest("t", 3)).records) == [1, 2, 3], "a page is not full"
        late = await self.following(log)
        await log.append("t", {"n": 4})
        await late.count(1)
        place = await _end(log, 5)
        await self.intrude(log, "t")
        await log.append("t", {"n": 5})
        assert await self._after(log, place) == [5], "a client could not resume"

    async def test_a_refusal_ends_an_append_soon_with_one_sentence(self, log: EventLog) -> None:
        """And it passes: what was refused can be appended later, and streams go on."""
        await self._goes_on_after(self.refuse(log), log, self.patience)

    async def test_an_engine_that_stalls_is_given_up(self, log: EventLog) -> None:
        """A caller gets an error in bounded time; a retry with its key doubles nothing."""
        await self._goes_on_after(self.stall(log), log, self.gives_up)

    async def _goes_on_after(
        self, fault: AbstractAsyncContextManager[None], log: EventLog, seconds: float
    ) -> None:
        """During the fault an append raises within so many seconds, with a one-line sentence."""
        follower = await self.following(log)
        first = await log.append("t", {"n": 0})
        await follower.count(1)
        async with fault, asyncio.timeout(seconds):
            with pytest.raises(SourceUnavailableError) as caught:
                await log.append("t", {"n": 1}, key="insist-1")
        said = str(caught.value)
        assert log.name in said, f"whose fault it is: {said}"
        assert len(said.splitlines()) == 1, f"one line: {said}"
        assert caught.value.detail.strip(), "what is wrong"
        second = await self._insist(log, 1)
        await follower.count(2)
        assert follower.records == [*first, second], "a stream has not what was appended"
        assert await read_all(log, "t") == [*first, second], "a failed append was stored, or twice"

    async def _insist(self, log: EventLog, number: int) -> Record:
        """Append as soon as the log can."""
        async with asyncio.timeout(self.patience * 3):
            while True:
                try:
                    return (await log.append("t", {"n": number}, key=f"insist-{number}"))[0]
                except SourceUnavailableError:
                    await asyncio.sleep(0.01)

    async def _after(self, log: EventLog, place: _Kept) -> list[int] | None:
        """What a client gets that resumes; None if it is reset."""
        topic = Topic(log, "t")
        try:
            found: Place = await topic.locate(place.epoch, place.text)
            items: list[int] = []
            more = True
            while more:
                page = await topic.page(100, after=found)
                items += [change.item["n"] for change in page.changes]
                found, more = page.end, page.has_more
        except PositionError:
            return None
        return items

    async def _delivered_after_reset(
        self, follower: Recorder, log: EventLog, new: list[Record]
    ) -> None:
        """Exactly the new events after the last reset's bounds come, and none other before it."""
        last = (await log.append("t", {"n": "last"}))[0]
        await follower.until(lambda one: one.records[-1:] == [last], "the newest event")
        _, bounds, had = follower.resets[-1]
        wanted = [one for one in [*new, last] if one.offset > bounds.latest]
        assert follower.records[had:] == wanted, "after the reset others came than are due"
        before = numbers(follower.records[: follower.resets[0][2]])
        assert before == list(range(len(before))), f"before a reset came {before}"
        new.append(last)


class _Kept(NamedTuple):
    """A position that a client holds."""

    epoch: str
    text: str
    offset: Offset


async def _end(log: EventLog, count: int) -> _Kept:
    page = await Topic(log, "t").page(100)
    assert len(page.changes) == count, f"{len(page.changes)} of {count} events are there"
    return _Kept(page.epoch, str(page.end), (await log.bounds("t")).latest)


async def _six(log: EventLog) -> list[_Kept]:
    """Six events, and the place after each."""
    places = []
    for n in range(6):
        await log.append("t", {"n": n})
        places.append(await _end(log, n + 1))
    return places

"""A topic as a keyed source: the last event of a key is the item, and ``gone`` removes it.

The log has no index by key. The newest page reads what changed last. A filter that few items match,
and the first stream, read all of a topic: it is for thousands of events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from headwater.errors import ResetReason, SourceUnavailableError
from headwater.eventlog._interface import EventLog, Topic, TopicOrigin, TopicPlace
from headwater.eventlog._record import START, Bounds, Offset, Record, check_topic
from headwater.feeds._source import Change, Filter, Page, Place, Sink

__all__ = ["KeyedTopic"]

_log = logging.getLogger(__name__)

# Records per read, forwards and backwards, and seconds between two tries while the log is away.
_PAGE = 1000
_BACKWARDS = 200
_RETRY = 0.5


class KeyedTopicOrigin(TopicOrigin):
    """A topic whose events replace earlier ones with the same key.

    While it is attached it knows the last event of each key, so that a filter which an item does
    not match any more gets a removal.
    """

    def __init__(self, log: EventLog, topic: str, key: str) -> None:
        super().__init__(log, topic)
        self.key = key
        self._known: dict[Hashable, Record] = {}
        self._held: list[Record] | None = None
        self._filling: asyncio.Task[None] | None = None

    async def attach(self, sink: Sink, /) -> TopicPlace:
        self._held = []
        place = await super().attach(sink)
        try:
            await self._fill(place.offset)
        except BaseException:
            await self.detach()
            raise
        asyncio.get_running_loop().call_soon(self._release)
        return place

    async def detach(self) -> None:
        if self._filling is not None:
            self._filling.cancel()
        self._filling = self._held = None
        self._known.clear()
        await super().detach()

    def deliver(self, records: Sequence[Record]) -> None:
        """As Follower."""
        if self._held is not None:
            self._held += records
        elif self._sink is not None:
            changes = [one for record in records for one in self._changes(record)]
            self._sink.deliver(changes, TopicPlace.of(records[-1].offset, records[-1].mark))

    def reset(self, reason: ResetReason, bounds: Bounds) -> None:
        """As Follower."""
        self._held = []
        self._known.clear()
        super().reset(reason, bounds)
        if self._sink is not None:
            self._filling = asyncio.get_running_loop().create_task(self._fill_again(bounds.latest))

    async def _fill_again(self, last: Offset) -> None:
        while True:
            try:
                await self._fill(last)
            except SourceUnavailableError:
                await asyncio.sleep(_RETRY)
            else:
                break
        self._release()

    async def _fill(self, last: Offset) -> None:
        for record in (await self.read_all())[0]:
            if record.offset <= last:
                self._note(record)

    def _release(self) -> None:
        held, self._held = self._held, None
        if held:
            self.deliver(held)

    async def read_all(self) -> tuple[list[Record], Bounds]:
        """All records, and the bounds of the last read."""
        records: list[Record] = []
        after = START
        while True:
            run = await self.log.read(self.topic, after, _PAGE)
            records += run.records
            if len(run.records) < _PAGE:
                return records, run.bounds
            after = run.records[-1].offset

    def _note(self, record: Record) -> Record | None:
        """Remember the last event of a key. Returns the one before it."""
        key = record.data.get(self.key)
        before = self._known.pop(key, None)
        if not record.data.get("gone"):
            self._known[key] = record
        return before

    def _changes(self, record: Record) -> list[Change]:
        before = self._note(record)
        place = TopicPlace.of(record.offset, record.mark)
        key = self.key_of(record)
        gone = bool(record.data.get("gone"))
        made = []
        if before is not None:
            now = None if gone else record.data
            made.append(Change(None, values=before.data, removed=True, key=key, values_now=now))
        if not gone:
            made.append(Change(place, values=record.data, item=dict(record.data), key=key))
        elif made:
            made[-1].place = place
        return made

    def key_of(self, record: Record) -> Mapping[str, Any]:
        """The key of a record, by name."""
        return {self.key: record.data.get(self.key)}


_origins: WeakKeyDictionary[EventLog, WeakValueDictionary[tuple[str, str], KeyedTopicOrigin]] = (
    WeakKeyDictionary()
)


class KeyedTopic(Topic):
    """The items of a topic by key, for a feed that is declared with ``keyed=True``.

    Arguments:
        key: the field of an event that is its key. The last event with a key is the item; one with
            ``"gone": true`` removes it.
    """

    origin: KeyedTopicOrigin
    keyed = True

    def __init__(self, log: EventLog, name: str, *, key: str = "id") -> None:
        topics = _origins.setdefault(log, WeakValueDictionary())
        found = topics.get((check_topic(name), key))
        if found is None:
            found = topics[name, key] = KeyedTopicOrigin(log, name, key)
        self.origin = found
        self.filter = Filter()

    def where(self, **equalities: Any) -> KeyedTopic:
        """Only items with these values; those that are None are left out."""
        made = KeyedTopic(self.origin.log, self.origin.topic, key=self.origin.key)
        wanted = {name: value for name, value in equalities.items() if value is not None}
        made.filter = self.filter & Filter.of(**wanted)
        return made

    async def page(
        self, limit: int, *, after: Place | None = None, before: Place | None = None
    ) -> Page:
        if after is not None:
            return await self._after(after, limit)
        ceiling = None if before is None else self._offset(before)
        records, bounds = await self._newest(limit + 1, ceiling)
        start: Place = self._end(bounds)
        end = start
        if before is not None:
            start, end = before, TopicPlace.of(bounds.earliest, "")
        has_more = len(records) > limit
        shown = records[-limit:]
        if shown:
            start = self.place(shown[0])
            if before is not None:
                end = self.place(shown[-1])
        epoch = self.origin.epoch_in(bounds)
        return Page([self._change(one) for one in shown], start, end, has_more, epoch)

    async def _newest(self, limit: int, ceiling: Offset | None) -> tuple[list[Record], Bounds]:
        """The newest items, below an offset, oldest first; and the bounds.

        It reads backwards: the first event of a key that it meets is the last one.
        """
        log, topic = self.origin.log, self.origin.topic
        found: list[Record] = []
        met: set[Hashable] = set()
        run = await log.latest(topic, _BACKWARDS)
        bounds = run.bounds
        while True:
            for record in reversed(run.records):
                key = record.data.get(self.origin.key)
                if key in met:
                    continue
                met.add(key)
                below = ceiling is None or record.offset < ceiling
                if below and not record.data.get("gone") and self.filter.matches(record.data):
                    found.append(record)
                    if len(found) == limit:
                        return found[::-1], bounds
            if len(run.records) < _BACKWARDS:
                return found[::-1], bounds
            run = await log.latest(topic, _BACKWARDS, run.records[0].offset)

    async def _after(self, after: Place, limit: int) -> Page:
        log, topic = self.origin.log, self.origin.topic
        assert isinstance(after, TopicPlace)
        run = await log.read(topic, after.offset, _PAGE)
        self._check(after, run)
        last: dict[Hashable, Record] = {}
        while True:
            for record in run.records:
                key = record.data.get(self.origin.key)
                last.pop(key, None)
                last[key] = record
            if len(run.records) < _PAGE:
                break
            run = await log.read(topic, run.records[-1].offset, _PAGE)
        newer = list(last.values())
        taken, has_more = newer[:limit], len(newer) > limit
        end = self.place(taken[-1]) if has_more else self._end(run.bounds)
        epoch = self.origin.epoch_in(run.bounds)
        return Page([self._change(one) for one in taken], after, end, has_more, epoch)

    def _change(self, record: Record) -> Change:
        place, key = self.place(record), self.origin.key_of(record)
        if record.data.get("gone") or not self.filter.matches(record.data):
            return Change(place, values=record.data, removed=True, key=key)
        return Change(place, values=record.data, item=dict(record.data), key=key)

    @staticmethod
    def _offset(place: Place) -> Offset:
        assert isinstance(place, TopicPlace)
        return place.offset.next() if place.past else place.offset

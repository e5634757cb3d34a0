"""A topic as a keyed source: the last event of a key is the item, and ``gone`` removes it.

It is for topics of thousands of events: a page reads all of it, since the log has no index by key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from headwater.errors import PositionError, ResetReason, SourceUnavailableError
from headwater.eventlog._interface import EventLog, Topic, TopicOrigin, TopicPlace
from headwater.eventlog._record import START, Bounds, Offset, Record, check_topic
from headwater.feeds.source import Change, Filter, Page, Place, Sink

__all__ = ["KeyedTopic"]

_log = logging.getLogger(__name__)

# Records per read, and seconds between two tries while the log is away.
_PAGE = 1000
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

    Args:
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
        records, bounds = await self.origin.read_all()
        epoch = self.origin.epoch_in(bounds)
        last: dict[Hashable, Record] = {}
        for record in records:
            key = record.data.get(self.origin.key)
            last.pop(key, None)
            last[key] = record
        head = self._end(bounds)
        if after is not None:
            return self._after(after, limit, list(last.values()), head, epoch)
        shown = [
            one
            for one in last.values()
            if not one.data.get("gone") and self.filter.matches(one.data)
        ]
        start: Place = head
        end: Place = head
        if before is not None:
            ceiling = self._offset(before)
            shown = [one for one in shown if one.offset < ceiling]
            start, end = before, TopicPlace.of(bounds.earliest, "")
        has_more = len(shown) > limit
        shown = shown[-limit:]
        if shown:
            start = self.place(shown[0])
            end = self.place(shown[-1]) if before is not None else head
        return Page([self._change(one) for one in shown], start, end, has_more, epoch)

    def _after(
        self, after: Place, limit: int, last: Sequence[Record], head: TopicPlace, epoch: str
    ) -> Page:
        since = self._offset(after)
        if since > head.offset:
            raise PositionError(str(after), "unknown", "it lies in the future")
        newer = [one for one in last if one.offset > since]
        taken = newer[:limit]
        has_more = len(newer) > limit
        end = self.place(taken[-1]) if has_more else head
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

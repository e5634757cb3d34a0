"""A topic as a keyed source: the last event of a key is the item, and ``gone`` removes it.

The log has no index by key. The newest page reads the last events. The first stream reads the whole
topic, and so does a page whose filter few items match. So use it for thousands of events.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from headwater.errors import ResetReason, SourceUnavailableError, UsageError
from headwater.eventlog._interface import (
    EventLog,
    Topic,
    TopicOrigin,
    TopicPlace,
    place_of,
    shared_origin,
)
from headwater.eventlog._record import START, Bounds, Offset, Record, Run, check_topic
from headwater.feeds._source import Change, Filter, Sink

_log = logging.getLogger(__name__)

# Records per read, forwards and backwards, and seconds between two tries while the log is away.
_PAGE = 1000
_BACKWARDS = 200
_RETRY = 0.5


class KeyedTopicOrigin(TopicOrigin):
    """A topic whose events replace earlier ones with the same key.

    While it is attached it keeps the last event of each key. So a feed whose filter an item no
    longer matches gets a removal.
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
            self._sink.deliver(changes, place_of(records[-1]))

    def reset(self, reason: ResetReason, bounds: Bounds) -> None:
        """As Follower."""
        self._held = []
        self._known.clear()
        super().reset(reason, bounds)
        if self._filling is not None:
            self._filling.cancel()
        if self._sink is not None:
            self._filling = asyncio.get_running_loop().create_task(self._fill_again(bounds.latest))

    async def _fill_again(self, last: Offset) -> None:
        while True:
            try:
                await self._fill(last)
            except UsageError:  # the log was closed
                return
            except Exception as error:
                known = isinstance(error, SourceUnavailableError)
                _log.warning("%s: reading it failed: %s", self.name, error, exc_info=not known)
                await asyncio.sleep(_RETRY)
            else:
                break
        self._release()

    async def _fill(self, last: Offset) -> None:
        run = await self.log.read(self.topic, START, _PAGE)
        for record in (await self.rest_of(run))[0]:
            if record.offset <= last:
                self._note(record)

    def _release(self) -> None:
        held, self._held = self._held, None
        if held:
            self.deliver(held)

    async def rest_of(self, run: Run) -> tuple[list[Record], Bounds]:
        """The records of a read of ``_PAGE`` and all after them, with the last read's bounds."""
        records = list(run.records)
        while len(run.records) == _PAGE:
            run = await self.log.read(self.topic, records[-1].offset, _PAGE)
            records += run.records
        return records, run.bounds

    def _note(self, record: Record) -> Record | None:
        """Remember the last event of a key. Returns the one before it."""
        key = self.identity(record)
        before = self._known.pop(key, None)
        if not record.data.get("gone"):
            self._known[key] = record
        return before

    def _changes(self, record: Record) -> list[Change]:
        before = self._note(record)
        place, key = place_of(record), self.key_of(record)
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

    def identity(self, record: Record) -> Hashable:
        """The key of a record, to compare it with others."""
        key = record.data.get(self.key)
        return key if isinstance(key, Hashable) else json.dumps(key, sort_keys=True)

    def key_of(self, record: Record) -> Mapping[str, Any]:
        """The key of a record, by name."""
        return {self.key: record.data.get(self.key)}


class KeyedTopic(Topic):
    """The items of a topic by key, for a feed that is declared with ``keyed=True``.

    Arguments:
        key: the field of an event that is its key. The last event with a key is the item; one with
            ``"gone": true`` removes it.
    """

    origin: KeyedTopicOrigin
    keyed = True

    def __init__(self, log: EventLog, name: str, *, key: str = "id") -> None:
        check_topic(name)
        self.origin = shared_origin(log, (name, key), lambda: KeyedTopicOrigin(log, name, key))
        self.filter = Filter()

    def where(self, **equalities: Any) -> KeyedTopic:
        """Only items with these values; those that are None are left out."""
        made = KeyedTopic(self.origin.log, self.origin.topic, key=self.origin.key)
        wanted = {name: value for name, value in equalities.items() if value is not None}
        made.filter = self.filter & Filter.of(**wanted)
        return made

    async def _newest(self, limit: int, below: Offset | None) -> tuple[list[Record], Bounds]:
        # Backwards: the first event of a key that it meets is the last one.
        log, topic = self.origin.log, self.origin.topic
        found: list[Record] = []
        met: set[Hashable] = set()
        run = await log.latest(topic, _BACKWARDS)
        bounds = run.bounds
        while True:
            for record in reversed(run.records):
                key = self.origin.identity(record)
                if key in met:
                    continue
                met.add(key)
                if below is not None and record.offset >= below:
                    continue
                if not record.data.get("gone") and self.filter.matches(record.data):
                    found.append(record)
                    if len(found) == limit:
                        return found[::-1], bounds
            if len(run.records) < _BACKWARDS:
                return found[::-1], bounds
            run = await log.latest(topic, _BACKWARDS, run.records[0].offset)

    async def _newer(self, since: TopicPlace, limit: int) -> tuple[list[Record], Bounds]:
        run = await self.origin.log.read(self.origin.topic, since.offset, _PAGE)
        self._check(since, run)
        records, bounds = await self.origin.rest_of(run)
        last: dict[Hashable, Record] = {}
        for record in records:
            key = self.origin.identity(record)
            last.pop(key, None)
            last[key] = record
        return list(last.values()), bounds

    def _change(self, record: Record) -> Change:
        place, key = place_of(record), self.origin.key_of(record)
        if record.data.get("gone") or not self.filter.matches(record.data):
            return Change(place, values=record.data, removed=True, key=key)
        return Change(place, values=record.data, item=dict(record.data), key=key)

"""The reference engine: it keeps all records in this process's memory, and does no I/O."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from headwater.errors import SourceUnavailableError
from headwater.eventlog._checked import CheckedLog
from headwater.eventlog._following import notify
from headwater.eventlog._interface import EventLog, Follower
from headwater.eventlog._record import (
    START,
    WHOLE,
    Bounds,
    Capabilities,
    Event,
    Offset,
    Record,
    Retention,
    Run,
    mark_of,
    ticks,
)


@dataclass(slots=True)
class _Kept:
    """One topic. Offsets have no gaps: that of ``records[i]`` is ``trimmed + 1 + i``."""

    trimmed: int = 0
    records: list[Record] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    bytes: int = 0
    # The first and the last number of the batch that each known key brought.
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def latest(self) -> int:
        return self.trimmed + len(self.records)

    def index_after(self, number: int) -> int:
        """The index of the first kept record above ``number``."""
        return min(max(number - self.trimmed, 0), len(self.records))

    def excess(self, keep: Retention, now: datetime) -> int:
        """How many of the oldest records are beyond a limit."""
        drop = 0
        if keep.max_count is not None:
            drop = max(drop, len(self.records) - keep.max_count)
        if keep.before is not None:
            drop = max(drop, self.index_after(keep.before[0] - 1))
        if keep.max_bytes is not None:
            held, beyond = self.bytes, 0
            while held > keep.max_bytes:
                held -= self.sizes[beyond]
                beyond += 1
            drop = max(drop, beyond)
        if keep.max_age is not None:
            oldest = keep.oldest(now)
            while drop < len(self.records) and self.records[drop].at < oldest:
                drop += 1
        return drop

    def drop(self, count: int) -> None:
        """Remove the ``count`` oldest records."""
        for record in self.records[:count]:
            if record.key is not None and self.keys[record.key][1] == record.offset[0]:
                del self.keys[record.key]
        self.bytes -= sum(self.sizes[:count])
        del self.records[:count], self.sizes[:count]
        self.trimmed += count


class MemoryLog(CheckedLog):
    """An event log in memory, for tests and for events that may be lost when the process ends.

    Arguments:
        max_count: the most records of a topic; the oldest are removed. None: no limit.
        max_age: the same, by age.
        max_bytes: the same, by the bytes of the events' JSON.
        max_topics: the most topics, until they are forgotten. Each takes about 1 KB. At the limit
            an append to a new topic raises SourceUnavailableError.
        max_event_bytes: the most bytes of one event's JSON.
        clock: the present moment, UTC.
    """

    name = "memory log"
    capabilities = Capabilities(
        durable=False, multi_process=False, transactional=False, trim_by_size=True
    )

    def __init__(
        self,
        *,
        max_count: int | None = 10_000,
        max_age: timedelta | None = None,
        max_bytes: int | None = None,
        max_topics: int = 100_000,
        max_event_bytes: int = EventLog.max_event_bytes,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.max_event_bytes = max_event_bytes
        self._keep = Retention(max_age, max_count, max_bytes)
        self._max_topics = max_topics
        self._clock = clock
        self._epoch = secrets.token_hex(16)
        self._topics: dict[str, _Kept] = {}
        self._followers: dict[str, list[Follower]] = {}

    async def _start(self) -> None:
        """Nothing is to be opened."""

    async def _append(
        self, topic: str, events: Sequence[Event], key: str | None, connection: Any
    ) -> list[Record]:
        kept = self._topics.get(topic)
        if kept is None:
            if len(self._topics) >= self._max_topics:
                raise SourceUnavailableError(self.name, f"it is full: {self._max_topics} topics")
            kept = self._topics[topic] = _Kept()
        if key is not None and key in kept.keys:
            first, last = kept.keys[key]
            return kept.records[kept.index_after(first - 1) : kept.index_after(last)]
        now, number = self._clock(), kept.latest
        records = []
        for place, event in enumerate(events, number + 1):
            mark = mark_of(ticks(now), event.size)
            records.append(Record(topic, Offset.of(place), now, event.data, key, mark))
        if key is not None:
            kept.keys[key] = (number + 1, number + len(records))
        sizes = [event.size for event in events]
        kept.records += records
        kept.sizes += sizes
        kept.bytes += sum(sizes)
        if not topic.startswith(WHOLE):
            kept.drop(kept.excess(self._keep, now))
        for follower in tuple(self._followers.get(topic, ())):
            notify(topic, follower.deliver, records)
        return list(records)

    async def _read(self, topic: str, after: Offset, limit: int) -> tuple[Run, None]:
        kept = self._kept(topic)
        first = kept.index_after(after[0])
        stands = kept.records[first - 1 : first]
        place = stands[0].mark if stands and stands[0].offset == after else None
        return Run(kept.records[first : first + limit], self._bounds_of(kept), place), None

    async def _latest(self, topic: str, limit: int, before: Offset | None) -> tuple[Run, None]:
        kept = self._kept(topic)
        end = kept.index_after(kept.latest if before is None else before[0] - 1)
        return Run(kept.records[max(end - limit, 0) : end], self._bounds_of(kept)), None

    async def _bounds(self, topic: str) -> Bounds:
        return self._bounds_of(self._kept(topic))

    async def _follow(self, topic: str, follower: Follower) -> Bounds:
        kept = self._kept(topic)
        self._followers.setdefault(topic, []).append(follower)
        return self._bounds_of(kept)

    async def unfollow(self, topic: str, follower: Follower) -> None:
        left = [one for one in self._followers.pop(topic, ()) if one is not follower]
        if left:
            self._followers[topic] = left

    async def _trim(self, topic: str | None, keep: Retention) -> int:
        now, removed = self._clock(), 0
        all_of_them = [name for name in self._topics if not name.startswith(WHOLE)]
        for name in all_of_them if topic is None else [topic]:
            kept = self._kept(name)
            excess = kept.excess(keep, now)
            kept.drop(excess)
            removed += excess
        return removed

    async def _forget(self, topics: Sequence[str]) -> None:
        for topic in topics:
            self._topics.pop(topic, None)
            self._reset(topic)

    async def clear(self) -> None:
        """Forget everything and begin a new epoch, like an engine whose storage was wiped."""
        self._epoch = secrets.token_hex(16)
        self._topics.clear()
        for topic in tuple(self._followers):
            self._reset(topic)

    async def _close(self) -> None:
        self._followers.clear()
        self._topics.clear()

    def _reset(self, topic: str) -> None:
        empty = self._bounds_of(_Kept())
        for follower in tuple(self._followers.get(topic, ())):
            notify(topic, follower.reset, "unknown", empty)

    def _kept(self, topic: str) -> _Kept:
        return self._topics.get(topic) or _Kept()

    def _bounds_of(self, kept: _Kept) -> Bounds:
        earliest = Offset.of(kept.trimmed) if kept.trimmed else START
        mark = kept.records[-1].mark if kept.records else ""
        return Bounds(self._epoch, earliest, Offset.of(kept.latest), mark)

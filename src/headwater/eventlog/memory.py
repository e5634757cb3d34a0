"""The reference engine: everything in this process's memory, no I/O, gone when it ends."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from headwater.errors import SourceUnavailableError, UsageError
from headwater.eventlog.interface import EventLog, Follower
from headwater.eventlog.record import (
    START,
    Bounds,
    Capabilities,
    Offset,
    Record,
    Retention,
    Run,
    check_key,
    check_topic,
    encode_all,
)

__all__ = ["MemoryLog"]

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kept:
    """One topic. ``records[i]`` has the offset ``trimmed + 1 + i``: numbers have no gaps."""

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
        if keep.max_bytes is not None:
            held, beyond = self.bytes, 0
            while held > keep.max_bytes:
                held -= self.sizes[beyond]
                beyond += 1
            drop = max(drop, beyond)
        if keep.max_age is not None:
            oldest = now - keep.max_age
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


class MemoryLog(EventLog):
    """An event log in memory: for tests, and for one process that may forget.

    Args:
        max_count: records kept per topic; the oldest make room. None: no limit.
        max_age: likewise, by age.
        max_bytes: likewise, by the bytes of the events' JSON.
        max_topics: topics ever appended to, each of which takes about 1 KB for good: beyond it
            an append to a new one raises SourceUnavailableError.
        max_event_bytes: of one event's JSON.
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

    async def append(
        self,
        topic: str,
        data: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        *,
        key: str | None = None,
        connection: Any = None,
    ) -> list[Record]:
        check_topic(topic)
        check_key(key)
        if connection is not None:
            raise UsageError("the memory log cannot join a transaction: leave connection out")
        events = encode_all(data, self.max_event_bytes, self.capabilities.max_batch)
        if not events:
            return []
        kept = self._topics.get(topic)
        if kept is None:
            if len(self._topics) >= self._max_topics:
                raise SourceUnavailableError(self.name, f"it is full: {self._max_topics} topics")
            kept = self._topics[topic] = _Kept()
        if key is not None and key in kept.keys:
            first, last = kept.keys[key]
            return kept.records[kept.index_after(first - 1) : kept.index_after(last)]
        now, number = self._clock(), kept.latest
        records = [
            Record(topic, Offset.of(number + place), now, event.data, key)
            for place, event in enumerate(events, 1)
        ]
        if key is not None:
            kept.keys[key] = (number + 1, number + len(records))
        sizes = [event.size for event in events]
        kept.records += records
        kept.sizes += sizes
        kept.bytes += sum(sizes)
        kept.drop(kept.excess(self._keep, now))
        self._tell(topic, lambda follower: follower.deliver(records))
        return list(records)

    async def read(self, topic: str, after: Offset, limit: int) -> Run:
        kept = self._kept(topic)
        first = kept.index_after(after[0])
        return Run(kept.records[first : first + limit], self._bounds(kept))

    async def latest(self, topic: str, limit: int, before: Offset | None = None) -> Run:
        kept = self._kept(topic)
        end = kept.index_after(kept.latest if before is None else before[0] - 1)
        return Run(kept.records[max(end - limit, 0) : end], self._bounds(kept))

    async def bounds(self, topic: str) -> Bounds:
        return self._bounds(self._kept(topic))

    async def follow(self, topic: str, follower: Follower) -> Bounds:
        kept = self._kept(topic)
        self._followers.setdefault(topic, []).append(follower)
        return self._bounds(kept)

    async def unfollow(self, topic: str, follower: Follower) -> None:
        left = [one for one in self._followers.pop(topic, ()) if one is not follower]
        if left:
            self._followers[topic] = left

    async def trim(
        self,
        topic: str | None = None,
        *,
        max_age: timedelta | None = None,
        max_count: int | None = None,
        max_bytes: int | None = None,
    ) -> int:
        keep, now, removed = Retention(max_age, max_count, max_bytes), self._clock(), 0
        for kept in [self._kept(topic)] if topic is not None else self._topics.values():
            excess = kept.excess(keep, now)
            kept.drop(excess)
            removed += excess
        return removed

    async def clear(self) -> None:
        """Forget everything and begin a new epoch, as an engine does that was wiped."""
        self._epoch = secrets.token_hex(16)
        self._topics.clear()
        empty = self._bounds(_Kept())
        for topic in list(self._followers):
            self._tell(topic, lambda follower: follower.reset("unknown", empty))

    async def close(self) -> None:
        self._followers.clear()

    def _kept(self, topic: str) -> _Kept:
        return self._topics.get(check_topic(topic)) or _Kept()

    def _bounds(self, kept: _Kept) -> Bounds:
        earliest = Offset.of(kept.trimmed) if kept.trimmed else START
        return Bounds(self._epoch, earliest, Offset.of(kept.latest))

    def _tell(self, topic: str, say: Callable[[Follower], None]) -> None:
        for follower in tuple(self._followers.get(topic, ())):
            try:
                say(follower)
            except Exception:
                _log.exception("a follower of topic %s failed", topic)

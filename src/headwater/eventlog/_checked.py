"""The checks of input for all engines of this package, so that each refuses the same."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from headwater.errors import UsageError
from headwater.eventlog._interface import EventLog, Follower
from headwater.eventlog._record import (
    Bounds,
    Event,
    Offset,
    Record,
    Retention,
    Run,
    check_key,
    check_limit,
    check_offset,
    check_topic,
    encode_all,
)


class CheckedLog(EventLog):
    """An event log that checks its input and then calls the engine's own methods.

    Attributes:
        closed: further use raises UsageError.
        max_append_bytes: the most bytes of JSON that one append takes; None: no such limit.
    """

    closed = False
    max_append_bytes: int | None = None

    async def start(self) -> None:
        self._check_open()
        await self._start()

    async def append(
        self,
        topic: str,
        data: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        *,
        key: str | None = None,
        connection: Any = None,
    ) -> list[Record]:
        self._check_topic(topic)
        check_key(key)
        self._check_connection(connection)
        events = encode_all(data, self.max_event_bytes, self.capabilities.max_batch)
        if not events:
            return []
        if self.max_append_bytes is not None:
            size = sum(event.size for event in events)
            if size > self.max_append_bytes:
                raise UsageError(
                    f"one append takes at most {self.max_append_bytes} bytes, not {size}"
                )
        return await self._append(topic, events, key, connection)

    async def read(self, topic: str, after: Offset, limit: int) -> Run:
        limit = check_limit(limit)
        run, last = await self._read(self._check_topic(topic), check_offset(after), limit)
        while last is not None and len(run.records) < limit:
            more, last = await self._read(topic, last, limit - len(run.records))
            run = Run([*run.records, *more.records], more.bounds, run.place)
        return run

    async def latest(self, topic: str, limit: int, before: Offset | None = None) -> Run:
        limit = check_limit(limit)
        if before is not None:
            check_offset(before)
        run, first = await self._latest(self._check_topic(topic), limit, before)
        while first is not None and len(run.records) < limit:
            more, first = await self._latest(topic, limit - len(run.records), first)
            run = Run([*more.records, *run.records], run.bounds)
        return run

    async def bounds(self, topic: str) -> Bounds:
        return await self._bounds(self._check_topic(topic))

    async def follow(self, topic: str, follower: Follower) -> Bounds:
        self._check_topic(topic)
        if not isinstance(follower, Follower):
            raise UsageError(
                f"follower {follower!a:.80}: give an object with the methods deliver(records) and "
                "reset(reason, bounds)"
            )
        return await self._follow(topic, follower)

    async def trim(
        self,
        topic: str | None = None,
        *,
        max_age: timedelta | None = None,
        max_count: int | None = None,
        max_bytes: int | None = None,
        before: Offset | None = None,
    ) -> int:
        self._check_open()
        keep = Retention(max_age, max_count, max_bytes, before)
        if topic is not None:
            check_topic(topic)
        elif before is not None:
            raise UsageError(f"before={before}: an offset belongs to one topic: give it too")
        return 0 if keep == Retention() else await self._trim(topic, keep)

    async def forget(self, *topics: str) -> None:
        self._check_open()
        names = dict.fromkeys(check_topic(topic) for topic in topics)
        if names:
            await self._forget(list(names))

    async def close(self) -> None:
        self.closed = True
        await self._close()

    def _check_open(self) -> None:
        if self.closed:
            raise UsageError(f"{self.name} is closed")

    def _check_connection(self, connection: Any) -> None:
        if connection is not None:
            raise UsageError(f"{self.name} cannot join a transaction: leave out connection=")

    def _check_topic(self, topic: str) -> str:
        self._check_open()
        return check_topic(topic)

    @abstractmethod
    async def _start(self) -> None: ...

    @abstractmethod
    async def _append(
        self, topic: str, events: Sequence[Event], key: str | None, connection: Any
    ) -> list[Record]: ...

    @abstractmethod
    async def _read(self, topic: str, after: Offset, limit: int) -> tuple[Run, Offset | None]:
        """One read of at most ``limit`` entries, without those that other programs wrote.

        Also returns the last entry's offset if there may be more after it.
        """

    @abstractmethod
    async def _latest(
        self, topic: str, limit: int, before: Offset | None
    ) -> tuple[Run, Offset | None]:
        """The same backwards; also returns the first entry's offset if there may be more."""

    @abstractmethod
    async def _bounds(self, topic: str) -> Bounds: ...

    @abstractmethod
    async def _follow(self, topic: str, follower: Follower) -> Bounds: ...

    @abstractmethod
    async def _trim(self, topic: str | None, keep: Retention) -> int: ...

    @abstractmethod
    async def _forget(self, topics: Sequence[str]) -> None: ...

    @abstractmethod
    async def _close(self) -> None: ...

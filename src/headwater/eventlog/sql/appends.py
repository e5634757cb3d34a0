"""Appends: numbers under the topics' locks, known keys, and the events, in one transaction."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.eventlog.batcher import Asked, Batcher
from headwater.eventlog.record import Event, Offset, Record
from headwater.eventlog.sql.dialect import Dialect
from headwater.eventlog.sql.storage import Storage
from headwater.eventlog.sql.tables import moment, record_of, ticks

__all__ = ["MAX_EVENTS", "Append", "AskedAppend", "Reserve", "SqlWriter", "append_all", "weigh"]

# Of one transaction, so that a crowd of appenders does not hold the file's lock for seconds.
MAX_EVENTS = 10_000

Reserve = Callable[[AsyncConnection, Mapping[str, int]], Awaitable[Mapping[str, sa.Row[Any]]]]


@dataclass(frozen=True, slots=True)
class Append:
    """One append that passed the checks. It has at least one event."""

    topic: str
    events: Sequence[Event]
    key: str | None


AskedAppend = Asked[Append, list[Record]]


def weigh(append: Append) -> tuple[int]:
    """The events of an append, for ``MAX_EVENTS``."""
    return (len(append.events),)


async def append_all(
    connection: AsyncConnection,
    appends: Sequence[Append],
    at: datetime,
    dialect: Dialect,
    reserve: Reserve | None = None,
) -> list[list[Record] | None]:
    """Do appends in their order, and return the records of each. The caller commits.

    ``reserve`` is used instead of the dialect's own. What it leaves out is not appended: the
    appends to those topics give None.
    """
    reserve = reserve or dialect.reserve
    known: dict[tuple[str, str], list[Record]] = defaultdict(list)
    held: set[str] = set()
    keys = sorted({(one.topic, one.key) for one in appends if one.key is not None})
    if keys:
        locked = await reserve(connection, dict.fromkeys((topic for topic, _ in keys), 0))
        held = {topic for topic, _ in keys} - locked.keys()
        for row in await dialect.find_keys(connection, keys):
            known[row.name, row.key].append(record_of(row.name, row))
    seen = set(known)
    fresh: list[bool] = []
    counts: Counter[str] = Counter()
    for one in appends:
        fresh.append(one.key is None or (one.topic, one.key) not in seen)
        if fresh[-1] and one.topic not in held:
            counts[one.topic] += len(one.events)
            if one.key is not None:
                seen.add((one.topic, one.key))
    topics = await reserve(connection, counts) if counts else {}
    held |= counts.keys() - topics.keys()
    used = {topic: row.latest - counts[topic] for topic, row in topics.items()}
    at_ticks = ticks(at)
    rows: list[dict[str, Any]] = []
    results: list[list[Record] | None] = []
    for one, is_new in zip(appends, fresh, strict=True):
        if one.topic in held:
            results.append(None)
        elif is_new:
            number = used[one.topic]
            used[one.topic] += len(one.events)
            records = [
                Record(one.topic, Offset.of(number + place), moment(at_ticks), event.data, one.key)
                for place, event in enumerate(one.events, 1)
            ]
            rows += [
                {
                    "topic_id": topics[one.topic].id,
                    "number": number + part + 1,
                    "at": at_ticks,
                    "size": event.size,
                    "key": one.key,
                    "part": part,
                    "data": event.text,
                }
                for part, event in enumerate(one.events)
            ]
            if one.key is not None:
                known[one.topic, one.key] = records
            results.append(records)
        elif one.key is not None:
            results.append(list(known[one.topic, one.key]))
    if rows:
        await dialect.insert(connection, rows)
    return results


class SqlWriter:
    """Appends of this process, one transaction at a time.

    What is asked for while a transaction runs is committed together by the next one: each commit
    waits for the disk, and SQLite has one writer at a time.
    """

    def __init__(self, storage: Storage, clock: Callable[[], datetime]) -> None:
        self._storage = storage
        self._clock = clock
        self._batcher: Batcher[Append, list[Record]] = Batcher(
            storage.name, self._commit, weigh, (MAX_EVENTS,)
        )

    async def append(self, append: Append) -> list[Record]:
        """Returns once it is committed. A caller that is cancelled may still have appended."""
        return await self._batcher.ask(append)

    async def close(self) -> None:
        """Wait for what was asked for."""
        await self._batcher.close()

    async def _commit(self, group: Sequence[AskedAppend]) -> None:
        self._answer(group, await self._write(group))

    async def _write(
        self, group: Sequence[AskedAppend], reserve: Reserve | None = None
    ) -> list[list[Record] | None]:
        appends = [one.job for one in group]
        dialect = self._storage.dialect
        return await self._storage.write(
            lambda connection: append_all(connection, appends, self._clock(), dialect, reserve)
        )

    def _answer(
        self, group: Sequence[AskedAppend], results: Sequence[list[Record] | None]
    ) -> list[AskedAppend]:
        """Answer what was appended; returns what was not, because its topic is held."""
        held = []
        for one, records in zip(group, results, strict=True):
            if records is None:
                held.append(one)
            else:
                one.answer(records)
        return held

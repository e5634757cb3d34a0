"""Appends: numbers under the topics' locks, known keys, and the events, in one transaction."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.errors import SourceUnavailableError
from headwater.eventlog.record import Event, Offset, Record
from headwater.eventlog.sql.dialect import Dialect
from headwater.eventlog.sql.storage import Storage
from headwater.eventlog.sql.tables import moment, record_of, ticks

__all__ = ["MAX_EVENTS", "Asked", "Job", "Take", "Writer", "append_jobs", "refuse"]

# Of one transaction, so that a crowd of appenders does not hold the file's lock for seconds.
MAX_EVENTS = 10_000

Asked = tuple["Job", "asyncio.Future[list[Record]]"]
Take = Callable[[AsyncConnection, Mapping[str, int]], Awaitable[Mapping[str, sa.Row[Any]]]]


@dataclass(frozen=True, slots=True)
class Job:
    """One append that passed the checks. It has at least one event."""

    topic: str
    events: Sequence[Event]
    key: str | None


async def append_jobs(
    connection: AsyncConnection,
    jobs: Sequence[Job],
    at: datetime,
    dialect: Dialect,
    take: Take | None = None,
) -> list[list[Record] | None]:
    """Append jobs in their order; the records of each. The caller commits.

    ``take`` stands in for the dialect's own. Jobs of topics that it leaves out are not appended:
    None.
    """
    take = take or dialect.take
    known: dict[tuple[str, str], list[Record]] = defaultdict(list)
    barred: set[str] = set()
    keys = sorted({(job.topic, job.key) for job in jobs if job.key is not None})
    if keys:
        locked = await take(connection, dict.fromkeys((topic for topic, _ in keys), 0))
        barred = {topic for topic, _ in keys} - locked.keys()
        for row in await dialect.known(connection, keys):
            known[row.name, row.key].append(record_of(row.name, row))
    seen = set(known)
    fresh: list[bool] = []
    counts: Counter[str] = Counter()
    for job in jobs:
        fresh.append(job.key is None or (job.topic, job.key) not in seen)
        if fresh[-1] and job.topic not in barred:
            counts[job.topic] += len(job.events)
            if job.key is not None:
                seen.add((job.topic, job.key))
    topics = await take(connection, counts) if counts else {}
    barred |= counts.keys() - topics.keys()
    used = {topic: row.latest - counts[topic] for topic, row in topics.items()}
    at_ticks = ticks(at)
    rows: list[dict[str, Any]] = []
    results: list[list[Record] | None] = []
    for job, is_new in zip(jobs, fresh, strict=True):
        if job.topic in barred:
            results.append(None)
        elif is_new:
            number = used[job.topic]
            used[job.topic] += len(job.events)
            records = [
                Record(job.topic, Offset.of(number + place), moment(at_ticks), event.data, job.key)
                for place, event in enumerate(job.events, 1)
            ]
            rows += [
                {
                    "topic_id": topics[job.topic].id,
                    "number": number + part + 1,
                    "at": at_ticks,
                    "size": event.size,
                    "key": job.key,
                    "part": part,
                    "data": event.text,
                }
                for part, event in enumerate(job.events)
            ]
            if job.key is not None:
                known[job.topic, job.key] = records
            results.append(records)
        elif job.key is not None:
            results.append(list(known[job.topic, job.key]))
    if rows:
        await dialect.put(connection, rows)
    return results


class Writer:
    """Appends of this process, one transaction at a time.

    What is asked for while a transaction runs is committed together by the next one: each commit
    waits for the disk, and SQLite has one writer at a time.
    """

    def __init__(self, storage: Storage, clock: Callable[[], datetime]) -> None:
        self._storage = storage
        self._clock = clock
        self._waiting: deque[Asked] = deque()
        self._task: asyncio.Task[None] | None = None

    async def append(self, job: Job) -> list[Record]:
        """Returns once the job is committed. A caller that is cancelled may still have appended."""
        done: asyncio.Future[list[Record]] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, done))
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"{self._storage.name}: appends")
        return await done

    async def close(self) -> None:
        """Wait for what was asked for."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        group: list[Asked] = []
        try:
            while group := self._next_group():
                await self._commit(group)
        finally:
            self._task = None
            for _, done in (*group, *self._waiting):
                done.cancel()  # nothing but the end of the loop leaves any
            self._waiting.clear()

    async def _commit(self, group: list[Asked]) -> None:
        try:
            results = await self._attempt([job for job, _ in group])
        except Exception as error:
            refuse(group, error)
        else:
            self._settle(group, results)

    async def _attempt(self, jobs: Sequence[Job]) -> list[list[Record] | None]:
        return await self._storage.write(
            lambda connection: append_jobs(connection, jobs, self._clock(), self._storage.dialect)
        )

    def _settle(self, group: Sequence[Asked], results: Sequence[list[Record] | None]) -> None:
        for (_, done), records in zip(group, results, strict=True):
            if records is not None and not done.done():
                done.set_result(records)

    def _next_group(self) -> list[Asked]:
        group: list[Asked] = []
        events = 0
        while self._waiting:
            job, done = self._waiting[0]
            if group and events + len(job.events) > MAX_EVENTS:
                break
            self._waiting.popleft()
            if not done.cancelled():
                group.append((job, done))
                events += len(job.events)
        return group


def refuse(group: Sequence[Asked], error: Exception) -> None:
    """Tell each caller of the group."""
    for _, done in group:
        if not done.done():
            done.set_exception(_own_copy(error))


def _own_copy(error: Exception) -> Exception:
    """One for each caller: an exception collects the traceback of whoever raises it."""
    if isinstance(error, SourceUnavailableError):
        copy = SourceUnavailableError(error.source, error.detail)
        copy.__cause__ = error.__cause__
        return copy
    return error

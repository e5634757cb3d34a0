"""Appends: numbers under the topics' locks, known keys, and the events, in one transaction."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.errors import SourceUnavailableError
from headwater.eventlog.record import Event, Offset, Record
from headwater.eventlog.sql_storage import Storage
from headwater.eventlog.sql_tables import moment, record_of, ticks

__all__ = ["Job", "Writer", "append_jobs"]

# Of one transaction, so that a crowd of appenders does not hold the file's lock for seconds.
MAX_EVENTS = 10_000

# A write comes first in every append: from it on the transaction holds the lock, so that what it
# reads afterwards nobody can change. Names are sorted: two transactions that lock several topics
# do it in one order.
_TAKE = sa.text(
    "INSERT INTO headwater_topics (name, latest, trimmed)"
    " SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), 0"
    " FROM json_each(:topics) WHERE true"
    " ON CONFLICT (name) DO UPDATE SET latest = latest + excluded.latest"
    " RETURNING id, name, latest"
)
_KNOWN = sa.text(
    "SELECT t.name, e.number, e.at, e.key, e.data FROM json_each(:keys) AS k"
    " CROSS JOIN headwater_topics AS t ON t.name = json_extract(k.value, '$[0]')"
    " CROSS JOIN headwater_events AS e"
    " ON e.topic_id = t.id AND e.key = json_extract(k.value, '$[1]')"
    " ORDER BY e.number"
)
_PUT = sa.text(
    "INSERT INTO headwater_events (topic_id, number, at, size, key, part, data)"
    " VALUES (:topic_id, :number, :at, :size, :key, :part, :data)"
)


@dataclass(frozen=True, slots=True)
class Job:
    """One append that passed the checks. It has at least one event."""

    topic: str
    events: Sequence[Event]
    key: str | None


async def append_jobs(
    connection: AsyncConnection, jobs: Sequence[Job], at: datetime
) -> list[list[Record]]:
    """Append jobs in their order; the records of each. The caller commits."""
    known: dict[tuple[str, str], list[Record]] = defaultdict(list)
    keys = sorted({(job.topic, job.key) for job in jobs if job.key is not None})
    if keys:
        await _take(connection, dict.fromkeys((topic for topic, _ in keys), 0))
        found = await connection.execute(_KNOWN, {"keys": json.dumps(keys)})
        for row in found.all():
            known[row.name, row.key].append(record_of(row.name, row))
    seen = set(known)
    fresh: list[bool] = []
    counts: Counter[str] = Counter()
    for job in jobs:
        fresh.append(job.key is None or (job.topic, job.key) not in seen)
        if fresh[-1]:
            counts[job.topic] += len(job.events)
            if job.key is not None:
                seen.add((job.topic, job.key))
    topics = await _take(connection, counts) if counts else {}
    used = {topic: topics[topic].latest - count for topic, count in counts.items()}
    at_ticks = ticks(at)
    rows: list[dict[str, Any]] = []
    results: list[list[Record]] = []
    for job, is_new in zip(jobs, fresh, strict=True):
        if is_new:
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
        await connection.execute(_PUT, rows)
    return results


async def _take(connection: AsyncConnection, counts: Mapping[str, int]) -> dict[str, sa.Row[Any]]:
    """Lock the topics, create those that are new, and take as many numbers of each."""
    topics = json.dumps(sorted(counts.items()))
    taken = await connection.execute(_TAKE, {"topics": topics})
    return {row.name: row for row in taken.all()}


class Writer:
    """Appends of this process, one transaction at a time.

    What is asked for while a transaction runs is committed together by the next one: SQLite has
    one writer at a time, and each commit waits for the disk.
    """

    def __init__(self, storage: Storage, clock: Callable[[], datetime]) -> None:
        self._storage = storage
        self._clock = clock
        self._waiting: deque[tuple[Job, asyncio.Future[list[Record]]]] = deque()
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
        group: list[tuple[Job, asyncio.Future[list[Record]]]] = []
        try:
            while group := self._next_group():
                await self._commit(group)
        finally:
            self._task = None
            for _, done in (*group, *self._waiting):
                done.cancel()  # nothing but the end of the loop leaves any
            self._waiting.clear()

    async def _commit(self, group: list[tuple[Job, asyncio.Future[list[Record]]]]) -> None:
        jobs = [job for job, _ in group]
        try:
            results = await self._storage.write(
                lambda connection: append_jobs(connection, jobs, self._clock())
            )
        except Exception as error:
            for _, done in group:
                if not done.done():
                    done.set_exception(_own_copy(error))
            return
        for (_, done), records in zip(group, results, strict=True):
            if not done.done():
                done.set_result(records)

    def _next_group(self) -> list[tuple[Job, asyncio.Future[list[Record]]]]:
        group: list[tuple[Job, asyncio.Future[list[Record]]]] = []
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


def _own_copy(error: Exception) -> Exception:
    """One for each caller: an exception collects the traceback of whoever raises it."""
    if isinstance(error, SourceUnavailableError):
        copy = SourceUnavailableError(error.source, error.detail)
        copy.__cause__ = error.__cause__
        return copy
    return error

"""Appends on PostgreSQL: many topics in one transaction, and none of them held up by another.

A transaction of somebody else may hold a topic for as long as it likes. So the appends that are
committed together take only topics that are free; those of a topic that is not wait for it by
themselves.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.errors import SourceUnavailableError
from headwater.eventlog.record import Record
from headwater.eventlog.sql.postgresql.statements import NEW, TAKE_FREE
from headwater.eventlog.sql.storage import Storage
from headwater.eventlog.sql.writer import MAX_EVENTS, Asked, Job, Take, Writer, append_jobs, refuse

__all__ = ["PATIENCE", "PostgresWriter"]

# Seconds that an append waits for its topic.
PATIENCE = 10.0
# Topics that are waited for at the same time, each with a connection; they take turns.
LANES = 3
_TURN = sa.text("SET LOCAL lock_timeout = '300ms'")
# For a topic that another transaction is just creating.
_SHORT = sa.text("SET LOCAL lock_timeout = '30ms'")
_USUAL = sa.text("SET LOCAL lock_timeout TO DEFAULT")


class _HeldError(Exception):
    """Another transaction still holds the topic."""


@dataclass(slots=True)
class _Queue:
    """Appends to a topic that another transaction holds, with the time by which each must have it.

    ``turns`` counts how often it was waited for in vain; ``served``: it is waited for just now.
    """

    waiting: deque[tuple[float, Asked]] = field(default_factory=deque)
    turns: int = 0
    served: bool = False

    def next(self) -> list[tuple[float, Asked]]:
        """Take out what the next transaction appends."""
        group: list[tuple[float, Asked]] = []
        events = 0
        while self.waiting:
            _, (job, done) = self.waiting[0]
            if group and events + len(job.events) > MAX_EVENTS:
                break
            one = self.waiting.popleft()
            if not done.done():
                group.append(one)
                events += len(job.events)
        return group


class PostgresWriter(Writer):
    """Appends of this process."""

    def __init__(self, storage: Storage, clock: Callable[[], datetime]) -> None:
        super().__init__(storage, clock)
        self._held: dict[str, _Queue] = {}
        self._lanes: set[asyncio.Task[None]] = set()

    async def append(self, job: Job) -> list[Record]:
        if job.topic not in self._held:
            return await super().append(job)
        done: asyncio.Future[list[Record]] = asyncio.get_running_loop().create_future()
        self._hold([(job, done)])
        return await done

    async def close(self) -> None:
        """Wait for what was asked for; at most ``PATIENCE`` for what another one holds."""
        await super().close()
        while self._lanes:
            await asyncio.wait(self._lanes)

    async def _attempt(self, jobs: Sequence[Job]) -> list[list[Record] | None]:
        return await self._write(jobs, self._take_free)

    async def _write(self, jobs: Sequence[Job], take: Take) -> list[list[Record] | None]:
        dialect = self._storage.dialect
        return await self._storage.write(
            lambda connection: append_jobs(connection, jobs, self._clock(), dialect, take)
        )

    def _settle(self, group: Sequence[Asked], results: Sequence[list[Record] | None]) -> None:
        super()._settle(group, results)
        held = [asked for asked, records in zip(group, results, strict=True) if records is None]
        if held:
            # What was asked for later must not be appended before them.
            topics = {job.topic for job, _ in held}
            held += [asked for asked in self._waiting if asked[0].topic in topics]
            free = [asked for asked in self._waiting if asked[0].topic not in topics]
            self._waiting.clear()
            self._waiting.extend(free)
            self._hold(held)

    def _hold(self, asked: Iterable[Asked]) -> None:
        by = asyncio.get_running_loop().time() + PATIENCE
        for one in asked:
            self._held.setdefault(one[0].topic, _Queue()).waiting.append((by, one))
        while len(self._lanes) < min(LANES, len(self._held)):
            lane = asyncio.create_task(self._serve(), name=f"{self._storage.name}: held topics")
            self._lanes.add(lane)

    async def _serve(self) -> None:
        """Wait for one held topic after the other, those first that were waited for least."""
        group: list[tuple[float, Asked]] = []
        try:
            while free := [item for item in self._held.items() if not item[1].served]:
                topic, queue = min(free, key=lambda item: item[1].turns)
                queue.served = True
                group = queue.next()
                if group:
                    await self._wait_for(topic, queue, group)
                queue.served = False
                if not queue.waiting:
                    del self._held[topic]
        except asyncio.CancelledError:
            for _, (_, done) in group:
                done.cancel()  # the end of the loop
            raise
        finally:
            # At once: a topic that is held from now on needs another lane.
            self._lanes -= {asyncio.current_task()}

    async def _wait_for(
        self, topic: str, queue: _Queue, group: Sequence[tuple[float, Asked]]
    ) -> None:
        asked = [one for _, one in group]
        try:
            results = await self._write([job for job, _ in asked], self._take_in_turn)
        except _HeldError:
            queue.turns += 1
            now = asyncio.get_running_loop().time()
            said = f"a transaction that is still open holds topic {topic}"
            refuse(
                [one for by, one in group if by <= now],
                SourceUnavailableError(self._storage.name, said),
            )
            queue.waiting.extendleft(one for one in reversed(group) if one[0] > now)
        except Exception as error:
            refuse(asked, error)
        else:
            super()._settle(asked, results)

    async def _take_in_turn(
        self, connection: AsyncConnection, counts: Mapping[str, int]
    ) -> Mapping[str, sa.Row[Any]]:
        await connection.execute(_TURN)
        try:
            return await self._storage.dialect.take(connection, counts)
        except DBAPIError as error:
            if _is_timeout(error):
                raise _HeldError from error
            raise

    async def _take_free(
        self, connection: AsyncConnection, counts: Mapping[str, int]
    ) -> Mapping[str, sa.Row[Any]]:
        topics = json.dumps(sorted(counts.items()))
        rows = (await connection.execute(TAKE_FREE, {"topics": topics})).all()
        taken: dict[str, sa.Row[Any]] = {row.name: row for row in rows}
        if len(taken) < len(counts):
            taken |= await self._create(connection, counts, sorted(counts.keys() - taken.keys()))
        return taken

    async def _create(
        self, connection: AsyncConnection, counts: Mapping[str, int], missing: Sequence[str]
    ) -> Mapping[str, sa.Row[Any]]:
        """Those of the missing topics that do not exist."""
        rows = (await connection.execute(NEW, {"names": json.dumps(missing)})).all()
        new = {row.name: counts[row.name] for row in rows}
        if not new:
            return {}
        try:
            async with connection.begin_nested():
                await connection.execute(_SHORT)
                taken = await self._storage.dialect.take(connection, new)
                await connection.execute(_USUAL)
        except DBAPIError as error:
            if _is_timeout(error):
                return {}
            raise
        return taken


def _is_timeout(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) == "55P03"

"""Appends on PostgreSQL: many topics in one transaction, and no topic delays another.

Another program's transaction may hold a topic for any time. So appends that are committed together
reserve numbers only of topics that are free. Appends to a held topic wait in a queue of their own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.errors import SourceUnavailableError
from headwater.eventlog._batcher import Batcher
from headwater.eventlog._record import Record
from headwater.eventlog.sql._storage import Storage
from headwater.eventlog.sql._writer import MOST, Append, AskedAppend, SqlWriter, weigh
from headwater.eventlog.sql.postgresql._dialect import MISSING, RESERVE_FREE

# Seconds that an append waits for its topic.
PATIENCE = 10.0
# Held topics that are waited for at the same time, each on one connection. They take turns.
LANES = 3
_TURN = sa.text("SET LOCAL lock_timeout = '300ms'")
# For a topic that another transaction is creating.
_SHORT = sa.text("SET LOCAL lock_timeout = '30ms'")
_USUAL = sa.text("SET LOCAL lock_timeout TO DEFAULT")


class _HeldError(Exception):
    """Another transaction still holds the topic."""


class PostgresWriter(SqlWriter):
    """Appends of this process."""

    def __init__(self, storage: Storage, clock: Callable[[], datetime]) -> None:
        super().__init__(storage, clock)
        # The appends to each held topic.
        self._held: dict[str, Batcher[Append, list[Record]]] = {}
        self._lanes = asyncio.Semaphore(LANES)

    def append(self, append: Append) -> Coroutine[Any, Any, list[Record]]:
        return self._held.get(append.topic, self._batcher).ask(append)

    async def close(self) -> None:
        """Refuse further appends, and wait for the others; ``PATIENCE`` at most for held topics."""
        await super().close()
        await asyncio.gather(*(held.close() for held in self._held.values()))

    async def _commit(self, group: Sequence[AskedAppend]) -> None:
        held = self._answer(group, await self._write(group, self._reserve_free))
        if held:
            # Later appends to the same topics must not be done before them.
            topics = {one.job.topic for one in held}
            waiting = tuple(self._batcher.waiting)
            self._batcher.waiting.clear()
            self._batcher.waiting.extend(one for one in waiting if one.job.topic not in topics)
            for one in [*held, *(one for one in waiting if one.job.topic in topics)]:
                self._hold(one)

    def _hold(self, asked: AskedAppend) -> None:
        topic = asked.job.topic
        if topic not in self._held:
            self._held[topic] = Batcher(
                self._storage.name, self._wait_for, weigh, MOST, patience=PATIENCE
            )
        self._held[topic].put(asked)

    async def _wait_for(self, group: Sequence[AskedAppend]) -> None:
        """Do appends to one held topic, once it is free. It takes turns with other held topics."""
        topic = group[0].job.topic
        said = f"another transaction, which is still open, holds topic {topic}"
        try:
            while group := [one for one in group if not one.done.done()]:
                try:
                    async with self._lanes:
                        self._answer(group, await self._write(group, self._reserve_in_turn))
                except _HeldError:
                    now = asyncio.get_running_loop().time()
                    for one in group:
                        if one.by <= now:
                            one.refuse(SourceUnavailableError(self._storage.name, said))
        finally:
            if all(one.done.done() for one in self._held[topic].waiting):
                del self._held[topic]

    async def _reserve_in_turn(
        self, connection: AsyncConnection, counts: Mapping[str, int]
    ) -> Mapping[str, sa.Row[Any]]:
        """Wait for a held topic for one turn."""
        await connection.execute(_TURN)
        try:
            return await self._storage.dialect.reserve(connection, counts)
        except DBAPIError as error:
            if _is_timeout(error):
                raise _HeldError from error
            raise

    async def _reserve_free(
        self, connection: AsyncConnection, counts: Mapping[str, int]
    ) -> Mapping[str, sa.Row[Any]]:
        """Reserve numbers of the topics that no other transaction holds."""
        topics = json.dumps(sorted(counts.items()))
        rows = (await connection.execute(RESERVE_FREE, {"topics": topics})).all()
        free: dict[str, sa.Row[Any]] = {row.name: row for row in rows}
        if len(free) < len(counts):
            free |= await self._create(connection, counts, sorted(counts.keys() - free.keys()))
        return free

    async def _create(
        self, connection: AsyncConnection, counts: Mapping[str, int], names: Sequence[str]
    ) -> Mapping[str, sa.Row[Any]]:
        """Create those of the topics that do not exist, and reserve numbers of them."""
        rows = (await connection.execute(MISSING, {"names": json.dumps(names)})).all()
        new = {row.name: counts[row.name] for row in rows}
        if not new:
            return {}
        try:
            async with connection.begin_nested():
                await connection.execute(_SHORT)
                created = await self._storage.dialect.reserve(connection, new)
                await connection.execute(_USUAL)
        except DBAPIError as error:
            if _is_timeout(error):
                return {}
            raise
        return created


def _is_timeout(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) == "55P03"

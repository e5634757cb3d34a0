"""Appends on PostgreSQL: many topics in one transaction, and no topic delays another.

Another program's transaction may hold a topic for any time. So appends that are committed together
reserve numbers only of topics that are free. Appends to a held topic wait in a queue of their own.
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
from headwater.eventlog._batcher import Asked, next_group
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


@dataclass(slots=True)
class _HeldTopic:
    """Appends to a topic that another transaction holds.

    ``turns`` counts how often a lane waited for it in vain; ``served``: a lane waits for it now.
    """

    waiting: deque[AskedAppend] = field(default_factory=deque)
    turns: int = 0
    served: bool = False


class PostgresWriter(SqlWriter):
    """Appends of this process."""

    def __init__(self, storage: Storage, clock: Callable[[], datetime]) -> None:
        super().__init__(storage, clock)
        self._held: dict[str, _HeldTopic] = {}
        self._lanes: set[asyncio.Task[None]] = set()

    async def append(self, append: Append) -> list[Record]:
        if append.topic not in self._held:
            return await super().append(append)
        self._must_be_open()
        asked: AskedAppend = Asked(append, asyncio.get_running_loop().create_future())
        self._hold([asked])
        return await asked.done

    async def close(self) -> None:
        """Refuse further appends, and wait for the others; ``PATIENCE`` at most for held topics."""
        await super().close()
        while self._lanes:
            await asyncio.wait(self._lanes)

    async def _commit(self, group: Sequence[AskedAppend]) -> None:
        held = self._answer(group, await self._write(group, self._reserve_free))
        if held:
            # Later appends to the same topics must not be done before them.
            topics = {one.job.topic for one in held}
            waiting = tuple(self._batcher.waiting)
            self._batcher.waiting.clear()
            self._batcher.waiting.extend(one for one in waiting if one.job.topic not in topics)
            self._hold([*held, *(one for one in waiting if one.job.topic in topics)])

    def _hold(self, asked: Iterable[AskedAppend]) -> None:
        by = asyncio.get_running_loop().time() + PATIENCE
        for one in asked:
            one.by = by
            self._held.setdefault(one.job.topic, _HeldTopic()).waiting.append(one)
        while len(self._lanes) < min(LANES, len(self._held)):
            lane = asyncio.create_task(self._serve(), name=f"{self._storage.name}: held topics")
            self._lanes.add(lane)

    async def _serve(self) -> None:
        """Wait for one held topic after the other, the one with the fewest turns first."""
        group: list[AskedAppend] = []
        try:
            while free := [item for item in self._held.items() if not item[1].served]:
                topic, held = min(free, key=lambda item: item[1].turns)
                held.served = True
                group = next_group(held.waiting, weigh, MOST)
                if group:
                    await self._wait_for(topic, held, group)
                held.served = False
                if not held.waiting:
                    del self._held[topic]
        except asyncio.CancelledError:
            for one in group:
                one.done.cancel()  # the end of the loop
            raise
        finally:
            # Before anything else runs: a topic that is held from now on needs another lane.
            self._lanes -= {asyncio.current_task()}

    async def _wait_for(self, topic: str, held: _HeldTopic, group: Sequence[AskedAppend]) -> None:
        try:
            self._answer(group, await self._write(group, self._reserve_in_turn))
        except _HeldError:
            held.turns += 1
            now = asyncio.get_running_loop().time()
            said = f"another transaction, which is still open, holds topic {topic}"
            for one in reversed(group):
                if one.by > now:
                    held.waiting.appendleft(one)
                else:
                    one.refuse(SourceUnavailableError(self._storage.name, said))
        except Exception as error:
            for one in group:
                one.refuse(error)

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

"""``SqlLog``, and opening one; creating and dropping its tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from headwater.errors import UsageError
from headwater.eventlog._checked import CheckedLog
from headwater.eventlog._interface import EventLog, Follower
from headwater.eventlog._record import (
    Bounds,
    Capabilities,
    Event,
    Offset,
    Record,
    Retention,
    Run,
    mark_of,
)
from headwater.eventlog.sql._reader import SqlReader
from headwater.eventlog.sql._storage import Storage
from headwater.eventlog.sql._tables import METADATA, bounds_of, records_of
from headwater.eventlog.sql._writer import Append, SqlWriter
from headwater.sql.postgresql._connections import postgresql_engine, separate_pool
from headwater.sql.sqlite._connections import configure_sqlite, file_of

# The databases' largest integer; no topic counts this far.
_LAST = 2**63 - 1


class SqlLog(CheckedLog):
    """An event log in the database of ``engine``, next to whatever else it holds.

    Arguments:
        engine: an AsyncEngine on a SQLite file, or on PostgreSQL 13 or later with psycopg. It
            stays the caller's: ``close`` leaves it open.
        max_event_bytes: the most bytes of one event's JSON.
        clock: the present moment, UTC.
        notify: on PostgreSQL, notify other processes of commits with NOTIFY. Without it they poll:
            every 50 ms while events come, and once a second otherwise.
    """

    capabilities = Capabilities(
        durable=True, multi_process=True, transactional=True, trim_by_size=True
    )

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        max_event_bytes: int = EventLog.max_event_bytes,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        notify: bool = True,
    ) -> None:
        self.engine = engine
        self.max_event_bytes = max_event_bytes
        self._clock = clock
        self._notify = notify
        self._storage, self._reader, self._writer = _parts(engine, clock, notify)
        self.name = self._storage.name

    async def _start(self) -> None:
        await self._storage.ready()

    async def _append(
        self, topic: str, events: Sequence[Event], key: str | None, connection: Any
    ) -> list[Record]:
        append = Append(topic, events, key)
        if connection is None:
            return await self._writer.append(append)
        if isinstance(connection, AsyncSession):
            connection = await connection.connection()
        return await self._writer.join(connection, append)

    def _check_connection(self, connection: Any) -> None:
        if not isinstance(connection, AsyncConnection | AsyncSession | None):
            raise UsageError(
                "connection=: give an AsyncConnection or an AsyncSession, not a "
                f"{type(connection).__name__}"
            )

    async def _read(self, topic: str, after: Offset, limit: int) -> tuple[Run, Offset | None]:
        await self._storage.ready()
        # One more: what stands at the offset itself.
        rows = await self._rows(self._storage.dialect.after, topic, after, limit + 1)
        bounds, place, last = bounds_of(rows[0]), None, max(after[0], rows[0].trimmed or 0)
        if rows[0].number == after[0]:
            place, rows = mark_of(rows[0].at, rows[0].size), rows[1:]
        found = [] if not rows or rows[0].number is None else rows[:limit]
        # Numbers have no gaps: another program removed the records that are missing.
        first = found[0].number if found else last + 1
        end = found[-1].number if len(found) == limit else bounds.latest[0]
        if first != last + 1 or end > last + len(found):
            ends = [last, *(row.number for row in found), end + 1]
            holes = [high - 1 for low, high in pairwise(ends) if high - low > 1]
            if holes:
                bounds = replace(bounds, earliest=Offset.of(holes[-1]))
                found = [row for row in found if row.number > holes[-1]]
        more = Offset.of(found[-1].number) if len(found) == limit else None
        return Run(records_of(topic, found), bounds, place), more

    async def _latest(
        self, topic: str, limit: int, before: Offset | None
    ) -> tuple[Run, Offset | None]:
        await self._storage.ready()
        rows = await self._rows(self._storage.dialect.before, topic, before or (_LAST,), limit)
        found = [row for row in rows[::-1] if row.number is not None]
        more = Offset.of(found[0].number) if len(found) == limit else None
        return Run(records_of(topic, found), bounds_of(rows[0])), more

    async def _rows(
        self, statement: sa.TextClause, topic: str, beyond: tuple[int, ...], limit: int
    ) -> Sequence[sa.Row[Any]]:
        values = {"topic": topic, "number": min(beyond[0], _LAST), "rows": limit}
        return await self._storage.read(statement, values)

    async def _bounds(self, topic: str) -> Bounds:
        await self._storage.ready()
        (row,) = await self._storage.read(self._storage.dialect.bounds, {"topic": topic})
        return bounds_of(row)

    async def _follow(self, topic: str, follower: Follower) -> Bounds:
        return await self._reader.follow(topic, follower)

    async def unfollow(self, topic: str, follower: Follower) -> None:
        self._reader.unfollow(topic, follower)

    async def _trim(self, topic: str | None, keep: Retention) -> int:
        return await self._writer.trim(topic, keep)

    async def _forget(self, topics: Sequence[str]) -> None:
        await self._writer.forget(topics)

    def another(self) -> EventLog:
        if self.engine.dialect.name == "postgresql":
            engine = separate_pool(self.engine)
        elif file_of(self.engine.sync_engine) is None:
            raise UsageError(f"{self.name}: a database in memory has one connection only")
        else:
            engine = create_async_engine(self.engine.url)
            configure_sqlite(engine, synchronous="FULL")
        return _OwnLog(
            engine, max_event_bytes=self.max_event_bytes, clock=self._clock, notify=self._notify
        )

    async def _close(self) -> None:
        await self._writer.close()
        await self._reader.close()
        await self._storage.close()


class _OwnLog(SqlLog):
    """A log that opened its engine itself, and closes it."""

    async def _close(self) -> None:
        await super()._close()
        await self.engine.dispose()


def open_sqlite(path: str) -> SqlLog:
    """The log in a SQLite file, which may have other tables too."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    # FULL: after a power cut that undid a commit, other events would get its numbers, and clients
    # resume by these.
    return _OwnLog(configure_sqlite(engine, synchronous="FULL"))


def open_postgresql(url: str) -> SqlLog:
    """The log in a PostgreSQL database, at an address that libpq can read. Raises UsageError."""
    # Appends take one connection, and three more while topics are held. Reads take the others.
    return _OwnLog(postgresql_engine(url, pool_size=5, max_overflow=10))


def create_tables(connection: sa.Connection) -> None:
    """Create the log's tables where they are missing, in a migration: ``op.get_bind()``.

    ``SqlLog.start()`` does so by itself if it has the permission. If the tables exist, it only
    writes the one row of ``headwater_log``.
    """
    _metadata(connection).create_all(connection)


def drop_tables(connection: sa.Connection) -> None:
    """Drop the log's tables and all that they hold."""
    if connection.dialect.name == "postgresql":
        # In the order in which readers lock them, so that no two wait for each other.
        names = ", ".join(METADATA.tables)
        connection.execute(sa.text(f"DROP TABLE IF EXISTS {names}"))
    else:
        METADATA.drop_all(connection)


def _metadata(connection: sa.Connection) -> sa.MetaData:
    if connection.dialect.name == "postgresql":
        from headwater.eventlog.sql.postgresql._dialect import METADATA as TABLES

        return TABLES
    return METADATA


def _parts(
    engine: AsyncEngine, clock: Callable[[], datetime], notify: bool
) -> tuple[Storage, SqlReader, SqlWriter]:
    """The storage, reader and writer for the engine's database."""
    if engine.dialect.name == "sqlite":
        from headwater.eventlog.sql._sqlite import SqliteDialect, SqliteReader

        storage = Storage(engine, SqliteDialect())
        return storage, SqliteReader(storage), SqlWriter(storage, clock)
    if engine.dialect.name == "postgresql":
        from headwater.eventlog.sql.postgresql._dialect import PostgresDialect
        from headwater.eventlog.sql.postgresql._reader import Notices, PostgresReader
        from headwater.eventlog.sql.postgresql._writer import PostgresWriter

        if engine.dialect.driver != "psycopg":
            raise UsageError(
                f"event log on PostgreSQL: give an engine of postgresql+psycopg://…, not of "
                f"{engine.dialect.driver}"
            )
        dialect = PostgresDialect()
        storage = Storage(engine, dialect)
        reader = PostgresReader(storage, dialect, Notices(storage) if notify else None)
        return storage, reader, PostgresWriter(storage, clock)
    raise UsageError(f"event log on {engine.dialect.name}: give an engine of SQLite or PostgreSQL")

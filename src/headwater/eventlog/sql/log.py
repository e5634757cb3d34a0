"""An event log in a SQL database: SQLite or PostgreSQL.

Each topic counts its own records in the row that its writers lock, so its order is the order of
their commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from headwater.errors import UsageError
from headwater.eventlog.interface import EventLog, Follower
from headwater.eventlog.record import (
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
from headwater.eventlog.sql.dialect import Dialect
from headwater.eventlog.sql.storage import Storage
from headwater.eventlog.sql.tables import METADATA, bounds_of, record_of, ticks
from headwater.eventlog.sql.trim import LOCK, topics_to_trim, trim_some
from headwater.eventlog.sql.writer import Job, append_jobs
from headwater.sql.sqlite.connections import configure_sqlite

__all__ = [
    "METADATA", "SqlLog", "create_tables", "drop_tables", "open_postgresql", "open_sqlite",
]  # fmt: skip

# The databases' largest integer; no topic counts this far.
_LAST = 2**63 - 1


class SqlLog(EventLog):
    """An event log in the database of ``engine``, next to whatever else it holds.

    Args:
        engine: an AsyncEngine on a SQLite file, or on PostgreSQL 13 or later with psycopg. It
            stays the caller's: ``close`` leaves it open.
        max_event_bytes: of one event's JSON.
        clock: the present moment, UTC.
        notify: on PostgreSQL, tell other processes of commits with NOTIFY. Without it they look by
            themselves, every 50 ms while there is news and once a second while there is none.
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
        self._dialect = _dialect(engine, notify)
        self.name = self._dialect.name
        self._storage = Storage(engine, self._dialect)
        self._reader = self._dialect.reader(self._storage)
        self._writer = self._dialect.writer(self._storage, clock)

    async def start(self) -> None:
        await self._storage.ready()

    async def append(
        self,
        topic: str,
        data: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        *,
        key: str | None = None,
        connection: AsyncConnection | AsyncSession | None = None,
    ) -> list[Record]:
        events = encode_all(data, self.max_event_bytes, self.capabilities.max_batch)
        job = Job(check_topic(topic), events, check_key(key))
        if not events:
            return []
        if connection is None:
            return await self._writer.append(job)
        own = await _connection(connection)
        results = await self._storage.join(
            own, lambda joined: append_jobs(joined, [job], self._clock(), self._dialect)
        )
        return results[0] or []

    async def read(self, topic: str, after: Offset, limit: int) -> Run:
        check_topic(topic)
        await self._storage.ready()
        rows = await self._rows(self._dialect.after, topic, min(after[0], _LAST), limit)
        return _run(topic, rows)

    async def latest(self, topic: str, limit: int, before: Offset | None = None) -> Run:
        check_topic(topic)
        number = _LAST if before is None else min(before[0], _LAST)
        await self._storage.ready()
        rows = await self._rows(self._dialect.before, topic, number, limit)
        return _run(topic, rows[::-1])

    async def _rows(
        self, statement: sa.TextClause, topic: str, number: int, limit: int
    ) -> Sequence[sa.Row[Any]]:
        values = {"topic": topic, "number": number, "rows": max(limit, 1)}
        return await self._storage.read(statement, values)

    async def bounds(self, topic: str) -> Bounds:
        check_topic(topic)
        await self._storage.ready()
        (row,) = await self._storage.read(self._dialect.bounds, {"topic": topic})
        return bounds_of(row.epoch, row.latest, row.trimmed)

    async def follow(self, topic: str, follower: Follower) -> Bounds:
        check_topic(topic)
        await self._storage.ready()
        return await self._reader.follow(topic, follower)

    async def unfollow(self, topic: str, follower: Follower) -> None:
        self._reader.unfollow(topic, follower)

    async def trim(
        self,
        topic: str | None = None,
        *,
        max_age: timedelta | None = None,
        max_count: int | None = None,
        max_bytes: int | None = None,
    ) -> int:
        keep = Retention(max_age, max_count, max_bytes)
        oldest = None if max_age is None else ticks(self._clock() - max_age)
        if topic is None:
            names = await topics_to_trim(self._storage, keep, oldest)
            # One that somebody writes to for long must not hold up all others.
            lock = self._dialect.lock_free
        else:
            names = [check_topic(topic)]
            lock = LOCK
        removed = 0
        for name in names:
            # In steps, so that other writers wait for one of them and not for all.
            step = partial(trim_some, topic=name, keep=keep, oldest=oldest, lock=lock)
            while count := await self._storage.write(step):
                removed += count
        return removed

    async def close(self) -> None:
        await self._writer.close()
        await self._dialect.close()
        await self._reader.close()
        await self._storage.close()


class _OwnLog(SqlLog):
    """A log that opened its engine itself, and closes it."""

    async def close(self) -> None:
        await super().close()
        await self.engine.dispose()


def open_sqlite(path: str) -> SqlLog:
    """The log in a file of its own, or in one that is shared with other tables."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    # FULL: a commit that a power cut takes back would give its numbers out twice, and clients
    # resume by them.
    return _OwnLog(configure_sqlite(engine, synchronous="FULL"))


def open_postgresql(url: str) -> SqlLog:
    """The log in a PostgreSQL database, at an address that libpq can read. Raises UsageError."""
    from headwater.eventlog.sql.postgresql.address import engine_of

    return _OwnLog(engine_of(url))


def create_tables(connection: sa.Connection) -> None:
    """Create the log's tables where they are missing, in a migration: ``op.get_bind()``.

    ``SqlLog.start()`` does so by itself where it may; with the tables there, it only writes the
    one row of ``headwater_log``.
    """
    _metadata(connection).create_all(connection)


def drop_tables(connection: sa.Connection) -> None:
    """Drop the log's tables and all that they hold."""
    if connection.dialect.name == "postgresql":
        # In the order in which readers come to them, so that each waits for the other at most.
        names = ", ".join(METADATA.tables)
        connection.execute(sa.text(f"DROP TABLE IF EXISTS {names}"))
    else:
        METADATA.drop_all(connection)


def _metadata(connection: sa.Connection) -> sa.MetaData:
    if connection.dialect.name == "postgresql":
        from headwater.eventlog.sql.postgresql.tables import METADATA as TABLES

        return TABLES
    return METADATA


def _dialect(engine: AsyncEngine, notify: bool) -> Dialect:
    if engine.dialect.name == "sqlite":
        from headwater.eventlog.sql.sqlite.dialect import SqliteDialect

        return SqliteDialect()
    if engine.dialect.name == "postgresql":
        from headwater.eventlog.sql.postgresql.dialect import PostgresDialect

        if engine.dialect.driver != "psycopg":
            raise UsageError(
                f"event log on PostgreSQL: its engine is of postgresql+psycopg://…, not "
                f"{engine.dialect.driver}"
            )
        return PostgresDialect(notify=notify)
    raise UsageError(
        f"event log on {engine.dialect.name}: of the SQL engines this version has SQLite and "
        "PostgreSQL"
    )


def _run(topic: str, rows: Sequence[sa.Row[Any]]) -> Run:
    records = [record_of(topic, row) for row in rows if row.number is not None]
    return Run(records, bounds_of(rows[0].epoch, rows[0].latest, rows[0].trimmed))


async def _connection(given: AsyncConnection | AsyncSession) -> AsyncConnection:
    if isinstance(given, AsyncConnection):
        return given
    if isinstance(given, AsyncSession):
        return await given.connection()
    raise UsageError(
        f"connection: an AsyncConnection or an AsyncSession, not {type(given).__name__}"
    )

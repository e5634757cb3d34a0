"""The event log's dialect of PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.eventlog.sql.dialect import Dialect, Row
from headwater.eventlog.sql.postgresql import statements
from headwater.eventlog.sql.postgresql.tables import METADATA
from headwater.sql.faults import unavailable
from headwater.sql.postgresql.conditions import LIFE, SHORT_LIFE
from headwater.sql.postgresql.connections import describe_server

__all__ = ["PostgresDialect"]

_COLUMNS = ("topic_id", "number", "at", "size", "key", "part", "data")


class PostgresDialect(Dialect):
    """PostgreSQL 13 and later.

    Writers of one topic queue at its row, so its numbers are in the order of its commits; those of
    different topics do not wait for each other.
    """

    name = "event log (postgresql)"
    # One statement is its own transaction: no BEGIN and no ROLLBACK around it.
    reading: Mapping[str, object] = {"isolation_level": "AUTOCOMMIT"}
    # More than the largest append takes on a slow server. Without it a caller would wait for a host
    # that hangs, or a dead link, until the system gives the connection up.
    patience = 20.0
    lock_free = statements.LOCK_FREE
    reserving = statements.RESERVE
    finding_keys = statements.FIND_KEYS

    def __init__(self) -> None:
        self._use(LIFE)

    def _use(self, life: str) -> None:
        self.reads = statements.Reading.of(life)
        self.bounds = self.reads.bounds
        self.after = self.reads.after
        self.before = self.reads.before

    def unavailable(self, error: BaseException) -> str | None:
        if isinstance(error, DBAPIError):
            state = getattr(error.orig, "sqlstate", None)
            if state == "25006":
                return "the server takes no writes: it is a standby, or set to read-only"
            if state == "42501":
                return f"this user may not do that: {str(error.orig).splitlines()[0]}"
        return unavailable(error)

    def absent(self, error: DBAPIError) -> bool:
        return getattr(error.orig, "sqlstate", None) == "42P01"

    def busy(self, error: BaseException | None) -> bool:  # noqa: ARG002 - creators wait for a lock
        return False

    async def exists(self, connection: AsyncConnection) -> bool:
        server = await describe_server(connection)
        self._use(LIFE if server.control else SHORT_LIFE)
        row = (await connection.execute(statements.EXISTS)).first()
        if row is not None and row.ahead:
            await connection.execute(statements.HEAL)
        await connection.commit()
        return row is not None

    async def create_tables(self, connection: AsyncConnection) -> None:
        await connection.execute(statements.CREATING)
        await connection.run_sync(METADATA.create_all)

    async def insert(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        columns = {name: [row[name] for row in rows] for name in _COLUMNS}
        await connection.execute(statements.INSERT, columns)

"""The event log on PostgreSQL: what ``SqlLog`` asks for."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.eventlog.postgresql import statements
from headwater.eventlog.postgresql.notices import Notices
from headwater.eventlog.postgresql.reader import PostgresReader
from headwater.eventlog.postgresql.tables import METADATA
from headwater.eventlog.postgresql.writer import PostgresWriter
from headwater.eventlog.sql_dialect import Dialect, Row
from headwater.eventlog.sql_reader import Reader
from headwater.eventlog.sql_storage import Storage
from headwater.eventlog.sql_writer import Writer
from headwater.sql.faults import unavailable
from headwater.sql.postgresql.conditions import LIFE, SHORT_LIFE
from headwater.sql.postgresql.connections import describe_server

__all__ = ["PostgresDialect"]

_COLUMNS = ("topic_id", "number", "at", "size", "key", "part", "data")


class PostgresDialect(Dialect):
    """PostgreSQL 13 and later.

    Writers of one topic queue at its row, so its numbers are in the order of its commits; those of
    different topics do not wait for each other.

    Args:
        notify: tell other processes of commits with NOTIFY. Without it they look by themselves.
    """

    name = "event log (postgresql)"
    # One statement is its own transaction: no BEGIN and no ROLLBACK around it.
    reading: Mapping[str, object] = {"isolation_level": "AUTOCOMMIT"}
    # More than the largest append takes on a slow server. A host that hangs, or a link that is dead
    # without a word, would be waited for until the system gives its connection up.
    patience = 20.0
    lock_free = statements.LOCK_FREE

    def __init__(self, *, notify: bool = True) -> None:
        self.notices = Notices() if notify else None
        self._use(LIFE)

    def _use(self, life: str) -> None:
        self.asks = statements.Reading.of(life)
        self.bounds, self.after, self.before = self.asks.bounds, self.asks.after, self.asks.before

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

    def busy(self, error: BaseException | None) -> bool:  # noqa: ARG002 - who creates waits its turn
        return False

    async def look(self, connection: AsyncConnection) -> bool:
        server = await describe_server(connection)
        self._use(LIFE if server.control else SHORT_LIFE)
        row = (await connection.execute(statements.LOOK)).first()
        if row is not None and row.ahead:
            await connection.execute(statements.HEAL)
        await connection.commit()
        return row is not None

    async def create(self, connection: AsyncConnection) -> None:
        await connection.execute(statements.CREATING)
        await connection.run_sync(METADATA.create_all)
        # Letters and digits only, as a position carries it.
        await connection.execute(statements.BEGIN_LIFE, {"epoch": secrets.token_hex(16)})

    async def take(
        self, connection: AsyncConnection, counts: Mapping[str, int]
    ) -> Mapping[str, sa.Row[tuple[object, ...]]]:
        taken = await connection.execute(statements.TAKE, {"topics": json.dumps([*counts.items()])})
        return {row.name: row for row in taken.all()}

    async def known(
        self, connection: AsyncConnection, keys: Sequence[tuple[str, str]]
    ) -> Sequence[sa.Row[tuple[object, ...]]]:
        return (await connection.execute(statements.KNOWN, {"keys": json.dumps(keys)})).all()

    async def put(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        columns = {name: [row[name] for row in rows] for name in _COLUMNS}
        await connection.execute(statements.PUT, columns)

    def reader(self, storage: Storage) -> Reader:
        return PostgresReader(storage, self)

    def writer(self, storage: Storage, clock: Callable[[], datetime]) -> Writer:
        return PostgresWriter(storage, clock)

    def begin(self, storage: Storage) -> None:
        if self.notices is not None:
            self.notices.begin(storage)

    async def close(self) -> None:
        if self.notices is not None:
            await self.notices.close()

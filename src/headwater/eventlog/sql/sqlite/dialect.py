"""The event log's dialect of SQLite."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import CreateIndex, CreateTable

from headwater.eventlog.sql.dialect import Dialect, Row
from headwater.eventlog.sql.tables import METADATA
from headwater.eventlog.sql.trim import LOCK
from headwater.sql.faults import unavailable

__all__ = ["SqliteDialect"]

_EPOCH = sa.text("SELECT epoch FROM headwater_log WHERE id = 1")
# One statement, so that records and bounds are of one moment.
_RUN = (
    "SELECT l.epoch, t.latest, t.trimmed, e.number, e.at, e.key, e.data FROM headwater_log AS l"
    " LEFT JOIN headwater_topics AS t ON t.name = :topic"
    " LEFT JOIN headwater_events AS e ON e.topic_id = t.id AND e.number {beyond} :number"
    " WHERE l.id = 1 ORDER BY e.number {order} LIMIT :rows"
)

# A write comes first in every append. From then on the transaction holds the lock, so that no other
# one changes what it reads afterwards.
_RESERVE = sa.text(
    "INSERT INTO headwater_topics (name, latest, trimmed)"
    " SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), 0"
    " FROM json_each(:topics) WHERE true"
    " ON CONFLICT (name) DO UPDATE SET latest = latest + excluded.latest"
    " RETURNING id, name, latest"
)
_FIND_KEYS = sa.text(
    "SELECT t.name, e.number, e.at, e.key, e.data FROM json_each(:keys) AS k"
    " CROSS JOIN headwater_topics AS t ON t.name = json_extract(k.value, '$[0]')"
    " CROSS JOIN headwater_events AS e"
    " ON e.topic_id = t.id AND e.key = json_extract(k.value, '$[1]')"
    " ORDER BY e.number"
)
_INSERT = sa.text(
    "INSERT INTO headwater_events (topic_id, number, at, size, key, part, data)"
    " VALUES (:topic_id, :number, :at, :size, :key, :part, :data)"
)


class SqliteDialect(Dialect):
    """SQLite 3.35 and later."""

    name = "event log (sqlite)"
    bounds = sa.text(
        "SELECT l.epoch, t.latest, t.trimmed FROM headwater_log AS l"
        " LEFT JOIN headwater_topics AS t ON t.name = :topic WHERE l.id = 1"
    )
    after = sa.text(_RUN.format(beyond=">", order=""))
    before = sa.text(_RUN.format(beyond="<", order="DESC"))
    # A transaction that holds one topic holds the file.
    lock_free = LOCK
    reserving = _RESERVE
    finding_keys = _FIND_KEYS

    def unavailable(self, error: BaseException) -> str | None:
        return unavailable(error)

    def absent(self, error: DBAPIError) -> bool:
        return "no such table" in str(error.orig)

    def busy(self, error: BaseException | None) -> bool:
        # The process that switches a new file to its write-ahead log locks out the others, and
        # SQLite does not let them wait for it.
        return "locked" in str(error)

    async def exists(self, connection: AsyncConnection) -> bool:
        return (await connection.execute(_EPOCH)).first() is not None

    async def create_tables(self, connection: AsyncConnection) -> None:
        for table in METADATA.sorted_tables:
            await connection.execute(CreateTable(table, if_not_exists=True))
            for index in sorted(table.indexes, key=lambda index: str(index.name)):
                await connection.execute(CreateIndex(index, if_not_exists=True))

    async def insert(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        await connection.execute(_INSERT, rows)

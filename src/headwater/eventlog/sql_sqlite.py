"""The event log's statements on SQLite, and how it is followed there.

One writer at a time holds the file, so the ids of events are in the order of commits, and what is
new for all topics is a range of ids.
"""

from __future__ import annotations

import json
import secrets
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.schema import CreateIndex, CreateTable

from headwater.eventlog.record import Record
from headwater.eventlog.sql_dialect import Dialect, Row
from headwater.eventlog.sql_reader import ROWS, Reader
from headwater.eventlog.sql_storage import Storage
from headwater.eventlog.sql_tables import METADATA, record_of
from headwater.eventlog.sql_trim import LOCK
from headwater.eventlog.sql_watch import Head, Watch
from headwater.eventlog.sql_writer import Writer
from headwater.sql.faults import unavailable

__all__ = ["NEW", "SqliteDialect", "SqliteReader"]

_EPOCH = sa.text("SELECT epoch FROM headwater_log WHERE id = 1")
_BEGIN_LIFE = sa.text(
    "INSERT INTO headwater_log (id, epoch, trims) VALUES (1, :epoch, 0) ON CONFLICT (id) DO NOTHING"
)
# One statement, so that records and bounds are of one moment.
_RUN = (
    "SELECT l.epoch, t.latest, t.trimmed, e.number, e.at, e.key, e.data FROM headwater_log AS l"
    " LEFT JOIN headwater_topics AS t ON t.name = :topic"
    " LEFT JOIN headwater_events AS e ON e.topic_id = t.id AND e.number {beyond} :number"
    " WHERE l.id = 1 ORDER BY e.number {order} LIMIT :rows"
)

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

# head is the highest id ever given out, also when the newest rows were trimmed.
# CROSS JOIN and + keep SQLite's planner on the range of ids: it would rather read all of the
# followed topics and sort.
NEW = sa.text(
    "SELECT l.epoch, l.trims, coalesce(s.seq, 0) AS head, e.* FROM headwater_log AS l"
    " LEFT JOIN sqlite_sequence AS s ON s.name = 'headwater_events'"
    " LEFT JOIN ("
    "SELECT e.id, t.name, e.number, e.at, e.key, e.data FROM headwater_events AS e"
    " CROSS JOIN headwater_topics AS t ON t.id = e.topic_id"
    " WHERE e.id > :last AND +t.name IN (SELECT value FROM json_each(:topics))"
    " ORDER BY e.id LIMIT :rows"
    ") AS e ON true WHERE l.id = 1 ORDER BY e.id"
)
_STATES = sa.text(
    "SELECT l.epoch, l.trims, coalesce(s.seq, 0) AS head, t.name, t.latest, t.trimmed"
    " FROM headwater_log AS l"
    " LEFT JOIN sqlite_sequence AS s ON s.name = 'headwater_events'"
    " LEFT JOIN headwater_topics AS t ON t.name IN (SELECT value FROM json_each(:topics))"
    " WHERE l.id = 1"
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
    # Whoever holds one topic holds the file.
    lock_free = LOCK

    def unavailable(self, error: BaseException) -> str | None:
        return unavailable(error)

    def absent(self, error: DBAPIError) -> bool:
        return "no such table" in str(error.orig)

    def busy(self, error: BaseException | None) -> bool:
        # Who switches a new file to its write-ahead log locks out the others, and SQLite does not
        # let them wait for it.
        return "locked" in str(error)

    async def look(self, connection: AsyncConnection) -> bool:
        return (await connection.execute(_EPOCH)).first() is not None

    async def create(self, connection: AsyncConnection) -> None:
        for table in METADATA.sorted_tables:
            await connection.execute(CreateTable(table, if_not_exists=True))
            for index in sorted(table.indexes, key=lambda index: str(index.name)):
                await connection.execute(CreateIndex(index, if_not_exists=True))
        # Letters and digits only, as a position carries it.
        await connection.execute(_BEGIN_LIFE, {"epoch": secrets.token_hex(16)})

    async def take(
        self, connection: AsyncConnection, counts: Mapping[str, int]
    ) -> Mapping[str, sa.Row[Any]]:
        topics = json.dumps(sorted(counts.items()))
        taken = await connection.execute(_TAKE, {"topics": topics})
        return {row.name: row for row in taken.all()}

    async def known(
        self, connection: AsyncConnection, keys: Sequence[tuple[str, str]]
    ) -> Sequence[sa.Row[Any]]:
        return (await connection.execute(_KNOWN, {"keys": json.dumps(keys)})).all()

    async def put(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        await connection.execute(_PUT, rows)

    def reader(self, storage: Storage) -> Reader:
        return SqliteReader(storage)

    def writer(self, storage: Storage, clock: Callable[[], datetime]) -> Writer:
        return Writer(storage, clock)


class SqliteReader(Reader):
    """Reads the range of ids since the last read, once for all followed topics."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self._last = 0

    def _watch(self) -> Watch:
        return Watch(self._storage.engine, self._wake.set, self._head)

    def _head(self) -> Head:
        return self._epoch, self._trims, self._last

    async def _states(self, topics: str) -> Sequence[sa.Row[Any]]:
        return await self._storage.read(_STATES, {"topics": topics})

    def _begin_after(self, row: sa.Row[Any]) -> None:
        super()._begin_after(row)
        self._last = row.head

    async def _read(self) -> bool:
        values = {"last": self._last, "topics": self._names(), "rows": ROWS}
        rows = await self._storage.read(NEW, values)
        first = rows[0]
        if first.epoch != self._epoch or first.head < self._last:
            await self._begin_anew()
            return True
        if first.trims != self._trims:
            await self._look_for_losses()
        fresh: dict[str, list[Record]] = defaultdict(list)
        for row in rows:
            if row.id is not None and row.name in self._topics:
                fresh[row.name].append(record_of(row.name, row))
        full = len(rows) == ROWS
        self._last = rows[-1].id if full else first.head
        for topic, records in fresh.items():
            self._hand_over(topic, records)
        return full

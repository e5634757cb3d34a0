"""The event log on SQLite: statements, following, and the watch of the file.

One writer at a time holds the file, so the ids of events are in the order of commits. One range of
ids holds what is new for all topics.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateIndex, CreateTable

from headwater.eventlog.sql._reader import ROWS, SqlReader
from headwater.eventlog.sql._storage import Dialect, Row, Storage
from headwater.eventlog.sql._tables import END, METADATA
from headwater.eventlog.sql._writer import LOCK
from headwater.sql.sqlite._file_reader import State
from headwater.sql.sqlite._watch import Watched

# Epoch, count of trims, highest id ever given out, and when its event was appended: what changes
# with every commit to the log, and when the file goes back and is written to again.
Head = tuple[str, int, int, int | None]


class Watch(Watched):
    """Wakes a reader when something was committed that it has not read.

    Arguments:
        engine: its commits in this process wake at once.
        wake: called in the event loop.
        known: the head that the reader has. Called in the watch's thread.
    """

    query = (
        "SELECT 'log', l.epoch, l.trims, coalesce(s.seq, 0), h.at FROM headwater_log AS l"
        " LEFT JOIN sqlite_sequence AS s ON s.name = 'headwater_events'"
        " LEFT JOIN headwater_events AS h ON h.id = s.seq WHERE l.id = 1"
    )
    # The reader reports why the file cannot be read.
    wake_on_failure = True

    def __init__(
        self, engine: AsyncEngine, wake: Callable[[], None], known: Callable[[], Head | None]
    ) -> None:
        self._known = known
        super().__init__([engine.sync_engine], "headwater_events", wake, "log")

    def position(self) -> None:
        """Nothing: the state alone says whether the reader has read it."""

    def on_state(self, state: State, before: None) -> Callable[[], None] | None:
        # A wiped log has no state, which is no reader's head.
        return None if state == self._known() else self.wake


# From all three tables, so that it fails if one is missing.
_EPOCH = sa.text(
    "SELECT epoch, (SELECT 1 FROM headwater_topics LIMIT 1),"
    " (SELECT 1 FROM headwater_events LIMIT 1) FROM headwater_log WHERE id = 1"
)
# One statement, so that records and bounds are of one moment.
_BOUNDS = (
    f"SELECT l.epoch, t.id, {END} FROM headwater_log AS l"  # noqa: S608 - all are constants
    " LEFT JOIN headwater_topics AS t ON t.name = :topic WHERE l.id = 1"
)
_RUN = (
    f"WITH t AS MATERIALIZED ({_BOUNDS})"  # noqa: S608
    " SELECT t.*, e.number, e.at, e.size, e.key, e.data FROM t"
    " LEFT JOIN headwater_events AS e ON e.topic_id = t.id AND e.number {beyond} :number"
    " ORDER BY e.number {order} LIMIT :rows"
)

# head is the highest id ever given out, also when the newest rows were trimmed.
# CROSS JOIN and + keep SQLite's planner on the range of ids: it would rather read all of the
# followed topics and sort.
# head_at and place_at are of the events at the head and at :last, of any topic.
_HEAD = (
    "SELECT l.epoch, l.trims, coalesce(s.seq, 0) AS head, h.at AS head_at, {columns}"
    " FROM headwater_log AS l LEFT JOIN sqlite_sequence AS s ON s.name = 'headwater_events'"
    " LEFT JOIN headwater_events AS h ON h.id = s.seq"
)
NEWS = sa.text(
    _HEAD.format(columns="p.at AS place_at, e.*")  # noqa: S608
    + " LEFT JOIN headwater_events AS p ON p.id = :last LEFT JOIN ("
    "SELECT e.id, t.name, e.number, e.at, e.size, e.key, e.data FROM headwater_events AS e"
    " CROSS JOIN headwater_topics AS t ON t.id = e.topic_id"
    " WHERE e.id > :last AND +t.name IN (SELECT value FROM json_each(:topics))"
    " ORDER BY e.id LIMIT :rows"
    ") AS e ON true WHERE l.id = 1 ORDER BY e.id"
)
_STATES = sa.text(
    _HEAD.format(columns=f"t.name, {END}, p.at AS place_at, p.size AS place_size")
    + " LEFT JOIN json_each(:places) AS j"
    " LEFT JOIN headwater_topics AS t ON t.name = json_extract(j.value, '$[0]')"
    " LEFT JOIN headwater_events AS p"
    " ON p.topic_id = t.id AND p.number = json_extract(j.value, '$[1]') WHERE l.id = 1"
)

_INSERT = sa.text(
    "INSERT INTO headwater_events (topic_id, number, at, size, key, part, data)"
    " VALUES (:topic_id, :number, :at, :size, :key, :part, :data)"
)


class SqliteDialect(Dialect):
    """SQLite 3.35 and later."""

    name = "event log (sqlite)"
    bounds = sa.text(_BOUNDS)
    after = sa.text(_RUN.format(beyond=">=", order=""))
    before = sa.text(_RUN.format(beyond="<", order="DESC"))
    states = _STATES
    # A transaction that holds one topic holds the file.
    lock_free = LOCK
    # A write comes first in every append. From then on the transaction holds the lock, so that no
    # other one changes what it reads afterwards.
    reserving = sa.text(
        "INSERT INTO headwater_topics (name, latest, trimmed)"
        " SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), 0"
        " FROM json_each(:topics) WHERE true"
        " ON CONFLICT (name) DO UPDATE SET latest = latest + excluded.latest"
        " RETURNING id, name, latest, (SELECT seq FROM sqlite_sequence"
        " WHERE name = 'headwater_events') AS head"
    )
    finding_keys = sa.text(
        "SELECT t.name, e.number, e.at, e.size, e.key, e.data FROM json_each(:keys) AS k"
        " CROSS JOIN headwater_topics AS t ON t.name = json_extract(k.value, '$[0]')"
        " CROSS JOIN headwater_events AS e"
        " ON e.topic_id = t.id AND e.key = json_extract(k.value, '$[1]')"
        " ORDER BY e.number"
    )

    clearing = sa.text(
        "DELETE FROM headwater_events WHERE topic_id IN (SELECT value FROM json_each(:ids))"
    )

    def heads(
        self, topics: Mapping[str, sa.Row[Any]], counts: Mapping[str, int]
    ) -> Mapping[object, tuple[int, int]]:
        # The head of the whole log, as the ids of topics can be given out again.
        head = max(row.head or 0 for row in topics.values())
        return {"": (head, head + sum(counts[topic] for topic in topics))}

    def unavailable(self, error: BaseException) -> str | None:
        said = super().unavailable(error)
        if said is None and isinstance(error, DBAPIError) and isinstance(error.orig, sqlite3.Error):
            return f"SQLite says: {error.orig}"
        return said

    async def exists(self, connection: AsyncConnection) -> bool:
        return (await connection.execute(_EPOCH)).first() is not None

    async def create_tables(self, connection: AsyncConnection) -> None:
        for table in METADATA.sorted_tables:
            await connection.execute(CreateTable(table, if_not_exists=True))
            for index in sorted(table.indexes, key=lambda index: str(index.name)):
                await connection.execute(CreateIndex(index, if_not_exists=True))

    async def insert(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        await connection.execute(_INSERT, rows)


class SqliteReader(SqlReader):
    """Reads the range of ids since the last read, once for all followed topics."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage)
        self._last = 0
        self._last_at: int | None = None

    def _watch(self) -> Watch:
        return Watch(self._storage.engine, self._wake.set, self._head)

    def _head(self) -> Head:
        return self._epoch, self._trims, self._last, self._last_at

    def _read_from(self, row: sa.Row[Any]) -> None:
        super()._read_from(row)
        self._last, self._last_at = row.head, row.head_at

    async def _read(self) -> bool:
        values = {"last": self._last, "topics": self._followed_names(), "rows": ROWS}
        rows = await self._storage.read(NEWS, values)
        first = rows[0]
        if first.epoch != self._epoch or first.head < self._last:
            await self._begin_anew()
            return True
        if first.trims != self._trims or first.place_at != self._last_at:
            # Trimmed, or the file went back, or another program removed what stood there.
            await self._find_losses()
        fresh: dict[str, list[sa.Row[Any]]] = defaultdict(list)
        for row in rows:
            if row.id is not None:
                fresh[row.name].append(row)
        full = len(rows) == ROWS
        self._last, self._last_at = first.head, first.head_at
        if full:
            self._last, self._last_at = rows[-1].id, rows[-1].at
        await self._deliver_rows(fresh)
        return full

"""Following topics on SQLite: one range of ids holds what is new for all topics.

One writer at a time holds the file, so the ids of events are in the order of commits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from headwater.eventlog.record import Record
from headwater.eventlog.sql.reader import ROWS, SqlReader
from headwater.eventlog.sql.sqlite.watch import Head, Watch
from headwater.eventlog.sql.storage import Storage
from headwater.eventlog.sql.tables import record_of

__all__ = ["NEWS", "SqliteReader"]

# head is the highest id ever given out, also when the newest rows were trimmed.
# CROSS JOIN and + keep SQLite's planner on the range of ids: it would rather read all of the
# followed topics and sort.
NEWS = sa.text(
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


class SqliteReader(SqlReader):
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

    def _read_from(self, row: sa.Row[Any]) -> None:
        super()._read_from(row)
        self._last = row.head

    async def _read(self) -> bool:
        values = {"last": self._last, "topics": self._followed_names(), "rows": ROWS}
        rows = await self._storage.read(NEWS, values)
        first = rows[0]
        if first.epoch != self._epoch or first.head < self._last:
            await self._begin_anew()
            return True
        if first.trims != self._trims:
            await self._find_losses()
        fresh: dict[str, list[Record]] = defaultdict(list)
        for row in rows:
            if row.id is not None:
                fresh[row.name].append(record_of(row.name, row))
        full = len(rows) == ROWS
        self._last = rows[-1].id if full else first.head
        for topic, records in fresh.items():
            self._deliver(topic, records)
        return full

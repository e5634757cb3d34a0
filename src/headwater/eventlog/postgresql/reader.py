"""Following topics on PostgreSQL: what changed for all topics is one statement.

There is no order of commits over all topics. So a read asks which topics have events that the last
read's snapshot did not show, which is exact also for transactions that stay open for long, and then
for the events of those that are followed, each after the number that its followers were told. A
topic's numbers are in the order of its commits, so nothing can come in below that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from headwater.eventlog.postgresql.notices import CHANNEL
from headwater.eventlog.record import Record
from headwater.eventlog.sql_reader import ROWS, Reader, Watcher
from headwater.eventlog.sql_storage import Storage
from headwater.eventlog.sql_tables import record_of
from headwater.sql.postgresql.snapshot import TransactionSnapshot
from headwater.sql.postgresql.watch import watch_channel

if TYPE_CHECKING:
    from headwater.eventlog.postgresql.dialect import PostgresDialect

__all__ = ["PostgresReader"]

# Seconds between two looks while all seems well: for notices that were never sent, because their
# process was killed, or that a pooler swallows.
LOOK_ANYWAY = 1.0


class PostgresReader(Reader):
    """Reads which topics changed since a snapshot, then what is new in those that are followed."""

    def __init__(self, storage: Storage, dialect: PostgresDialect) -> None:
        super().__init__(storage)
        self._dialect = dialect
        self._seen = TransactionSnapshot(0)
        self._news = 0
        # Topics whose events are still to be read: id, and the latest number known of.
        self._behind: dict[str, tuple[int, int]] = {}

    def _watch(self) -> Watcher:
        notices = self._dialect.notices
        return watch_channel(
            self._storage.engine,
            None if notices is None else CHANNEL,
            "headwater_events",
            self._wake.set,
            lambda: self._news,
            sender=None if notices is None else notices.sender,
            anyway=LOOK_ANYWAY,
        )

    async def _states(self, topics: str) -> Sequence[sa.Row[Any]]:
        return await self._storage.read(self._dialect.asks.states, {"topics": topics})

    def _begin_after(self, row: sa.Row[Any]) -> None:
        super()._begin_after(row)
        self._seen = _snapshot(row)
        self._behind.clear()

    async def _read(self) -> bool:
        running = ",".join(map(str, self._seen.running))
        values = {"beginning": str(self._seen.xmax), "running": f"{{{running}}}"}
        rows = await self._storage.read(self._dialect.asks.find, values)
        if rows[0].epoch != self._epoch:
            self._storage.look_again()
            await self._begin_anew()
            return True
        if rows[0].trims != self._trims:
            await self._look_for_losses()
        for row in rows:
            if row.id is not None and row.latest > self._told(row.name, row.latest):
                self._behind[row.name] = (row.id, row.latest)
        self._seen = _snapshot(rows[0])
        if not self._behind:
            return False
        self._news += 1
        return await self._catch_up()

    def _told(self, topic: str, otherwise: int) -> int:
        """The number up to which all followers of a topic were told."""
        return min((one.number for one in self._topics.get(topic, ())), default=otherwise)

    async def _catch_up(self) -> bool:
        """Hand over the next events of topics that are behind; True if there are more."""
        asked: list[str] = []
        told: list[int] = []
        for topic, (_, latest) in tuple(self._behind.items()):
            number = self._told(topic, latest)
            if number >= latest:
                del self._behind[topic]
            elif len(asked) < ROWS:
                asked.append(topic)
                told.append(number)
        if not asked:
            return False
        ids = [self._behind[topic][0] for topic in asked]
        values = {"ids": ids, "told": told, "rows": ROWS}
        rows = await self._storage.read(self._dialect.asks.next, values)
        if (rows[0].epoch, rows[0].trims) != (self._epoch, self._trims):
            return True  # the next read looks into it first
        fresh: dict[str, list[Record]] = defaultdict(list)
        for row in rows:
            if row.place is not None:
                topic = asked[row.place - 1]
                fresh[topic].append(record_of(topic, row))
        if len(rows) == ROWS:
            # The last one may have more: it goes to the end, so that it does not hold up others.
            last = rows[-1].place - 1
            entry = self._behind.pop(asked[last])
            self._behind[asked[last]] = entry
            asked = asked[:last]
        for topic in asked:
            self._behind.pop(topic, None)
        for topic, records in fresh.items():
            self._hand_over(topic, records)
        return bool(self._behind)


def _snapshot(row: sa.Row[Any]) -> TransactionSnapshot:
    """What was seen, up to the latest event.

    After a crash PostgreSQL gives transaction ids again that were used shortly before it, by what
    was rolled back. Those up to a commit that was seen are not among them.
    """
    seen = TransactionSnapshot.from_postgres(row.head)
    if row.standby:
        # A standby does not tell which transactions run, only below which one none does. To find
        # a topic again that has nothing new costs little.
        seen = TransactionSnapshot(int(row.head.partition(":")[0]))
    return seen.cut(0 if row.newest is None else row.newest + 1)

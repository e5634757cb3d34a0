"""Following topics on PostgreSQL: one statement finds what changed in all topics.

Commits have no order over all topics. So a read first finds the topics with events that the last
read's snapshot did not show. This is exact even for transactions that stay open for long. Then it
reads the new events of followed topics, each after the last number that its followers have. A
topic's numbers are in the order of its commits, so no event can appear below that number.

``Notices`` notifies other processes of commits, so that they need not poll. A notice wakes a reader
and has no data. It is sent after the commit, in a transaction of its own: on the whole server only
one transaction with a NOTIFY commits at a time, and appends would queue for that. If a process is
killed in between, the others find its last commits at their next poll.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from headwater.eventlog._record import mark_of
from headwater.eventlog.sql._reader import ROWS, SqlReader
from headwater.eventlog.sql._storage import Storage
from headwater.eventlog.sql.postgresql._dialect import NOTIFY, PostgresDialect
from headwater.sql._commits import commits_of
from headwater.sql._reader import CommitWatch
from headwater.sql.postgresql._snapshot import TransactionSnapshot
from headwater.sql.postgresql._watch import ChannelWatch

_log = logging.getLogger(__name__)

CHANNEL = "headwater_log"

# Least time between two notices, in seconds: one covers all commits before it.
PACE = 0.01


class Notices:
    """The notices of one log in this process.

    Arguments:
        storage: the log's. Notices begin when it is opened.

    Attributes:
        sender: the notices' content, by which a process ignores its own.
    """

    def __init__(self, storage: Storage) -> None:
        storage.opened = self._begin
        self._storage = storage
        self.sender = secrets.token_hex(6)
        self._end: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._due = False

    def _begin(self) -> None:
        """From now on notify of each commit of events through the engine. Idempotent."""
        if self._end is not None:
            return
        loop = asyncio.get_running_loop()

        def committed() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._committed)

        self._end = commits_of(self._storage.engine.sync_engine).add("headwater_events", committed)

    async def close(self) -> None:
        """Send the notice that is due."""
        await asyncio.sleep(0)  # a commit of just now reaches the loop
        if self._end is not None:
            self._end()
            self._end = None
        if self._task is not None:
            await asyncio.wait([self._task])

    def _committed(self) -> None:
        self._due = True
        if self._task is None and self._end is not None:
            self._task = asyncio.create_task(self._send(), name=f"{self._storage.name}: notices")

    async def _send(self) -> None:
        try:
            while self._due:
                self._due = False
                try:
                    await self._storage.read(NOTIFY, {"sender": self.sender})
                except Exception as error:
                    _log.debug("%s: no notice could be sent: %s", self._storage.name, error)
                await asyncio.sleep(PACE)
        finally:
            self._task = None


# Seconds between two polls although notices come: a killed process sends none, and a pooler may
# lose some.
POLL_ANYWAY = 1.0


class PostgresReader(SqlReader):
    """Finds the topics that changed since a snapshot, then reads what is new in followed ones.

    Arguments:
        storage: the log's.
        dialect: its statements.
        notices: those that this process sends; None if no process notifies.
    """

    def __init__(self, storage: Storage, dialect: PostgresDialect, notices: Notices | None) -> None:
        super().__init__(storage)
        self._dialect = dialect
        self._notices = notices
        self._seen = TransactionSnapshot(0)
        self._news = 0
        # Topics whose events are still to be read, with id and latest known number.
        self._behind: dict[str, tuple[int, int]] = {}

    async def close(self) -> None:
        """Send the notices that are due, then stop following."""
        if self._notices is not None:
            await self._notices.close()
        await super().close()

    def _watch(self) -> CommitWatch:
        notices = self._notices
        return ChannelWatch(
            self._storage.engine,
            None if notices is None else CHANNEL,
            "headwater_events",
            self._wake.set,
            lambda: self._news,
            sender=None if notices is None else notices.sender,
            anyway=POLL_ANYWAY,
        )

    def _read_from(self, row: sa.Row[Any]) -> None:
        super()._read_from(row)
        self._seen = _snapshot(row)
        self._behind.clear()

    async def _read(self) -> bool:
        running = ",".join(map(str, self._seen.running))
        values = {"beginning": str(self._seen.xmax), "running": f"{{{running}}}"}
        rows = await self._storage.read(self._dialect.find, values)
        if rows[0].epoch != self._epoch:
            self._storage.forget()
            await self._begin_anew()
            return True
        if rows[0].trims != self._trims:
            await self._find_losses()
        for row in rows:
            followed = self._topics.get(row.name)
            if followed is not None:
                end = (row.latest, mark_of(row.end_at, row.end_size))
                if end != (followed.last[0], followed.mark):
                    self._behind[row.name] = (row.id, row.latest)
        self._seen = _snapshot(rows[0])
        if not self._behind:
            return False
        self._news += 1
        return await self._catch_up()

    async def _catch_up(self) -> bool:
        """Deliver the next events of topics that are behind. Returns True if there are more."""
        asked: list[str] = []
        last: list[int] = []
        for topic, (_, latest) in tuple(self._behind.items()):
            followed = self._topics.get(topic)
            if followed is not None and latest <= followed.last[0]:
                await self._find_losses()  # its events were read meanwhile, or it went back
            if followed is None or followed.last[0] >= latest:
                del self._behind[topic]
            elif len(asked) < ROWS:
                asked.append(topic)
                last.append(followed.last[0])
        if not asked:
            return False
        ids = [self._behind[topic][0] for topic in asked]
        # Each topic's first row is the event that its followers had last.
        limit = ROWS + len(asked)
        values = {"ids": ids, "last": last, "rows": limit}
        rows = await self._storage.read(self._dialect.next, values)
        if (rows[0].epoch, rows[0].trims) != (self._epoch, self._trims):
            return True  # the next read handles that first
        fresh: dict[str, list[sa.Row[Any]]] = defaultdict(list)
        for row in rows:
            if row.place is not None:
                fresh[asked[row.place - 1]].append(row)
        if len(rows) == limit:
            # The last topic may have more. It goes to the end, so that it does not delay others.
            full = rows[-1].place - 1
            self._behind[asked[full]] = self._behind.pop(asked[full])
            asked = asked[:full]
        for topic in asked:
            self._behind.pop(topic, None)
        await self._deliver_rows(fresh)
        return bool(self._behind)


def _snapshot(row: sa.Row[Any]) -> TransactionSnapshot:
    """The transactions that were seen, up to that of the latest event.

    After a crash PostgreSQL gives out ids of transactions again that were used shortly before it
    and did not commit. Ids up to a commit that was seen are not among them.
    """
    seen = TransactionSnapshot.from_postgres(row.head)
    if row.standby:
        # A standby does not say which transactions run, only below which id none does. So topics
        # without new events are found again, which costs little.
        seen = TransactionSnapshot(int(row.head.partition(":")[0]))
    return seen.cut(0 if row.newest is None else row.newest + 1)

"""One look at a PostgreSQL database for all tables that a process follows there by an engine.

It finds what nothing reports: commits of writers that statement triggers do not see, as in logical
replication or by a partition's own name, and changes of the catalogue. It is one statement every
2 s, and every second where there are such writers, whatever the number of tables.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncEngine

from headwater.sql.postgresql._connections import ensure_first_connection, single_reads

logger = logging.getLogger("headwater.sql")

# Seconds between two looks, and where writers may go unnoticed.
EVERY = 2.0
OFTEN = 1.0

# Seconds between two comparisons of tables that nobody follows.
COMPARE_EVERY = 1.0

# After so many looks that failed, what the last one saw does not count any more.
_PATIENCE = 3

# What the tracking of a table depends on: each row of the catalogue names the transaction that
# wrote it. A snapshot that stayed the same says that nothing was written.
_LOOK = sa.text("""SELECT pg_current_snapshot()::text,
pg_is_in_recovery(),
EXISTS (SELECT FROM pg_subscription AS s JOIN pg_database AS d ON d.oid = s.subdbid
WHERE d.datname = current_database()),
CASE WHEN pg_is_in_recovery() OR pg_current_snapshot()::text <> CAST(:known AS text) THEN ARRAY(
SELECT concat_ws(' ', c.relkind, c.oid, c.xmin,
(SELECT sum(hashtextextended(a.attnum || ':' || a.xmin, 0)) FROM pg_attribute AS a
WHERE a.attrelid = c.oid AND a.attnum > 0),
(SELECT sum(hashtextextended(t.oid || ':' || t.xmin || ':' || p.xmin, 0)) FROM pg_trigger AS t
JOIN pg_proc AS p ON p.oid = t.tgfoid WHERE t.tgrelid = c.oid AND NOT t.tgisinternal),
(SELECT sum(hashtextextended(i.indexrelid || ':' || i.xmin, 0)) FROM pg_index AS i
WHERE i.indrelid = c.oid AND i.indisprimary),
(SELECT count(*) FROM pg_inherits AS h WHERE h.inhparent = c.oid))
FROM unnest(:names) WITH ORDINALITY AS n(name, nth)
LEFT JOIN pg_class AS c ON c.oid = to_regclass(n.name) ORDER BY n.nth) END""").bindparams(
    sa.bindparam("names", type_=ARRAY(sa.Text))
)


class CatalogueWatch:
    """Says when the tracking of tables is to be compared with what it should be.

    While the tables are followed, that is when the catalogue changed; else once a second.
    """

    def __init__(self) -> None:
        self.tables: Sequence[str] = ()
        self.wake: Callable[[], None] = lambda: None
        self._looks: _Looks | None = None
        self._next = 0.0
        # What the catalogue had when they were compared last, and what it has now.
        self._compared: object = None
        self._state: object = None

    def follow(self, engine: AsyncEngine, tables: Sequence[str], wake: Callable[[], None]) -> None:
        """Look at these tables of an engine's database, until ``stop``.

        Arguments:
            tables: their names as SQL.
            wake: called when something may have been committed.
        """
        self.tables, self.wake = tables, wake
        self._looks = _looks.get(_key_of(engine)) or _Looks(engine)
        self._looks.add(self)

    def is_due(self) -> bool:
        """Whether to compare now."""
        now = asyncio.get_running_loop().time()
        self._state = None if self._looks is None else self._looks.state_of(self.tables)
        return now >= self._next if self._state is None else self._state != self._compared

    def note(self) -> None:
        """Note that they were compared, and that nothing was wrong."""
        self._next = asyncio.get_running_loop().time() + COMPARE_EVERY
        self._compared = self._state

    def soon(self) -> None:
        """Compare at the next read."""
        self._next, self._compared = 0.0, None

    async def stop(self) -> None:
        """Follow them no more. Idempotent."""
        looks, self._looks = self._looks, None
        if looks is not None:
            await looks.remove(self)


class _Looks:
    """The looks of one engine at its database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._key = _key_of(engine)
        self._engine = engine
        self._reading = single_reads(engine)
        self._followed: set[CatalogueWatch] = set()
        self._states: dict[str, str] = {}
        self._snapshot = ""
        self._until = 0.0
        self._every = EVERY
        self._news = asyncio.Event()
        self._stopping = False
        self._task = asyncio.get_running_loop().create_task(self._run(), name="headwater looks")
        _looks[self._key] = self

    def add(self, followed: CatalogueWatch) -> None:
        self._followed.add(followed)
        if any(table not in self._states for table in followed.tables):
            self._news.set()

    async def remove(self, followed: CatalogueWatch) -> None:
        self._followed.discard(followed)
        if self._followed or self._stopping:
            return
        self._stopping = True
        if _looks.get(self._key) is self:
            del _looks[self._key]
        self._news.set()
        # A look that is cancelled would cost its connection; it ends soon by itself.
        await asyncio.wait([self._task], timeout=2.0)
        self._task.cancel()
        await asyncio.wait([self._task], timeout=2.0)

    def state_of(self, tables: Sequence[str]) -> tuple[str, ...] | None:
        if asyncio.get_running_loop().time() > self._until:
            return None
        found = tuple(self._states.get(table, "") for table in tables)
        return found if all(found) else None

    async def _run(self) -> None:
        while not self._stopping:
            self._news.clear()
            try:
                await self._look()
            except Exception as error:
                # A reader that reads says so.
                logger.debug("cannot look at the database: %s", error)
                self._states, self._snapshot = {}, ""
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every):
                    await self._news.wait()

    async def _look(self) -> None:
        names = sorted({table for each in self._followed for table in each.tables})
        known = self._snapshot if all(name in self._states for name in names) else ""
        await ensure_first_connection(self._engine)
        async with self._reading.connect() as connection:
            given = {"known": known, "names": names}
            row = (await connection.execute(_LOOK, given)).one()
        snapshot, standby, replicated, states = row
        if states is not None:
            self._states = {
                name: state or "none" for name, state in zip(names, states, strict=True)
            }
        partitioned = any(state.startswith("p") for state in self._states.values())
        self._every = OFTEN if replicated or partitioned else EVERY
        self._until = asyncio.get_running_loop().time() + _PATIENCE * self._every
        moved = not standby and snapshot != self._snapshot
        self._snapshot = snapshot
        if moved:
            for each in tuple(self._followed):
                each.wake()


def _key_of(engine: AsyncEngine) -> tuple[int, sa.Engine]:
    # Two engines of one address may have different search_paths.
    return id(asyncio.get_running_loop()), engine.sync_engine


_looks: dict[tuple[int, sa.Engine], _Looks] = {}

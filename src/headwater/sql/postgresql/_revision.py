"""Whether anything was committed to a PostgreSQL database since it was asked before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable

from sqlalchemy.ext.asyncio import AsyncEngine

from headwater.feeds._shared_calls import CoalescedCall
from headwater.sql.postgresql._connections import Shared, shared_by
from headwater.sql.postgresql._drivers import OwnConnection, open_connection

# Seconds that the server may take.
PATIENCE = 5.0

logger = logging.getLogger("headwater.sql")

# A snapshot names all transactions that are over: while it stays equal, so does all that can be
# read. On a standby it does not name all that run.
_ASK = (
    "SELECT pg_catalog.pg_current_snapshot()::text, pg_catalog.pg_is_in_recovery(), "
    "pg_catalog.pg_postmaster_start_time()::text"
)


class Revision:
    """Answers with a value that stays equal until somebody commits to the database.

    The first call of ``ask`` opens a connection of its own. When it breaks, the value changes too:
    after a crash the server may use the ids of transactions that were lost again.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._key = shared_by(engine)
        self._engine = engine
        self._users = 0
        self._gathered = CoalescedCall(self._answer)
        self._own: OwnConnection | None = None
        # A new object for each opened connection.
        self._opened = object()
        _revisions[self._key] = self

    def acquire(self) -> None:
        """Keep it until ``release`` was called as often."""
        self._users += 1

    async def release(self) -> None:
        """Undo ``acquire``."""
        self._users -= 1
        if not self._users:
            if _revisions.get(self._key) is self:
                del _revisions[self._key]
            # A read that is under way ends by itself.
            await self._gathered.ask()
            await self._drop()

    async def ask(self) -> Hashable | None:
        """The value, read after this call began; None if the server does not answer."""
        return await self._gathered.ask()

    async def _answer(self) -> Hashable | None:
        for _ in range(2):
            known = self._own is not None
            reading = asyncio.ensure_future(self._read())
            await asyncio.wait([reading], timeout=PATIENCE)
            if not reading.done():
                await self._give_up(reading)
            elif reading.exception() is None:
                return reading.result()
            # The caller then reads a page, which raises what is wrong.
            logger.debug("cannot ask for the revision; the connection is dropped")
            await self._drop()
            if not known:
                break
        return None

    async def _give_up(self, reading: asyncio.Future[Hashable | None]) -> None:
        """End a read that the server does not answer."""
        if self._own is None:
            reading.cancel()
        else:
            self._own.break_off()
        await asyncio.wait([reading], timeout=PATIENCE)
        if reading.done() and not reading.cancelled():
            reading.exception()

    async def _read(self) -> Hashable | None:
        if not self._users:
            return None
        if self._own is None:
            self._own = await open_connection(self._engine)
            self._opened = object()
        snapshot, standby, started = await self._own.ask(_ASK)
        return None if standby else (snapshot, started, self._opened)

    async def _drop(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            await own.close()


_revisions: dict[Shared, Revision] = {}


def revision_of(engine: AsyncEngine) -> Revision:
    """The revision of an engine's database, acquired, one for each database and event loop."""
    revision = _revisions.get(shared_by(engine)) or Revision(engine)
    revision.acquire()
    return revision

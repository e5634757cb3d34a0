"""Whether anything was committed to a database since somebody looked."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Hashable
from contextlib import suppress
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from headwater.feeds.gathered import Gathered
from headwater.sql.postgresql.connections import separate_pool

__all__ = ["Revision", "revision_of"]

# Seconds that the server may take.
_PATIENCE = 5.0

logger = logging.getLogger("headwater.sql")

# A snapshot names all transactions that are over: while it is the same, so is whatever can be read.
# On a standby it does not name all that are not.
_LOOK = (
    "SELECT pg_catalog.pg_current_snapshot()::text, pg_catalog.pg_is_in_recovery(), "
    "pg_catalog.pg_postmaster_start_time()::text"
)


class Revision:
    """Equal for as long as nobody commits anything to one database.

    It has a connection of its own, once somebody asks. One that breaks takes what was known along:
    a server that broke down may give the numbers of transactions that it lost to others.
    """

    def __init__(self, key: tuple[int, str], engine: AsyncEngine) -> None:
        self._key = key
        self._engine = engine
        self._users = 0
        self._gathered = Gathered(self._answer)
        self._own: AsyncEngine | None = None
        self._held: AsyncConnection | None = None
        self._driver: Any = None
        # One for each opened connection, and for no other.
        self._opened = object()

    def use(self) -> None:
        """Keep it until ``let_go`` was called as often."""
        self._users += 1

    async def let_go(self) -> None:
        """Undo ``use``."""
        self._users -= 1
        if not self._users:
            if _revisions.get(self._key) is self:
                del _revisions[self._key]
            # A look that is under way ends by itself.
            await self._gathered.ask()
            await self._drop()

    async def ask(self) -> Hashable | None:
        """The revision, looked at after this was called; None if the server cannot tell now."""
        return await self._gathered.ask()

    async def _answer(self) -> Hashable | None:
        for _ in range(2):
            known = self._driver is not None
            looking = asyncio.ensure_future(self._look())
            await asyncio.wait([looking], timeout=_PATIENCE)
            if not looking.done():
                await self._give_up(looking)
            elif looking.exception() is None:
                return looking.result()
            # Whoever wants to know reads a page, and is told then what is wrong.
            logger.debug("cannot look for commits; the connection is dropped")
            await self._drop()
            if not known:
                break
        return None

    async def _give_up(self, looking: asyncio.Future[Hashable | None]) -> None:
        """End a look that is not answered."""
        if self._driver is None:
            looking.cancel()
        else:
            # The driver does not let go of a statement that is cancelled before its server does.
            with suppress(OSError), socket.socket(fileno=os.dup(self._driver.fileno())) as its:
                its.shutdown(socket.SHUT_RDWR)
        await asyncio.wait([looking], timeout=_PATIENCE)
        if looking.done() and not looking.cancelled():
            looking.exception()

    async def _look(self) -> Hashable | None:
        if not self._users:
            return None
        if self._driver is None:
            await self._open()
        cursor = await self._driver.execute(_LOOK, prepare=False)
        snapshot, standby, started = await cursor.fetchone()
        return None if standby else (snapshot, started, self._opened)

    async def _open(self) -> None:
        self._own = separate_pool(self._engine)
        self._held = await self._own.connect()
        raw = await self._held.get_raw_connection()
        driver: Any = raw.driver_connection
        await driver.set_autocommit(True)
        self._driver = driver
        self._opened = object()

    async def _drop(self) -> None:
        held, own = self._held, self._own
        self._held = self._own = self._driver = None
        with suppress(Exception):
            if held is not None:
                await held.invalidate()
                await held.close()
            if own is not None:
                await own.dispose()


_revisions: dict[tuple[int, str], Revision] = {}


def revision_of(engine: AsyncEngine) -> Revision:
    """The one of an engine's database, for the running event loop. Used from now on."""
    key = (id(asyncio.get_running_loop()), engine.url.render_as_string(hide_password=False))
    revision = _revisions.get(key)
    if revision is None:
        revision = _revisions[key] = Revision(key, engine)
    revision.use()
    return revision

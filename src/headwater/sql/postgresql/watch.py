"""Watches a PostgreSQL database for commits, by ``LISTEN`` or by polling.

A commit of this process wakes its readers at once. For other processes one connection per database
and event loop listens for all tables and event logs. A notification says at most who sent it; the
reader then reads what was committed.

A hot standby has no NOTIFY, ``track(notify=False)`` uses none, and the connection may be lost. Then
the tail polls every 50 ms, and less often, down to once a second, while it finds nothing. It also
polls now and then while the connection listens: a pooler in between may drop notifications.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from headwater.sql.commits import commits_of
from headwater.sql.postgresql.connections import separate_pool
from headwater.sql.reader import CommitWatch
from headwater.sql.tracking import quote

logger = logging.getLogger("headwater.sql")

# Seconds between two polls without notifications: the first pause, and the longest.
POLL_FIRST = 0.05
POLL_LONGEST = 1.0
# The same while the connection listens.
POLL_LISTENING = 1.0

# Seconds until the next try to listen: the first pause after a loss, and the longest.
_RETRY_FIRST = 0.1
_RETRY_LONGEST = 5.0

# Seconds between two checks of the listening connection: for new channels, and whether it lives.
_TICK = 0.5
_PING = 15.0
_PATIENCE = 5.0


class ChannelWatch(CommitWatch):
    """Calls ``wake`` when there may be something new in a table or event log, until it is stopped.

    Arguments:
        engine: reads, and listens.
        name: the channel on which others notify; None if nobody does.
        table: commits of this process that write to it wake at once.
        wake: called in the event loop.
        known: returns what the reader has; polls become rarer while it stays the same.
        writers: the engines of this process that write, if not ``engine`` alone.
        sender: ignore notifications that carry this: this process sent them.
        anyway: seconds between polls while the connection listens.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        name: str | None,
        table: str,
        wake: Callable[[], None],
        known: Callable[[], object],
        *,
        writers: Sequence[sa.Engine] | None = None,
        sender: str | None = None,
        anyway: float | None = None,
    ) -> None:
        self.channel = name
        self.wake = wake
        self._sender = sender
        self._anyway = anyway
        self._known = known
        loop = asyncio.get_running_loop()
        every = [engine.sync_engine] if writers is None else writers
        self._ends = [commits_of(one).add(table, wake, loop) for one in every]
        self._seen: object = None
        self._wait = POLL_FIRST
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        key = (id(loop), engine.url.render_as_string(hide_password=False))
        self._listener = _listeners.get(key) or _Listener(key, engine)
        self.poll_soon()
        self._listener.add(self)

    def concerns(self, channel: str, payload: str) -> bool:
        """Whether to wake for a notification: not for one that this process sent."""
        return channel == self.channel and (self._sender is None or payload != self._sender)

    def poll_soon(self) -> None:
        """Poll often from now on."""
        self._wait = POLL_FIRST
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._stopped:
            anyway = POLL_LISTENING if self._anyway is None else self._anyway
            wait = anyway if self.channel in self._listener.listening else self._wait
            self._timer = asyncio.get_running_loop().call_later(wait, self._poll)

    def _poll(self) -> None:
        known = self._known()
        self._wait = POLL_FIRST if known != self._seen else min(2 * self._wait, POLL_LONGEST)
        self._seen = known
        self.wake()
        self._schedule()

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        for end in self._ends:
            end()
        await self._listener.remove(self)


class _Listener:
    """The connection that listens for all channels of one database.

    Attributes:
        listening: the channels on which notifications arrive just now.
    """

    def __init__(self, key: tuple[int, str], engine: AsyncEngine) -> None:
        self.listening: frozenset[str] = frozenset()
        self._key = key
        self._engine = engine
        self._watches: set[ChannelWatch] = set()
        self._task: asyncio.Task[None] | None = None
        _listeners[key] = self

    def add(self, watch: ChannelWatch) -> None:
        self._watches.add(watch)
        if self._task is None and watch.channel is not None:
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name="headwater listener"
            )

    async def remove(self, watch: ChannelWatch) -> None:
        self._watches.discard(watch)
        if self._watches:
            return
        if _listeners.get(self._key) is self:
            del _listeners[self._key]
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=2.0)

    async def _run(self) -> None:
        delay = _RETRY_FIRST
        while True:
            try:
                await self._listen()
            except Exception as error:
                # The server is away, or a standby. A reader that reads says so.
                logger.debug("cannot listen for commits: %s", error)
            if self.listening:
                delay = _RETRY_FIRST
            self.listening = frozenset()
            for watch in tuple(self._watches):
                watch.poll_soon()
            await asyncio.sleep(delay)
            delay = min(2 * delay, _RETRY_LONGEST)

    async def _listen(self) -> None:
        own = separate_pool(self._engine)
        try:
            async with own.connect() as connection:
                try:
                    raw = await connection.get_raw_connection()
                    await self._receive(raw.driver_connection)
                finally:
                    await connection.invalidate()
        finally:
            await own.dispose()

    async def _receive(self, driver: Any) -> None:
        loop = asyncio.get_running_loop()
        await driver.set_autocommit(True)
        alive = loop.time()
        while True:
            await self._subscribe(driver)
            # psycopg keeps what arrives between two rounds for the next one.
            async for notification in driver.notifies(timeout=_TICK):
                alive = loop.time()
                for watch in tuple(self._watches):
                    if watch.concerns(notification.channel, notification.payload):
                        watch.wake()
            if loop.time() - alive > _PING:
                async with asyncio.timeout(_PATIENCE):
                    await driver.execute("SELECT 1")
                alive = loop.time()

    async def _subscribe(self, driver: Any) -> None:
        wanted = {one.channel for one in self._watches if one.channel is not None}
        for name in sorted(wanted - self.listening):
            await driver.execute(f"LISTEN {quote(name)}")
            self.listening |= {name}
            for watch in self._watches:
                if watch.channel == name:
                    # For what was committed before.
                    watch.wake()
        for name in self.listening - wanted:
            await driver.execute(f"UNLISTEN {quote(name)}")
            self.listening -= {name}


_listeners: dict[tuple[int, str], _Listener] = {}

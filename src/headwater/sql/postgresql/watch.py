"""Notices commits: of this process at once, of others by ``LISTEN``, and by looking.

One connection per database and event loop listens for all tables and event logs. A notification
carries at most who sent it: what was committed is then read. Where nobody notifies, the connection
is lost, or the server is a standby, the tail reads every 50 ms, and less often, down to once a
second, while it finds nothing. It also reads now and then while all seems well: a pooler between us
and the server may swallow notifications.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from headwater.sql.commits import commits_of
from headwater.sql.postgresql.connections import separate_pool
from headwater.sql.postgresql.schema import channel, quote
from headwater.sql.reader import Follow, Head
from headwater.sql.tracked import Tracking

__all__ = ["LOOK_FIRST", "LOOK_LONGEST", "LOOK_ANYWAY", "follow", "follow_channel"]

logger = logging.getLogger("headwater.sql")

# Seconds between two looks where nobody notifies.
LOOK_FIRST = 0.05
LOOK_LONGEST = 1.0
# The same while we listen.
LOOK_ANYWAY = 5.0

# Seconds until the next try to listen: after a loss, and at most.
_RETRY_FIRST = 0.1
_RETRY_LONGEST = 5.0

# Seconds after which the listening connection is looked after: new tables, and whether it lives.
_TICK = 0.5
_PING = 15.0
_PATIENCE = 5.0


class _PostgreSQLFollow(Follow):
    """What is followed on one channel: a table or an event log."""

    def __init__(
        self,
        listener: _Listener,
        notified_on: str | None,
        wake: Callable[[], None],
        known: Callable[[], object],
        ends: Sequence[Callable[[], None]],
        sender: str | None = None,
        anyway: float | None = None,
    ) -> None:
        self.channel = notified_on
        self.wake = wake
        self.sender = sender
        self._anyway = anyway
        self._listener = listener
        self._known = known
        self._ends = ends
        self._seen: object = None
        self._wait = LOOK_FIRST
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self.look_soon()

    def heeds(self, channel: str, payload: str) -> bool:
        """Whether a notification concerns it; what its own process sends does not."""
        return channel == self.channel and (self.sender is None or payload != self.sender)

    def look_soon(self) -> None:
        """Begin to look often."""
        self._wait = LOOK_FIRST
        self._again()

    def _again(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._stopped:
            anyway = LOOK_ANYWAY if self._anyway is None else self._anyway
            wait = anyway if self.channel in self._listener.listening else self._wait
            self._timer = asyncio.get_running_loop().call_later(wait, self._look)

    def _look(self) -> None:
        known = self._known()
        self._wait = LOOK_FIRST if known != self._seen else min(2 * self._wait, LOOK_LONGEST)
        self._seen = known
        self.wake()
        self._again()

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
    """The connection that listens for the tables of one database.

    Attributes:
        listening: the channels that notifications come on just now.
    """

    def __init__(self, key: tuple[int, str], engine: AsyncEngine) -> None:
        self.listening: frozenset[str] = frozenset()
        self._key = key
        self._engine = engine
        self._followers: set[_PostgreSQLFollow] = set()
        self._task: asyncio.Task[None] | None = None

    def add(self, follower: _PostgreSQLFollow) -> None:
        self._followers.add(follower)
        if self._task is None and follower.channel is not None:
            self._task = asyncio.get_running_loop().create_task(
                self._run(), name="headwater listener"
            )

    async def remove(self, follower: _PostgreSQLFollow) -> None:
        self._followers.discard(follower)
        if self._followers:
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
                # Away, or a standby. The tails say so when they fail to read.
                logger.debug("cannot listen for commits: %s", error)
            if self.listening:
                delay = _RETRY_FIRST
            self.listening = frozenset()
            for follower in tuple(self._followers):
                follower.look_soon()
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
                for follower in tuple(self._followers):
                    if follower.heeds(notification.channel, notification.payload):
                        follower.wake()
            if loop.time() - alive > _PING:
                async with asyncio.timeout(_PATIENCE):
                    await driver.execute("SELECT 1")
                alive = loop.time()

    async def _subscribe(self, driver: Any) -> None:
        wanted = {one.channel for one in self._followers if one.channel is not None}
        for name in sorted(wanted - self.listening):
            await driver.execute(f"LISTEN {quote(name)}")
            self.listening |= {name}
            for follower in self._followers:
                if follower.channel == name:
                    # What was committed before is found now.
                    follower.wake()
        for name in self.listening - wanted:
            await driver.execute(f"UNLISTEN {quote(name)}")
            self.listening -= {name}


_listeners: dict[tuple[int, str], _Listener] = {}


def follow(
    engine: AsyncEngine,
    listen: Sequence[sa.Engine],
    tracking: Tracking,
    wake: Callable[[], None],
    known: Callable[[], Head | None],
) -> Follow:
    """As ``Reader.follow``. ``listen``: the engines of this process that write."""

    def place() -> object:
        head = known()
        return None if head is None else head.place

    return follow_channel(
        engine,
        channel(tracking) if tracking.notify else None,
        tracking.table,
        wake,
        place,
        listen=listen,
    )


def follow_channel(
    engine: AsyncEngine,
    name: str | None,
    table: str,
    wake: Callable[[], None],
    known: Callable[[], object],
    *,
    listen: Sequence[sa.Engine] | None = None,
    sender: str | None = None,
    anyway: float | None = None,
) -> Follow:
    """Call ``wake`` when there may be something new, until stopped.

    Arguments:
        engine: what is read, and listened with.
        name: the channel that others notify on; None if nobody does.
        table: commits of this process that write to it wake at once.
        known: what the reader has; looks become rarer while it stays the same.
        listen: the engines of this process that write, if not ``engine`` alone.
        sender: notifications that carry it are this process's own and wake nobody.
        anyway: seconds between looks while all seems well.
    """
    loop = asyncio.get_running_loop()

    def committed() -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(wake)

    key = (id(loop), engine.url.render_as_string(hide_password=False))
    listener = _listeners.get(key)
    if listener is None:
        listener = _listeners[key] = _Listener(key, engine)
    writers = [engine.sync_engine] if listen is None else listen
    following = _PostgreSQLFollow(
        listener,
        name,
        wake,
        known,
        [commits_of(one).add(table, committed) for one in writers],
        sender,
        anyway,
    )
    listener.add(following)
    return following

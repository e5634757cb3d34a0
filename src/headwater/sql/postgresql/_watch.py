"""Watches a PostgreSQL database for commits, by ``LISTEN`` or by polling.

A commit of this process wakes its readers at once. For other processes one connection per database
and event loop listens for all tables and event logs. A notification says at most who sent it; the
reader then reads what was committed.

A hot standby has no NOTIFY, ``track(notify=False)`` uses none, and the connection may be lost. Then
the tail polls every 50 ms, and less often, down to once a second, while it finds nothing. What goes
unnoticed while the connection listens is found by a look at the database for all tables together.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from headwater.sql._commits import commits_of
from headwater.sql._reader import CommitWatch, Tail
from headwater.sql._tracking import Tracking
from headwater.sql.postgresql._connections import Shared, shared_by
from headwater.sql.postgresql._drivers import OwnConnection, open_connection
from headwater.sql.postgresql._triggers import channel as channel_of

logger = logging.getLogger("headwater.sql")

# Seconds between two polls without notifications: the first pause, and the longest.
POLL_FIRST = 0.05
POLL_LONGEST = 1.0

# Seconds until the next try to listen: the first pause after a loss, and the longest.
_RETRY_FIRST = 0.1
_RETRY_LONGEST = 5.0

# Seconds until a notification of the probe has come, and from one probe that failed to the next.
_PROBE = 2.0
_RETRY_PROBE = 60.0

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
        anyway: seconds between polls while the connection listens; without it there are none.
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
        self._listener = _listeners.get(shared_by(engine)) or _Listener(engine)
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
            self._timer = None
        listening = self.channel in self._listener.listening
        wait = self._anyway if listening else self._wait
        if not self._stopped and wait is not None:
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


def table_watch(
    engine: AsyncEngine, writers: Sequence[sa.Engine], tracking: Tracking, tail: Tail
) -> ChannelWatch:
    """The watch of a tracked table."""
    name, wake = channel_of(tracking) if tracking.notify else None, tail.read_on
    return ChannelWatch(engine, name, tracking.table, wake, lambda: tail.head, writers=writers)


class _Listener:
    """The connection that listens for all channels of one database.

    Attributes:
        listening: the channels on which notifications arrive just now.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.listening: frozenset[str] = frozenset()
        self._key = shared_by(engine)
        self._engine = engine
        self._watches: set[ChannelWatch] = set()
        self._task: asyncio.Task[None] | None = None
        self._warned = False
        # Seconds until the next try, where it is not the usual time.
        self._retry = 0.0
        _listeners[self._key] = self

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
            retry, self._retry = self._retry, 0.0
            await asyncio.sleep(retry or delay)
            delay = min(2 * delay, _RETRY_LONGEST)

    async def _listen(self) -> None:
        own = await open_connection(self._engine)
        try:
            if await self._arrives(own):
                await self._receive(own)
        finally:
            await own.close()

    async def _arrives(self, own: OwnConnection) -> bool:
        """Whether notifications come: a pooler in transaction mode takes LISTEN and drops them."""
        probe = f"headwater_probe_{secrets.token_hex(8)}"
        await own.listen(probe)
        other = await open_connection(self._engine)
        try:
            await other.ask(f"SELECT pg_notify('{probe}', '')")
        finally:
            await other.close()
        until = asyncio.get_running_loop().time() + _PROBE
        while (left := until - asyncio.get_running_loop().time()) > 0:
            if any(channel == probe for channel, _ in await own.received(left)):
                await own.unlisten(probe)
                return True
        if not self._warned:
            self._warned = True
            logger.warning(
                "notifications of the database do not arrive, as behind a pooler in transaction "
                "mode: what other processes commit is found by polling, every %g to %g s",
                POLL_FIRST,
                POLL_LONGEST,
            )
        self._retry = _RETRY_PROBE
        return False

    async def _receive(self, own: OwnConnection) -> None:
        loop = asyncio.get_running_loop()
        alive = loop.time()
        while True:
            await self._subscribe(own)
            for channel, payload in await own.received(_TICK):
                alive = loop.time()
                for watch in tuple(self._watches):
                    if watch.concerns(channel, payload):
                        watch.wake()
            if loop.time() - alive > _PING:
                async with asyncio.timeout(_PATIENCE):
                    await own.ask("SELECT 1")
                alive = loop.time()

    async def _subscribe(self, own: OwnConnection) -> None:
        wanted = {one.channel for one in self._watches if one.channel is not None}
        for name in sorted(wanted - self.listening):
            await own.listen(name)
            self.listening |= {name}
            for watch in self._watches:
                if watch.channel == name:
                    # For what was committed before.
                    watch.wake()
        for name in self.listening - wanted:
            await own.unlisten(name)
            self.listening -= {name}


_listeners: dict[Shared, _Listener] = {}

"""Notices commits: of this process at once, of others by ``PRAGMA data_version``.

One thread per database file and process looks at the file while anything of it is followed, with
a plain ``sqlite3`` connection: the pragma takes some microseconds, and a look every 50 ms costs
less than one of aiosqlite's. The registry of tables tells which tails a commit concerns, so that a
busy table does not wake the tails of quiet ones.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

from headwater.sql.commits import commits_of
from headwater.sql.reader import Follow, Head
from headwater.sql.sqlite.place import RowPlace

__all__ = ["INTERVAL", "file_of", "follow"]

logger = logging.getLogger("headwater.sql")

# Seconds between two looks: a row of another program waits 25 ms on average.
INTERVAL = 0.05
# Seconds until the next look while the file cannot be read.
_RETRY = 0.25

# Epoch, last number, floor, retiring; None when the file itself has just been opened.
State = tuple[str, int, int, int | None] | None


def file_of(engine: sa.Engine) -> str | None:
    """The absolute path of an engine's database file; None for one in memory."""
    name = engine.url.database or ""
    query = engine.url.query
    if name.startswith("file:"):
        name = name.removeprefix("file:").partition("?")[0]
        if name.startswith("//"):
            name = "/" + name[2:].partition("/")[2]
    if name in ("", ":memory:") or query.get("mode") == "memory" or query.get("vfs") == "memdb":
        return None
    return os.path.abspath(name)  # noqa: PTH100 - resolve() would follow links and touch the disk


class _Watch:
    """The thread that looks at one file."""

    def __init__(self, path: str, interval: float) -> None:
        self._path = path
        self._interval = interval
        self._followers: dict[object, tuple[str, asyncio.AbstractEventLoop, _Call]] = {}
        self._seen: dict[object, State] = {}
        self._stop = threading.Event()
        self._ended: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._version: int | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"headwater watch {Path(path).name}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    # The two below are called with the lock of all watches held.

    def add(self, token: object, table: str, call: _Call) -> None:
        self._followers[token] = (table, asyncio.get_running_loop(), call)

    def remove(self, token: object) -> asyncio.Future[None] | None:
        """Returns what is done when the thread has ended, for the last follower."""
        self._followers.pop(token, None)
        self._seen.pop(token, None)
        if self._followers:
            return None
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        self._ended.append((loop, ended))
        self._stop.set()
        return ended

    def _run(self) -> None:
        wait = self._interval
        while not self._stop.wait(wait):
            try:
                self._look()
                wait = self._interval
            except (OSError, sqlite3.Error) as error:
                # Away, locked or being replaced. The tails say so when they fail to read.
                logger.debug("%s cannot be watched: %s", self._path, error)
                self._close()
                wait = max(self._interval, _RETRY)
            with _lock:
                for token, (_, loop, _) in tuple(self._followers.items()):
                    if loop.is_closed():
                        del self._followers[token]
                if not self._followers and not self._stop.is_set():
                    self._stop.set()
                    if _watches.get(self._path) is self:
                        del _watches[self._path]
        self._close()
        with _lock:
            for loop, ended in self._ended:
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(_finish, ended)

    def _look(self) -> None:
        status = os.stat(self._path)  # noqa: PTH116
        identity = (status.st_dev, status.st_ino)
        if self._connection is None or identity != self._identity:
            self._close()
            self._connection = sqlite3.connect(
                f"{Path(self._path).as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None
            )
            self._identity = identity
            self._tell(None)
        version = self._connection.execute("PRAGMA data_version").fetchall()[0][0]
        if version == self._version:
            return
        rows = self._connection.execute(
            "SELECT name, epoch, last, floor, retiring FROM headwater_tables"
        ).fetchall()
        self._version = version
        self._tell({name: tuple(state) for name, *state in rows})

    def _tell(self, states: dict[str, State] | None) -> None:
        with _lock:
            for token, (table, loop, call) in self._followers.items():
                state = None if states is None else states.get(table)
                if states is not None and self._seen.get(token) == state:
                    continue
                self._seen[token] = state
                with suppress(RuntimeError):  # the loop is closed; noticed after this look
                    loop.call_soon_threadsafe(call, state)

    def _close(self) -> None:
        connection, self._connection, self._version = self._connection, None, None
        if connection is not None:
            connection.close()


_Call = Callable[[State], None]

_lock = threading.Lock()
_watches: dict[str, _Watch] = {}


class _SQLiteFollow(Follow):
    """What ``follow`` started."""

    def __init__(self, path: str | None, ends: Sequence[Callable[[], None]]) -> None:
        self._path = path
        self._ends = ends
        self._stopped = False

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        for end in self._ends:
            end()
        if self._path is None:
            return
        with _lock:
            watch = _watches[self._path]
            ended = watch.remove(self)
            if ended is not None:
                del _watches[self._path]
        if ended is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(2.0):
                    await ended


def follow(
    engines: Sequence[sa.Engine],
    table: str,
    wake: Callable[[], None],
    known: Callable[[], Head | None],
    interval: float = INTERVAL,
) -> Follow:
    """As ``Reader.follow``. The first engine is the one that is read; all are listened to."""
    loop = asyncio.get_running_loop()
    path = file_of(engines[0])

    def committed() -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(wake)

    def changed(state: State) -> None:
        head = known()
        if state is not None and head is not None:
            place = head.place
            epoch, last, _, retiring = state
            same = isinstance(place, RowPlace) and (head.epoch, place.number) == (epoch, last)
            if same and retiring is None:
                return
        wake()

    # Without a file nobody would notice what a cascade or another trigger wrote.
    named = None if path is None else table
    following = _SQLiteFollow(path, [commits_of(one).add(named, committed) for one in engines])
    if path is not None:
        with _lock:
            watch = _watches.get(path)
            fresh = watch is None
            if watch is None:
                watch = _watches[path] = _Watch(path, interval)
            watch.add(following, table, changed)
            if fresh:
                watch.start()
    return following


def _finish(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)

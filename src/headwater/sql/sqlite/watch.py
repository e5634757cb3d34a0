"""Notices commits: of this process at once, of others by ``PRAGMA data_version``.

One thread per database file and process looks at the file while anything of it is followed, with
a plain ``sqlite3`` connection: the pragma takes some microseconds. It looks when the file was
written to, where the kernel says so, and every 50 ms in any case. The registry of tables tells
which tails a commit concerns, so that a busy table does not wake the tails of quiet ones.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from headwater.feeds.source import Place
from headwater.sql.commits import Commits, commits_of
from headwater.sql.reader import Follow, Head
from headwater.sql.sqlite.looks import Looks, ReplacedError
from headwater.sql.sqlite.place import RowPlace

__all__ = ["INTERVAL", "file_of", "follow", "locked"]

logger = logging.getLogger("headwater.sql")

# Seconds between two looks that need no hint: without hints, a row of another program waits 25 ms
# on average.
INTERVAL = 0.05
# Seconds until the next look while the file cannot be read.
_RETRY = 0.25

# Epoch, last number, floor, retiring; None when the registry does not have the table.
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


def locked(error: Exception) -> bool:
    """Whether a look failed only because somebody writes, as without a write-ahead log."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == sqlite3.SQLITE_BUSY


class _Follower:
    """One tail of a watch, as the watch's thread sees it."""

    __slots__ = ("_known", "_reach", "_seen", "_wake", "commits", "loop", "table")

    def __init__(
        self,
        table: str,
        commits: Sequence[Commits],
        wake: Callable[[], None],
        known: Callable[[], Head | None],
        reach: Callable[[Place], None] | None,
    ) -> None:
        self.table = table
        self.commits = commits
        self.loop = asyncio.get_running_loop()
        self._wake = wake
        self._known = known
        self._reach = reach
        self._seen: State | object = self  # none of them

    def place(self) -> RowPlace | None:
        """Where the tail is."""
        head = self._known()
        return head.place if head is not None and isinstance(head.place, RowPlace) else None

    def anew(self) -> None:
        """Wake the tail: the file has just been opened."""
        self._seen = self
        self._call(self._wake)

    def tell(self, state: State, before: RowPlace | None) -> None:
        """Wake the tail, unless it has read what was committed already.

        Arguments:
            state: what the registry says of its table.
            before: where the tail was before the registry was read.
        """
        if state == self._seen:
            return
        self._seen = state
        head, call = self._known(), self._wake
        if state is not None and head is not None and state[0] == head.epoch and state[3] is None:
            place, now = RowPlace(state[1]), self.place()
            if now is not None and (before is None or place.includes(before)):
                if now.includes(place):
                    return
                if self._reach is not None:
                    call = partial(self._reach, place)
        self._call(call)

    def _call(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed; noticed after this look
            self.loop.call_soon_threadsafe(call)


class _Watch:
    """The thread that looks at one file."""

    def __init__(self, path: str, interval: float) -> None:
        self._path = path
        self._followers: dict[object, _Follower] = {}
        self._stopping = False
        self._looks = Looks(path, interval, self._own)
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

    def add(self, token: object, follower: _Follower) -> None:
        self._followers[token] = follower

    def remove(self, token: object) -> asyncio.Future[None] | None:
        """Returns what is done when the thread has ended, for the last follower."""
        self._followers.pop(token, None)
        if self._followers:
            return None
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        self._ended.append((loop, ended))
        self._stopping = True
        self._looks.stop()
        return ended

    def _own(self) -> bool:
        # There is one writer at a time: while it is this process nobody else commits.
        with _lock:
            return any(one.writing for each in self._followers.values() for one in each.commits)

    def _run(self) -> None:
        looks = self._looks
        while looks.wait():
            try:
                looks.looked(changed=self._look())
            except ReplacedError:
                self._close()
                looks.failed()
            except (OSError, sqlite3.Error) as error:
                if looks.hinted and locked(error):
                    looks.looked(changed=False)
                    continue
                # Away, locked or being replaced. The tails say so when they fail to read.
                logger.debug("%s cannot be watched: %s", self._path, error)
                self._close()
                looks.failed(_RETRY)
            with _lock:
                for token, follower in tuple(self._followers.items()):
                    if follower.loop.is_closed():
                        del self._followers[token]
                if not self._followers and not self._stopping:
                    looks.stop()
                    if _watches.get(self._path) is self:
                        del _watches[self._path]
        self._close()
        looks.close()
        with _lock:
            for loop, ended in self._ended:
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(_finish, ended)

    def _look(self) -> bool:
        """Returns whether anything was committed since the last look."""
        status = Path(self._path).stat()
        identity = (status.st_dev, status.st_ino)
        if self._connection is None or identity != self._identity:
            if self._connection is not None and self._looks.hinted:
                raise ReplacedError(self._path)
            self._close()
            self._connection = sqlite3.connect(
                f"{Path(self._path).as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None
            )
            self._identity = identity
            self._looks.opened()
            with _lock:
                for follower in self._followers.values():
                    follower.anew()
        version = self._connection.execute("PRAGMA data_version").fetchall()[0][0]
        if version == self._version:
            return False
        with _lock:
            were = [(each, each.place()) for each in self._followers.values()]
        rows = self._connection.execute(
            "SELECT name, epoch, last, floor, retiring FROM headwater_tables"
        ).fetchall()
        self._version = version
        states: dict[str, State] = {name: tuple(state) for name, *state in rows}
        with _lock:
            for follower, place in were:
                follower.tell(states.get(follower.table), place)
        return True

    def _close(self) -> None:
        connection, self._connection, self._version = self._connection, None, None
        if connection is not None:
            connection.close()


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
    reach: Callable[[Place], None] | None = None,
) -> Follow:
    """As ``Reader.follow``. The first engine is the one that is read; all are listened to."""
    loop = asyncio.get_running_loop()
    path = file_of(engines[0])

    def committed() -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(wake)

    # Without a file nobody would notice what a cascade or another trigger wrote.
    named = None if path is None else table
    commits = [commits_of(one) for one in engines]
    following = _SQLiteFollow(path, [one.add(named, committed) for one in commits])
    if path is not None:
        with _lock:
            watch = _watches.get(path)
            fresh = watch is None
            if watch is None:
                watch = _watches[path] = _Watch(path, INTERVAL)
            watch.add(following, _Follower(table, commits, wake, known, reach))
            if fresh:
                watch.start()
    return following


def _finish(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)

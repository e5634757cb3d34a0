"""Watches a SQLite file for commits: one thread for all its tables and event logs.

A commit of this process wakes its readers at once. The thread finds commits of other processes by
``PRAGMA data_version``, which takes some microseconds. It looks when Linux's inotify reports a
write, and every 50 ms in any case. After a commit it reads where each table and log is, so that a
busy table does not wake the readers of quiet ones.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa

from headwater.sql.commits import commits_of
from headwater.sql.reader import CommitWatch
from headwater.sql.sqlite.connections import file_of, identity_of
from headwater.sql.sqlite.schedule import Schedule

logger = logging.getLogger("headwater.sql")

# Seconds between two looks without a hint. Without inotify a row of another process waits 25 ms on
# average.
INTERVAL = 0.05
# Seconds until the next look while the file cannot be read.
_RETRY = 0.25
# Where a table or log is: what changes with each commit to it. None if the file does not have it.
State = tuple[Any, ...] | None


class Watched(CommitWatch):
    """One reader of a table or an event log, which the watch of its file wakes.

    Arguments:
        engines: those of this process that write. The first one reads, and names the file.
        table: commits of this process wake it when their statements name this table.
        wake: called in the event loop when there may be something new.

    Attributes:
        query: SQL whose rows are names with their states.
        name: which of the rows is this reader's.
        wake_on_failure: wake it too when the file cannot be read.
    """

    query: ClassVar[str]
    wake_on_failure: ClassVar[bool] = False

    def __init__(
        self, engines: Sequence[sa.Engine], table: str, wake: Callable[[], None], name: str
    ) -> None:
        self.name = name
        self.wake = wake
        self.loop = asyncio.get_running_loop()
        self._path = file_of(engines[0])
        self._commits = [commits_of(engine) for engine in engines]
        # In memory nothing else reports what a cascade or a trigger wrote: any commit counts.
        named = None if self._path is None else table
        self._ends = [commits.add(named, wake, self.loop) for commits in self._commits]
        self._stopped = False
        if self._path is not None:
            _join(self._path, self)

    @abstractmethod
    def position(self) -> Any:
        """Where the reader is. Called in the watch's thread, before the state is read."""

    @abstractmethod
    def on_state(self, state: State, before: Any) -> Callable[[], None] | None:
        """Compare a new state with the reader. Called in the watch's thread.

        Arguments:
            state: of its table or log.
            before: what ``position`` returned before the state was read.

        Returns what to call in the event loop; None if the reader has it already.
        """

    def on_opened(self) -> None:
        """The file was opened, and may be another one. Called in the watch's thread."""

    @property
    def writing(self) -> bool:
        """Whether this process is writing through one of the engines just now."""
        return any(commits.writing for commits in self._commits)

    def call(self, call: Callable[[], None] | None) -> None:
        """Call something in the event loop, from the watch's thread."""
        if call is not None:
            with suppress(RuntimeError):  # the loop is closed; the watch notices it
                self.loop.call_soon_threadsafe(call)

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        for end in self._ends:
            end()
        ended = None if self._path is None else _leave(self._path, self)
        if ended is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(2.0):
                    await ended


class _ReplacedError(OSError):
    """There is another file at the path."""


class _FileWatch:
    """The thread that watches one file. The lock of all watches guards ``readers``."""

    def __init__(self, path: str) -> None:
        self.readers: list[Watched] = []
        self._path = path
        self._stopping = False
        self._schedule = Schedule(path, INTERVAL, self._writing)
        self._ended: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._version: int | None = None
        name = f"headwater watch {Path(path).name}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def stop(self) -> asyncio.Future[None]:
        """End the thread. Returns a future that is done when it has ended."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        self._ended = (loop, ended)
        self._stopping = True
        self._schedule.stop()
        return ended

    def _writing(self) -> bool:
        # SQLite has one writer at a time: while it is this process, nobody else commits.
        with _lock:
            return any(reader.writing for reader in self.readers)

    def _run(self) -> None:
        schedule = self._schedule
        while schedule.wait():
            try:
                schedule.looked(changed=self._check())
            except _ReplacedError:
                self._close()
                schedule.failed()
            except (OSError, sqlite3.Error) as error:
                if schedule.hinted and _is_busy(error):
                    schedule.looked(changed=False)
                    continue
                # The file is away, locked or being replaced. A reader that reads says so.
                logger.debug("%s cannot be watched: %s", self._path, error)
                self._close()
                for reader in self._present():
                    if reader.wake_on_failure:
                        reader.call(reader.wake)
                schedule.failed(_RETRY)
            self._drop_closed_loops()
        self._close()
        schedule.close()
        with _lock:
            if self._ended is not None:
                loop, ended = self._ended
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(_finish, ended)

    def _check(self) -> bool:
        """Returns whether anything was committed since the last look."""
        connection = self._opened()
        version = connection.execute("PRAGMA data_version").fetchall()[0][0]
        if version == self._version:
            return False
        found = [(reader, reader.position()) for reader in self._present()]
        states = {query: _states(connection, query) for query in {one.query for one, _ in found}}
        self._version = version
        for reader, before in found:
            reader.call(reader.on_state(states[reader.query].get(reader.name), before))
        return True

    def _opened(self) -> sqlite3.Connection:
        identity = identity_of(self._path)
        if self._connection is None or identity != self._identity:
            if self._connection is not None and self._schedule.hinted:
                raise _ReplacedError(self._path)
            self._close()
            self._connection = sqlite3.connect(
                f"{Path(self._path).as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None
            )
            self._identity = identity
            self._schedule.opened()
            for reader in self._present():
                reader.on_opened()
        return self._connection

    def _close(self) -> None:
        connection, self._connection, self._version = self._connection, None, None
        if connection is not None:
            connection.close()

    def _present(self) -> list[Watched]:
        with _lock:
            return list(self.readers)

    def _drop_closed_loops(self) -> None:
        with _lock:
            self.readers = [each for each in self.readers if not each.loop.is_closed()]
            if not self.readers and not self._stopping:
                self._schedule.stop()
                if _watches.get(self._path) is self:
                    del _watches[self._path]


_lock = threading.Lock()
_watches: dict[str, _FileWatch] = {}


def _join(path: str, reader: Watched) -> None:
    with _lock:
        watch = _watches.get(path)
        if watch is None:
            watch = _watches[path] = _FileWatch(path)
        watch.readers.append(reader)


def _leave(path: str, reader: Watched) -> asyncio.Future[None] | None:
    with _lock:
        watch = _watches.get(path)
        if watch is None or reader not in watch.readers:
            return None
        watch.readers.remove(reader)
        if watch.readers:
            return None
        del _watches[path]
        return watch.stop()


def _states(connection: sqlite3.Connection, query: str) -> dict[str, State]:
    try:
        rows = connection.execute(query).fetchall()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise
        return {}  # the table is missing
    return {name: tuple(state) for name, *state in rows}


def _is_busy(error: Exception) -> bool:
    """Whether a look failed only because somebody writes, as without a write-ahead log."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == sqlite3.SQLITE_BUSY


def _finish(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)

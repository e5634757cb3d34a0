"""Watches a SQLite file for commits: one thread for all its tables and event logs.

A commit of this process wakes its readers at once. The thread finds commits of other processes by
``PRAGMA data_version``, which takes some microseconds. It looks when Linux's inotify reports a
write, and every 50 ms in any case. After a commit it reads where each table and log is, so that a
busy table does not wake the readers of quiet ones.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import select
import sqlite3
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from headwater.sql.sqlite._connections import identity_of
from headwater.sql.sqlite._file_reader import FileReader, State

logger = logging.getLogger("headwater.sql")

# Seconds between two looks without a hint. Without inotify a row of another process waits 25 ms on
# average.
INTERVAL = 0.05
# Seconds until the next look while the file cannot be read.
_RETRY = 0.25
# Seconds until the second look after a hint; then twice that, and so on.
_FIRST = 0.0005
# Seconds between two looks at least, once one found something: a busy writer's commits are read
# together.
_SPACING = 0.002
# Seconds until the watch opens a file that replaced another. The old file's write-ahead log may
# still be there; a connection that is opened with the wrong log keeps it.
SETTLING = 0.05

# <sys/inotify.h>
_MODIFY = 0x002
_ATTRIB = 0x004  # also when an open file is removed: it has one link less
_DELETE_SELF = 0x400
_MOVE_SELF = 0x800
_EVENT = struct.Struct("iIII")


class Inotify:
    """Linux's inotify: the kernel reports that one of some files was written to.

    Python has no call for it, so this calls libc through ``ctypes``. Raises OSError where there is
    no inotify, or where this user may open no more of it.

    Arguments:
        paths: of the files, which need not exist yet. ``renew`` begins to watch them.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        if sys.platform != "linux":
            raise OSError("inotify is Linux's")
        try:
            self._libc = ctypes.CDLL(None, use_errno=True)
            begin, self._add = self._libc.inotify_init1, self._libc.inotify_add_watch
            self._remove = self._libc.inotify_rm_watch
        except AttributeError as error:
            raise OSError("this libc has no inotify") from error
        self._watches: dict[bytes, int | None] = dict.fromkeys(map(os.fsencode, paths))
        self._fd: int = begin(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def fileno(self) -> int:
        """The descriptor that becomes readable when there is something to read."""
        return self._fd

    def read(self) -> bool:
        """Read what the kernel reported. Returns whether it was about a watched file.

        A file that was moved or removed is not watched any more, until the next ``renew``.
        """
        try:
            reports = os.read(self._fd, 65536)
        except BlockingIOError:
            return False
        at, news = 0, False
        while at < len(reports):
            watch, mask, _, length = _EVENT.unpack_from(reports, at)
            at += _EVENT.size + length
            # Below 0: the kernel's queue was full.
            news = news or watch < 0 or watch in self._watches.values()
            if mask != _MODIFY:
                self._end(watch)
        return news

    def renew(self) -> bool:
        """Watch the files that are not watched yet. Returns whether there was one."""
        news = False
        for path, watch in self._watches.items():
            if watch is None:
                found = self._add(self._fd, path, _MODIFY | _ATTRIB | _DELETE_SELF | _MOVE_SELF)
                if found >= 0:
                    self._watches[path] = found
                    news = True
        return news

    def close(self) -> None:
        """Close the descriptor."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)

    def forget(self) -> None:
        """Stop watching until the next ``renew``: another file may be at a path."""
        for watch in tuple(self._watches.values()):
            if watch is not None:
                self._end(watch)

    def _end(self, watch: int) -> None:
        # The kernel reports the end of a watch too, also of one that ended here.
        for path, known in self._watches.items():
            if known == watch:
                self._watches[path] = None
                self._remove(self._fd, watch)  # fails, rightly, if the kernel has removed it


class Schedule:
    """Says when the watch looks at the file. Used by one thread, but for ``stop``.

    inotify only hints that the file was written to. SQLite writes to its log first, and a commit
    becomes visible a little later, through the shared memory beside the log, which inotify does
    not report. So after a hint the watch looks several times, at growing distances. The regular
    look finds what a hint missed.

    Arguments:
        path: of the database file.
        interval: seconds between two looks without a hint.
        own: whether this process is writing just now. It reports its own commits, so hints wait.
    """

    def __init__(self, path: str, interval: float, own: Callable[[], bool]) -> None:
        self._interval = interval
        self._own = own
        self._stopped = threading.Event()
        self._closing = threading.Lock()
        self._last = time.monotonic()
        self._due = self._last + interval
        self._again: float | None = None
        self._step: float | None = None  # until the look after the next
        self._limit = interval
        self._inotify: Inotify | None = None
        self._wake = -1
        try:
            self._inotify = Inotify((path, f"{path}-wal"))
            self._inotify.renew()
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except (OSError, AttributeError) as error:
            logger.debug("%s is watched without inotify: %s", path, error)
            self.close()
        else:
            self._poll = select.poll()
            self._poll.register(self._inotify, select.POLLIN)
            self._poll.register(self._wake, select.POLLIN)

    @property
    def hinted(self) -> bool:
        """Whether this look follows a hint: there may be nothing to see yet."""
        return self._step is not None

    def wait(self) -> bool:
        """Wait for the next look. Returns False once ``stop`` was called."""
        while not self._stopped.is_set():
            now = time.monotonic()
            due = now >= self._due
            if not due and self._again is not None and now >= self._again:
                due = not self._own()
                if not due:
                    self._again, self._step, self._limit = now + _SPACING, _SPACING, self._interval
            if due:
                # Read before the look: a write from now on is a new hint.
                if self._inotify is not None and self._inotify.read():
                    self._step, self._limit = min(self._step or _SPACING, _SPACING), self._interval
                return True
            self._rest(now)
        return False

    def looked(self, *, changed: bool) -> None:
        """Note a look. ``changed``: it found a new commit."""
        self._last = now = time.monotonic()
        self._due = now + self._interval
        renewed = self._inotify is not None and self._inotify.renew()
        if renewed:
            # It may have been written to before inotify watched it.
            self._again, self._step, self._limit = now + _FIRST, 2 * _FIRST, self._interval
        elif self._step is not None and changed:
            # Two more looks, for a next commit that is written already and waits for the disk.
            self._again, self._step, self._limit = now + _SPACING, 4 * _SPACING, 5 * _SPACING
        elif self._step is None or self._step >= self._limit:
            self._again = self._step = None
        else:
            self._again = now + self._step
            self._step *= 2

    def failed(self, wait: float | None = None) -> None:
        """Note that the file cannot be read. The next look comes in ``wait`` seconds.

        None for a file that was replaced.
        """
        self._last = time.monotonic()
        self._due = self._last + (SETTLING if wait is None else wait)
        self._again = self._step = None
        if self._inotify is not None:
            self._inotify.forget()

    def opened(self) -> None:
        """Note that the file was opened: it may be another one."""
        if self._inotify is not None:
            self._inotify.forget()

    def stop(self) -> None:
        """End ``wait``. May be called in any thread."""
        self._stopped.set()
        with self._closing:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Close the descriptors."""
        inotify, self._inotify = self._inotify, None
        if inotify is not None:
            inotify.close()
        with self._closing:
            wake, self._wake = self._wake, -1
            if wake >= 0:
                os.close(wake)

    def _rest(self, now: float) -> None:
        until = self._due if self._again is None else min(self._due, self._again)
        if self._inotify is None:
            self._stopped.wait(until - now)
            return
        if now < self._last + _SPACING:
            # Too early for a hint, and too short for poll(), which counts in milliseconds.
            time.sleep(max(0.0, min(until, self._last + _SPACING) - now))
            return
        ready = self._poll.poll(max(0.0, 1000 * (until - now)))
        if any(fd == self._inotify.fileno() for fd, _ in ready) and self._inotify.read():
            self._again, self._step, self._limit = time.monotonic(), _FIRST, self._interval


class _ReplacedError(OSError):
    """There is another file at the path."""


class FileWatch:
    """The thread that watches one file.

    Arguments:
        lock: guards ``readers``.
        unused: is called, with the lock, when the event loops of all readers are closed.
    """

    def __init__(
        self, path: str, lock: threading.Lock, unused: Callable[[FileWatch], None]
    ) -> None:
        self.readers: list[FileReader] = []
        self._lock = lock
        self._unused = unused
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
        now = time.monotonic()
        with self._lock:
            return any(
                now < commits.writing_until for each in self.readers for commits in each.commits
            )

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
                        _call(reader, reader.wake)
                schedule.failed(_RETRY)
            self._drop_closed_loops()
        self._close()
        schedule.close()
        with self._lock:
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
            _call(reader, reader.on_state(states[reader.query].get(reader.name), before))
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
                _call(reader, reader.on_opened())
        return self._connection

    def _close(self) -> None:
        connection, self._connection, self._version = self._connection, None, None
        if connection is not None:
            connection.close()

    def _present(self) -> list[FileReader]:
        with self._lock:
            return list(self.readers)

    def _drop_closed_loops(self) -> None:
        with self._lock:
            self.readers = [each for each in self.readers if not each.loop.is_closed()]
            if not self.readers and not self._stopping:
                self._schedule.stop()
                self._unused(self)


def _states(connection: sqlite3.Connection, query: str) -> dict[str, State]:
    try:
        rows = connection.execute(query).fetchall()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise
        return {}  # the table is missing
    return {name: tuple(state) for name, *state in rows}


def _call(reader: FileReader, call: Callable[[], None] | None) -> None:
    if call is not None:
        with suppress(RuntimeError):  # the loop is closed; the watch notices it
            reader.loop.call_soon_threadsafe(call)


def _is_busy(error: Exception) -> bool:
    """Whether a look failed only because somebody writes, as without a write-ahead log."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == sqlite3.SQLITE_BUSY


def _finish(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)

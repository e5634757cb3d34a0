"""When to look at a SQLite file: regularly, and soon after Linux reports a write to it."""

from __future__ import annotations

import ctypes
import logging
import os
import select
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

logger = logging.getLogger("headwater.sql")

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

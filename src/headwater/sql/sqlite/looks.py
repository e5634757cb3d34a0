"""When to look at a database file: every so often, and soon after it was written to.

That a file was written to is only a hint. SQLite writes to its log first, and the commit can be
seen somewhat later, by the shared memory beside it, of whose change nobody is told. So after a
hint the file is looked at several times, at growing distances. What a hint misses is found by the
look that comes in any case.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable

from headwater.sql.sqlite.inotify import Inotify

__all__ = ["Looks", "ReplacedError"]

logger = logging.getLogger("headwater.sql")

# Seconds until the second look after a hint; then twice that, and so on.
_FIRST = 0.0005
# Seconds between two looks at least, once there was something: a busy writer's commits are taken
# together.
_SPACING = 0.002
# Seconds for which a file that has just replaced another is left alone: until what belongs to the
# old one, its write-ahead log, is taken away too. Who opens it before has the wrong log for good.
_SETTLING = 0.05


class ReplacedError(OSError):
    """There is another file at the path."""


class Looks:
    """Waits for the next look. Used by one thread; only ``stop`` is for others too.

    Arguments:
        path: of the database file.
        interval: seconds between two looks that need no hint.
        own: whether what is written just now is written by this process, which says so itself
            when it is committed. No hint is taken meanwhile.
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
            logger.debug("%s is looked at without hints: %s", path, error)
            self.close()
        else:
            self._poll = select.poll()
            self._poll.register(self._inotify, select.POLLIN)
            self._poll.register(self._wake, select.POLLIN)

    @property
    def hinted(self) -> bool:
        """Whether the look that is due comes from a hint: there may be nothing to see yet."""
        return self._step is not None

    def wait(self) -> bool:
        """Wait until a look is due. Returns False once it was stopped."""
        while not self._stopped.is_set():
            now = time.monotonic()
            due = now >= self._due
            if not due and self._again is not None and now >= self._again:
                due = not self._own()
                if not due:
                    self._again, self._step, self._limit = now + _SPACING, _SPACING, self._interval
            if due:
                # Taken before the look: what is written from now on is a new hint.
                if self._inotify is not None and self._inotify.take():
                    self._step, self._limit = min(self._step or _SPACING, _SPACING), self._interval
                return True
            self._rest(now)
        return False

    def looked(self, *, changed: bool) -> None:
        """A look is done. ``changed``: it found something new."""
        self._last = now = time.monotonic()
        self._due = now + self._interval
        renewed = self._inotify is not None and self._inotify.renew()
        if renewed:
            # Written to before it was watched, perhaps.
            self._again, self._step, self._limit = now + _FIRST, 2 * _FIRST, self._interval
        elif self._step is not None and changed:
            # Twice more, for the next commit: it may be written already, and wait for the disk.
            self._again, self._step, self._limit = now + _SPACING, 4 * _SPACING, 5 * _SPACING
        elif self._step is None or self._step >= self._limit:
            self._again = self._step = None
        else:
            self._again = now + self._step
            self._step *= 2

    def failed(self, wait: float | None = None) -> None:
        """The file cannot be read. The next look is in ``wait`` seconds, at whatever is there.

        None for one that was replaced.
        """
        self._last = time.monotonic()
        self._due = self._last + (_SETTLING if wait is None else wait)
        self._again = self._step = None
        if self._inotify is not None:
            self._inotify.forget()

    def opened(self) -> None:
        """The file was opened, and may be another one."""
        if self._inotify is not None:
            self._inotify.forget()

    def stop(self) -> None:
        """End the waiting."""
        self._stopped.set()
        with self._closing:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Give back the descriptors."""
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
            # Too soon for another hint, and too short for poll(), which counts in milliseconds.
            time.sleep(max(0.0, min(until, self._last + _SPACING) - now))
            return
        ready = self._poll.poll(max(0.0, 1000 * (until - now)))
        if any(fd == self._inotify.fileno() for fd, _ in ready) and self._inotify.take():
            self._again, self._step, self._limit = time.monotonic(), _FIRST, self._interval

"""Notices commits to a log: of this process at once, of others by ``PRAGMA data_version``."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from headwater.sql.commits import commits_of
from headwater.sql.sqlite.looks import Looks, ReplacedError
from headwater.sql.sqlite.watch import INTERVAL, file_of, locked

__all__ = ["HEAD", "Head", "Watch"]

_log = logging.getLogger(__name__)

# Seconds until the next look while the file cannot be read.
_RETRY = 0.25

# Epoch, count of trims, highest id ever given out: what changes with every commit to the log.
Head = tuple[str, int, int]
HEAD = (
    "SELECT l.epoch, l.trims, coalesce(s.seq, 0) FROM headwater_log AS l"
    " LEFT JOIN sqlite_sequence AS s ON s.name = 'headwater_events' WHERE l.id = 1"
)


class Watch:
    """Wakes a reader while it runs.

    A thread looks at the file with a plain connection, as a tail's watch does: when it was written
    to, where the kernel says so, and every 50 ms in any case. It reads the log's head only when
    the file has changed, and wakes the reader only when that is not what the reader has.

    Args:
        engine: whose commits in this process wake at once.
        wake: called in the event loop.
        known: the head that the reader has. Called in the thread.
    """

    def __init__(
        self, engine: AsyncEngine, wake: Callable[[], None], known: Callable[[], Head | None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._wake = wake
        self._known = known
        self._path = file_of(engine.sync_engine)
        self._commits = commits_of(engine.sync_engine)
        self._looks: Looks | None = None
        self._ended = asyncio.Event()
        self._end_commits = self._commits.add("headwater_events", self._call)
        if self._path is None:
            self._ended.set()  # in memory there are no others
        else:
            looks = self._looks = Looks(self._path, INTERVAL, lambda: self._commits.writing)
            name = f"headwater event log watch {Path(self._path).name}"
            given = (self._path, looks)
            threading.Thread(target=self._run, args=given, name=name, daemon=True).start()

    async def stop(self) -> None:
        """End the thread and close its connection."""
        self._end_commits()
        if self._looks is not None:
            self._looks.stop()
        await self._ended.wait()

    def _call(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._wake)

    def _run(self, path: str, looks: Looks) -> None:
        look = _Look(path, looks)
        while looks.wait() and not self._loop.is_closed():
            try:
                head = look()
                if head is not None and head != self._known():
                    self._call()
                looks.looked(changed=head is not None)
            except ReplacedError:
                look.close()
                looks.failed()
            except (OSError, sqlite3.Error) as error:
                if looks.hinted and locked(error):
                    looks.looked(changed=False)
                    continue
                # Away, locked or being replaced: the reader finds out what it is.
                _log.debug("%s cannot be watched: %s", path, error)
                look.close()
                self._call()
                looks.failed(_RETRY)
        look.close()
        looks.close()
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended.set)


class _Look:
    """Looks at one file; gives the log's head if the file has changed since the last look."""

    def __init__(self, path: str, looks: Looks) -> None:
        self._path = path
        self._looks = looks
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._version: int | None = None

    def __call__(self) -> Head | None:
        status = Path(self._path).stat()
        identity = (status.st_dev, status.st_ino)
        if self._connection is None or identity != self._identity:
            if self._connection is not None and self._looks.hinted:
                raise ReplacedError(self._path)
            self.close()
            self._connection = sqlite3.connect(
                f"{Path(self._path).as_uri()}?mode=rw", uri=True, timeout=0, isolation_level=None
            )
            self._identity = identity
            self._looks.opened()
        version = self._connection.execute("PRAGMA data_version").fetchall()[0][0]
        if version == self._version:
            return None
        heads = self._connection.execute(HEAD).fetchall()
        self._version = version
        # Without its row the log was wiped: a head that no reader has.
        return heads[0] if heads else ("", 0, 0)

    def close(self) -> None:
        """The next look opens the file again."""
        connection, self._connection, self._version = self._connection, None, None
        if connection is not None:
            connection.close()

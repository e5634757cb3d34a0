"""Notifies other processes of commits, so that they need not poll.

A notice wakes a reader and carries no data; the reader then reads. It is sent after the commit, in
a transaction of its own. PostgreSQL lets one transaction with a NOTIFY commit at a time on the
whole server, and appends would queue for that. If a process is killed in between, the others find
its last commits at their next poll.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress

from headwater.eventlog.sql.postgresql.statements import NOTIFY
from headwater.eventlog.sql.storage import Storage
from headwater.sql.commits import commits_of

__all__ = ["CHANNEL", "Notices"]

_log = logging.getLogger(__name__)

CHANNEL = "headwater_log"

# Least time between two notices, in seconds: one covers all commits before it.
PACE = 0.01


class Notices:
    """The notices of one log in this process.

    Args:
        storage: the log's; notices begin when it is opened.

    Attributes:
        sender: what the notices carry, so that a process ignores its own.
    """

    def __init__(self, storage: Storage) -> None:
        storage.opened = self._begin
        self._storage = storage
        self.sender = secrets.token_hex(6)
        self._end: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._due = False

    def _begin(self) -> None:
        """Notify of each commit of events through the engine from here on. Idempotent."""
        if self._end is not None:
            return
        loop = asyncio.get_running_loop()

        def committed() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._committed)

        self._end = commits_of(self._storage.engine.sync_engine).add("headwater_events", committed)

    async def close(self) -> None:
        """Send what is due."""
        await asyncio.sleep(0)  # what was committed just now
        if self._end is not None:
            self._end()
            self._end = None
        if self._task is not None:
            await asyncio.wait([self._task])

    def _committed(self) -> None:
        self._due = True
        if self._task is None and self._end is not None:
            self._task = asyncio.create_task(self._send(), name=f"{self._storage.name}: notices")

    async def _send(self) -> None:
        try:
            while self._due:
                self._due = False
                try:
                    await self._storage.read(NOTIFY, {"sender": self.sender})
                except Exception as error:
                    _log.debug("%s: no notice could be sent: %s", self._storage.name, error)
                await asyncio.sleep(PACE)
        finally:
            self._task = None

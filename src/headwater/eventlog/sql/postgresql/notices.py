"""Tells other processes that something was committed, so that they need not look for it.

A notice wakes and carries nothing; what was committed is then read. It is sent after the commit, in
a transaction of its own: PostgreSQL lets one transaction with a NOTIFY commit at a time, on the
whole server, and appends would queue for that. A process that is killed in between leaves its last
commits to the next look of the others.
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

# Least time between two notices, in seconds: one tells of all commits before it.
PACE = 0.01


class Notices:
    """The notices of one log in this process.

    Attributes:
        sender: what they carry, so that the process itself can tell them from others'.
    """

    def __init__(self) -> None:
        self.sender = secrets.token_hex(6)
        self._end: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._due = False

    def begin(self, storage: Storage) -> None:
        """From now on each commit of events through the engine is told. Idempotent."""
        if self._end is not None:
            return
        loop = asyncio.get_running_loop()

        def committed() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._tell, storage)

        self._end = commits_of(storage.engine.sync_engine).add("headwater_events", committed)

    async def close(self) -> None:
        """Send what is due."""
        await asyncio.sleep(0)  # what was committed just now
        if self._end is not None:
            self._end()
            self._end = None
        if self._task is not None:
            await asyncio.wait([self._task])

    def _tell(self, storage: Storage) -> None:
        self._due = True
        if self._task is None and self._end is not None:
            self._task = asyncio.create_task(self._send(storage), name=f"{storage.name}: notices")

    async def _send(self, storage: Storage) -> None:
        try:
            while self._due:
                self._due = False
                try:
                    await storage.read(NOTIFY, {"sender": self.sender})
                except Exception as error:
                    _log.debug("%s: no notice could be sent: %s", storage.name, error)
                await asyncio.sleep(PACE)
        finally:
            self._task = None

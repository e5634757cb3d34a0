"""Re-checks that reach every process: a topic of an event log that each of them follows."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence

from headwater.delivery.hub import Hub
from headwater.errors import SourceUnavailableError
from headwater.eventlog import EventLog
from headwater.feeds.source import Change

__all__ = ["RecheckLog"]

logger = logging.getLogger("headwater.web")

_TOPIC = "headwater:recheck"
# Seconds between tries to follow the log while its engine is away.
_RETRY = 1.0


class RecheckLog:
    """Announces a re-check to the other processes, and runs theirs here.

    Arguments:
        recheck: checks the rights of a subject in this process; of all for None.
    """

    def __init__(
        self, log: EventLog, hub: Hub, recheck: Callable[[str | None], Awaitable[None]]
    ) -> None:
        self._log = log
        self._hub = hub
        self._recheck = recheck
        self._sender = secrets.token_hex(8)
        self._leave: Callable[[], None] | None = None
        self._joining = hub.streams.run(self._join(), "following re-checks of other processes")

    async def announce(self, subject: str | None) -> None:
        """Append a re-check for the other processes. Raises SourceUnavailableError."""
        await self._log.append(_TOPIC, {"subject": subject, "by": self._sender})

    def close(self) -> None:
        """Follow no more."""
        self._joining.cancel()
        if self._leave is not None:
            self._leave()

    async def _join(self) -> None:
        missed = False
        while True:
            try:
                self._leave = await self._hub.subscribe(self._log.topic(_TOPIC), self._deliver)
                break
            except SourceUnavailableError as error:
                if not missed:
                    logger.warning("re-checks of other processes are not followed yet: %s", error)
                missed = True
                await asyncio.sleep(_RETRY)
        if missed:
            # What was announced meanwhile was not seen.
            await self._recheck(None)

    def _deliver(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.values.get("by") != self._sender:
                subject = change.values.get("subject")
                self._hub.streams.run(self._recheck(subject), "a re-check of another process")

"""Re-checks that reach every process: a source that each of them follows, such as a log's topic."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from headwater.delivery._hub import Hub
from headwater.errors import SourceUnavailableError
from headwater.eventlog import EventLog
from headwater.feeds._source import Change, Source

logger = logging.getLogger("headwater.web")

_TOPIC = "headwater:recheck"
# Seconds between tries to follow the source while its storage is away.
RETRY_SECONDS = 1.0

# Checks the rights of these subjects in this process; of all if None is among them.
Recheck = Callable[..., Awaitable[None]]
# The subject that a change's values name: None for all, NOBODY for no re-check.
SubjectOf = Callable[[Mapping[str, Any]], str | None]
NOBODY = ""


class FollowedRechecks:
    """Runs the re-checks here that a source brings, until ``close``.

    While its storage is away it retries. What was not seen before is made good by a re-check of
    all.
    """

    def __init__(self, source: Source, hub: Hub, recheck: Recheck, subject_of: SubjectOf) -> None:
        self._source = source
        self._hub = hub
        self._recheck = recheck
        self._subject_of = subject_of
        self._leave: Callable[[], None] | None = None
        self._closed = asyncio.Event()
        hub.streams.run(self._join(), "following re-checks")

    def close(self) -> None:
        """Follow no more."""
        self._closed.set()
        if self._leave is not None:
            self._leave()

    async def _join(self) -> None:
        warned = False
        while not self._closed.is_set():
            try:
                self._leave = await self._hub.subscribe(self._source, self._deliver)
                break
            except SourceUnavailableError as error:
                if not warned:
                    logger.warning("changes of rights are not followed yet: %s", error)
                warned = True
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closed.wait(), RETRY_SECONDS)
        if not self._closed.is_set():
            await self._recheck(None)
        elif self._leave is not None:
            self._leave()  # it was not cancelled, which would cost the connection

    def _deliver(self, changes: Sequence[Change]) -> None:
        subjects = {self._subject_of(change.values) for change in changes} - {NOBODY}
        if subjects:
            self._hub.streams.run(self._recheck(*subjects), "announced re-checks")


class RecheckLog(FollowedRechecks):
    """Announces a re-check to the other processes by an event log, and runs theirs here."""

    def __init__(self, log: EventLog, hub: Hub, recheck: Recheck) -> None:
        self._log = log
        self._sender = secrets.token_hex(8)
        super().__init__(log.topic(_TOPIC), hub, recheck, self._subject_in)

    async def announce(self, subject: str | None) -> None:
        """Append a re-check for the other processes. Raises SourceUnavailableError."""
        await self._log.append(_TOPIC, {"subject": subject, "by": self._sender})

    def _subject_in(self, values: Mapping[str, Any]) -> str | None:
        return NOBODY if values.get("by") == self._sender else values.get("subject")

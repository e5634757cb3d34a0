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
# Seconds after which a re-check no longer keeps the next one of the same subject waiting.
_PATIENCE = 0.5

# Checks the rights of a subject in this process; of all for None.
Recheck = Callable[[str | None], Awaitable[None]]
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
        # The subjects that are checked now, and those that have changed since that began.
        self._running: set[str | None] = set()
        self._again: set[str | None] = set()
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
        for subject in {None} & subjects or subjects:
            if subject in self._running:
                self._again.add(subject)
            else:
                self._running.add(subject)
                self._hub.streams.run(self._check(subject), "announced re-checks")

    async def _check(self, subject: str | None) -> None:
        """Check, and once more for all changes that came meanwhile, so that a flood of them ends.

        A check that hangs keeps the next one waiting for a short time only.
        """
        try:
            while True:
                self._again.discard(subject)
                check = self._hub.streams.run(self._recheck(subject), "an announced re-check")
                await asyncio.wait({check}, timeout=_PATIENCE)
                if subject not in self._again:
                    return
        finally:
            self._running.discard(subject)


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

"""Follows one topic, and can read it directly when the log's delivery would be too late."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headwater.errors import ResetReason
from headwater.eventlog import START, Bounds, EventLog, Record
from headwater.runs._store import PAGE


class TopicReader:
    """A follower of one topic of a log. Implements ``Follower``.

    It passes each record on once: when the log delivers it, or in ``catch_up`` if that is earlier.

    Arguments:
        take: receives the records.
        lose: called when records may have been lost.
    """

    def __init__(
        self,
        log: EventLog,
        topic: str,
        take: Callable[[Sequence[Record]], None],
        lose: Callable[[], None],
    ) -> None:
        self._log = log
        self._topic = topic
        self._take = take
        self._lose = lose
        self._last = START

    async def start(self) -> None:
        """Begin to follow. Raises SourceUnavailableError."""
        bounds = await self._log.follow(self._topic, self)
        self._last = max(self._last, bounds.latest)

    async def stop(self) -> None:
        """End following."""
        await self._log.unfollow(self._topic, self)

    async def catch_up(self) -> None:
        """Read the records that are stored by now. Raises SourceUnavailableError."""
        full = True
        while full:
            run = await self._log.read(self._topic, self._last, PAGE)
            self.deliver(run.records)
            full = len(run.records) == PAGE

    def deliver(self, records: Sequence[Record]) -> None:
        """As Follower."""
        news = [record for record in records if record.offset > self._last]
        if news:
            self._last = news[-1].offset
            self._take(news)

    def reset(self, reason: ResetReason, bounds: Bounds) -> None:
        """As Follower."""
        self._last = bounds.latest
        self._lose()

"""The status board: each satellite with its clients, its latest metrics and its recent errors.

The satellites and their clients are a live query. Metrics are in the event log, and "the last five
minutes" changes by the clock, so the board is a poll that the live query wakes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from headwater.backend.models import Satellite
from headwater.backend.satellites.service import topic_of
from headwater.backend.times import utc_now
from headwater.eventlog import EventLog
from headwater.feeds import Poll
from headwater.sql import LiveQuery
from headwater.web.fastapi import Source

# Seconds between two looks at the metrics; satellites report every few seconds.
_EVERY = 2.0
_RECENT = timedelta(minutes=5)
# Reports that are read of a satellite: five minutes of one a second.
_REPORTS = 300
# A longer gap between two reports counts as this long: nothing is known of the rest.
_LONGEST_GAP = timedelta(minutes=1)
_SATELLITES = 1_000
_AT_ONCE = 8


class Board:
    """The boards of all callers: callers of the same teams share one."""

    def __init__(self, satellites: LiveQuery, log: EventLog) -> None:
        self._satellites = satellites
        self._log = log
        self._poll = Poll(
            self._read, interval=_EVERY, timeout=20.0, key="id", name="status", wake=[satellites]
        )

    def of(self, teams: Sequence[str] | None) -> Source:
        """The satellites of these teams and those without a team; None: all there are."""
        return self._poll(teams=None if teams is None else tuple(sorted(teams)))

    async def _read(self, teams: tuple[str, ...] | None) -> list[dict[str, Any]]:
        found = self._satellites.where()
        if teams is not None:
            found = self._satellites.where(Satellite.team_id.is_(None))
            if teams:
                found |= self._satellites.where(team_id=list(teams))
        rows = [change.item for change in (await found.page(_SATELLITES)).changes]
        limit = asyncio.Semaphore(_AT_ONCE)

        async def status(row: Mapping[str, Any]) -> dict[str, Any]:
            async with limit:
                page = await self._log.topic(topic_of(row["id"])).page(_REPORTS)
            reports = [change.item for change in page.changes]
            latest = reports[-1] if reports else None
            return {**row, "metrics": latest, "errors_last_5_minutes": _errors(reports)}

        return list(await asyncio.gather(*map(status, rows)))


def _errors(reports: Sequence[Mapping[str, Any]]) -> int:
    """The errors of the last five minutes: each report's rate since the one before it."""
    since = utc_now() - _RECENT
    total = 0.0
    before: datetime | None = None
    for report in reports:
        at = datetime.fromisoformat(report["at"])
        if before is not None and at > since:
            gap = min(at - max(before, since), _LONGEST_GAP)
            total += report["errors_per_s"] * max(0.0, gap.total_seconds())
        before = at
    return round(total)

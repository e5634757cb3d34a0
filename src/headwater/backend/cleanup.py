"""Removes old rows and events regularly."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from headwater.backend.models import ClientActivity
from headwater.backend.state import Backend
from headwater.backend.times import utc_now
from headwater.errors import SourceUnavailableError
from headwater.sql._table import GRACE

logger = logging.getLogger("headwater.backend")

# Processes follow changes of rights live. One that was away checks all rights again anyway.
_KEEP_ACCESS_CHANGES = timedelta(days=1)
# Seconds after the start.
_FIRST = 60.0
# A clock that goes forward by more than this between two removals was set. Nothing is removed for
# so long then: if it was set wrong, everything would be too old.
_JUMP = timedelta(hours=1)
_SETTLES = timedelta(days=1)


class Cleanup:
    """A task of one process. Several may run: each removes what it finds.

    A removal is announced ``grace`` seconds before, see `Table.trim`.

    Arguments:
        clock: returns the present moment.
        passed: returns seconds, and never jumps.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        grace: float = GRACE,
        clock: Callable[[], datetime] = utc_now,
        passed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._grace = grace
        self._clock = clock
        self._passed = passed
        # What the clock showed when `passed` was 0, while nobody sets it.
        self._zero = clock() - timedelta(seconds=passed())
        self._jumped_at: timedelta | None = None

    async def run(self) -> None:
        """Remove what is old every few minutes, until it is cancelled."""
        # Not in the first seconds, when clients reconnect.
        await asyncio.sleep(min(_FIRST, self._backend.settings.cleanup_seconds))
        while True:
            await self.once()
            await asyncio.sleep(self._backend.settings.cleanup_seconds)

    async def once(self) -> None:
        """Remove everything that is too old. A failure is logged, and the rest is done.

        Nothing is removed for a day after the clock jumped forward.
        """
        if not self._clock_is_settled():
            return
        settings, tables, grace = self._backend.settings, self._backend.tables, self._grace
        logs = timedelta(days=settings.keep_logs_days)
        notifications = timedelta(days=settings.keep_notifications_days)
        activity = timedelta(days=settings.keep_activity_days)
        metrics = timedelta(days=settings.keep_metrics_days)
        steps: dict[str, Callable[[], Awaitable[object]]] = {
            "log entries": lambda: tables.logs.trim(max_age=logs, column="created_at", grace=grace),
            "notifications": lambda: tables.notifications.trim(
                max_age=notifications, column="created_at", grace=grace
            ),
            "changes of rights": lambda: tables.access_changes.trim(
                max_age=_KEEP_ACCESS_CHANGES, column="created_at", grace=grace
            ),
            "metrics": lambda: self._backend.log.trim(max_age=metrics),
            "idle clients": lambda: self._backend.database.delete_in_steps(
                ClientActivity, ClientActivity.last_activity_at < utc_now() - activity
            ),
            "removals of clients": lambda: tables.activity.trim(max_age=activity, grace=grace),
            "former links": lambda: self._former_links(activity, grace),
            "former keys of satellites": self._backend.satellites.remove_expired_keys,
            "sessions": self._backend.sign_ins.remove_expired,
            "idempotency keys": self._backend.repeats.remove_old,
        }
        for name, step in steps.items():
            try:
                await step()
            except SourceUnavailableError as error:
                logger.warning("old %s could not be removed: %s", name, error)
            except Exception:
                logger.exception("old %s could not be removed", name)

    def _clock_is_settled(self) -> bool:
        passed = timedelta(seconds=self._passed())
        zero = self._clock() - passed
        ahead = zero - self._zero
        if ahead > _JUMP:
            if self._jumped_at is None:
                self._jumped_at = passed
                logger.warning(
                    "the clock went forward by %s at once; nothing old is removed for a day, so "
                    "set the clock right if it is wrong",
                    ahead,
                )
            if passed - self._jumped_at < _SETTLES:
                return False
        self._zero, self._jumped_at = zero, None
        return True

    async def _former_links(self, longest: timedelta, grace: float) -> None:
        tables = self._backend.tables
        for query in (tables.clients, tables.teams, tables.satellites):
            await query.trim(max_age=longest, grace=grace)

"""Changed rights reach the open streams of all processes.

A change of a user's rights writes a row in the same transaction. Each process follows that
table like any other feed, and checks the open streams of that user again at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from headwater.backend.models import AccessChange
from headwater.errors import SourceUnavailableError
from headwater.feeds.source import Change, Source
from headwater.web.fastapi import LiveRouter

__all__ = ["AccessWatch", "tell_access_change"]

logger = logging.getLogger("headwater.backend")

# Seconds between tries to follow the table while the database is away.
RETRY_SECONDS = 1.0


# Instead of a user's id: the rights of everyone.
_EVERYONE = "*"


async def tell_access_change(session: AsyncSession, user_id: str | None) -> None:
    """Say, as part of the caller's transaction, that rights are others now.

    Arguments:
        user_id: whose; None for everyone, as when a team or a satellite is removed.
    """
    await session.execute(insert(AccessChange).values(user_id=user_id or _EVERYONE))


class AccessWatch:
    """Follows the table in one process."""

    def __init__(self, live: LiveRouter, changes: Source) -> None:
        self._live = live
        self._changes = changes
        self._leave: Callable[[], None] | None = None
        self._joining: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Follow. While the database is away, it retries in the background."""
        try:
            await self._join()
        except SourceUnavailableError as error:
            logger.warning("changes of rights are not followed yet: %s", error)
            self._joining = asyncio.create_task(self._keep_joining())

    async def stop(self) -> None:
        if self._joining is not None:
            self._joining.cancel()
        if self._leave is not None:
            self._leave()
        for task in tuple(self._asking):
            task.cancel()

    async def _join(self) -> None:
        self._leave = await self._live.hub.subscribe(self._changes, self._changed)

    async def _keep_joining(self) -> None:
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            try:
                await self._join()
            except SourceUnavailableError:
                continue
            # What changed meanwhile was not seen.
            await self._live.recheck()
            return

    def _changed(self, changes: Sequence[Change]) -> None:
        users = {change.values["user_id"] for change in changes}
        for user_id in {_EVERYONE} & users or users:
            subject = None if user_id == _EVERYONE else f"user:{user_id}"
            task = asyncio.create_task(self._live.recheck(subject))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

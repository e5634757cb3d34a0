"""Runs the async ``item=`` function of a feed on changes, before the feed's channels get them.

The function is awaited once for each batch of an origin's changes, for all channels of the feed.
Batches are prepared one after another, so that their order stays. Reading the origin and other
feeds do not wait for it. When too many changes wait, they are dropped here, and the feed's streams
read them from the source instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from headwater.feeds._feed import Feed
from headwater.feeds._source import Change, Place

logger = logging.getLogger("headwater.delivery")

# How many changes of one feed may wait for its function.
MOST_WAITING = 5_000


class Prepared(Protocol):
    """A channel of a feed with an async item function."""

    def deliver_prepared(self, change: Change) -> bool:
        """Take one change; False if the channel is gone or cannot go on."""
        ...

    def fail(self, error: Exception) -> None:
        """The function raised this error."""
        ...

    def overtake(self, head: Place) -> None:
        """Changes up to here were dropped: streams read them from the source."""
        ...


class Preparation:
    """The batches of one feed and origin.

    Arguments:
        feed: the feed with the function.
        head: the present head of the origin.
        flush: called with the feed's channels after each batch.
        most: how many changes may wait.

    Attributes:
        head: every change up to here was delivered to the channels.
        channels: the channels of the feed.
    """

    def __init__(
        self,
        feed: Feed,
        head: Place,
        flush: Callable[[dict[Prepared, None]], None],
        most: int = MOST_WAITING,
    ) -> None:
        self.head = head
        self.channels: dict[Prepared, None] = {}
        self._feed = feed
        self._flush = flush
        self._most = most
        self._batch: list[tuple[Prepared, Change]] = []
        self._waiting: list[tuple[list[tuple[Prepared, Change]], Place]] = []
        self._count = 0
        self._task: asyncio.Task[None] | None = None

    def take(self, channel: Prepared, change: Change) -> None:
        """A change of the batch that is delivered just now."""
        self._batch.append((channel, change))

    def reached(self, head: Place) -> None:
        """The batch ends here."""
        batch, self._batch = self._batch, []
        if not batch and self._task is None:
            self.head = head
            return
        self._waiting.append((batch, head))
        self._count += len(batch)
        if self._count > self._most:
            self._overtake(head)
        elif self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def restart(self, head: Place) -> None:
        """The origin begins anew: what waits is void."""
        self.close()
        self.head = head

    def close(self) -> None:
        """Prepare nothing more."""
        task, self._task = self._task, None
        self._batch, self._waiting, self._count = [], [], 0
        if task is not None:
            task.cancel()

    def _overtake(self, head: Place) -> None:
        logger.warning(
            "feed %r: more than %d changes wait for its item function; streams read them again",
            self._feed.name,
            self._most,
        )
        self.restart(head)
        for channel in tuple(self.channels):
            channel.overtake(head)

    async def _run(self) -> None:
        while self._waiting:
            batch, head = self._waiting.pop(0)
            error: Exception | None = None
            try:
                await self._feed.prepare(list({id(one): one for _, one in batch}.values()))
            except Exception as raised:
                error = raised
            self._count -= len(batch)
            self.head = head
            gone: set[Prepared] = set()
            for channel, change in batch:
                if channel in gone:
                    continue
                if error is not None:
                    channel.fail(error)
                    gone.add(channel)
                elif not channel.deliver_prepared(change):
                    gone.add(channel)
            self._flush(self.channels)
        self._task = None

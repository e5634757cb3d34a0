"""A feed in memory that a task keeps up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Generic, Self, Unpack

from headwater.client._aio import AsyncFeed
from headwater.client._following import follow
from headwater.client._held import (
    MAX_ITEMS,
    NEWEST,
    NOT_FOLLOWED,
    Held,
    HeldItems,
    NewestItems,
    check_start,
)
from headwater.client._options import FollowOptions
from headwater.client._transport import httpx
from headwater.client._values import T
from headwater.errors import PeerError, UsageError


class _Live(Held):
    """The task that follows the feed, for as long as an ``async with`` block runs."""

    def __init__(self, feed: AsyncFeed[Any], *held: Any) -> None:
        super().__init__(*held)
        self._feed = feed
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._feed.aclose()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def changed(self, version: int = 0) -> int:
        """Wait until the content has another version than this one, and return that.

        Raises the error that ended the following, such as ResponseError.
        """
        if self._task is None:
            raise UsageError(NOT_FOLLOWED)
        while self._version == version:
            if self._failure is not None:
                raise self._failure
            await self._news.wait()
        return self._version

    async def _run(self) -> None:
        try:
            async with self._feed:
                async for value in self._feed:
                    if self.apply(value):
                        self._version += 1
                        self._wake()
            self._failure = PeerError("the feed has ended")
        except Exception as error:
            self._failure = error
        finally:
            self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class AsyncLiveMap(_Live, HeldItems[T], Generic[T]):
    """The items of a keyed feed by their key, kept up to date: a read-only mapping.

    ``await changed(version)`` waits for another version of the content and returns it.
    It raises the error that ended the following, such as ResponseError.

    Attributes:
        version: how often the content has changed; 0 before the first snapshot.
    """


class AsyncLiveList(_Live, NewestItems[T], Generic[T]):
    """The newest items of an append-only feed, oldest first, kept up to date: a read-only sequence.

    ``await changed(version)`` waits for another version of the content and returns it.
    It raises the error that ended the following, such as ResponseError.

    Attributes:
        version: how often the content has changed; 0 before the first snapshot.
    """


def live_map(
    url: str,
    *,
    key: str | Sequence[str] = "id",
    item: Any = None,
    max_items: int = MAX_ITEMS,
    client: httpx.AsyncClient | None = None,
    **options: Unpack[FollowOptions],
) -> AsyncLiveMap[Any]:
    """The items of a keyed feed, by their key, while an ``async with`` block runs.

    ::

        async with live_map("https://example.com/api/jobs", key="id", token=api_key) as jobs:
            version = 0
            while True:
                version = await jobs.changed(version)
                print(len(jobs), "jobs")

    ``key`` is the name of the member that identifies an item; with several names, keys are tuples.
    The map begins with the feed's snapshot. A feed that is declared with ``limit="all"`` sends all
    of its items, another feed its newest ones. More than ``max_items`` raise an error. The options
    are those of ``follow``, without a position.
    """
    check_start(options)
    return AsyncLiveMap(follow(url, client=client, **options), key, item, max_items)


def live_list(
    url: str,
    *,
    keep: int = NEWEST,
    item: Any = None,
    client: httpx.AsyncClient | None = None,
    **options: Unpack[FollowOptions],
) -> AsyncLiveList[Any]:
    """The newest ``keep`` items of an append-only feed, while an ``async with`` block runs.

    Otherwise as ``live_map``.
    """
    check_start(options)
    return AsyncLiveList(follow(url, item=item, client=client, **options), keep)

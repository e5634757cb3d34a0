"""``stream`` and ``follow`` for asyncio."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Unpack, overload

from headwater.client._aio import AsyncFeed, AsyncRunStream, AsyncStream
from headwater.client._feed_session import FeedSession
from headwater.client._options import FollowOptions, StreamOptions
from headwater.client._run import RunSession
from headwater.client._session import Session
from headwater.client._transport import httpx
from headwater.client._values import T
from headwater.protocol import Message


def stream(
    url: str, *, client: httpx.AsyncClient | None = None, **options: Unpack[StreamOptions]
) -> AsyncStream:
    """Follow any event stream. It connects when the iteration begins.

    ::

        async with stream("https://example.com/events", token=key) as messages:
            async for message in messages:
                print(message.event, message.json())

    ``client`` is used unchanged and stays open. The other options are in ``StreamOptions``. Raises
    UsageError for what cannot work.
    """
    return AsyncStream(Session[Message](url, **options), client)


def follow_run(
    url: str, *, client: httpx.AsyncClient | None = None, **options: Unpack[StreamOptions]
) -> AsyncRunStream:
    """Follow a run to its end, given its address; options as in ``stream``.

    ::

        async with follow_run("https://example.com/answers/7", token=key) as run:
            async for event in run:
                if event.name == "delta":
                    print(event.data["text"], end="")
        print(run.state)

    After ``restart`` and ``reset`` the output begins again.
    """
    return AsyncRunStream(RunSession(url, **options), client)


@overload
def follow(
    url: str,
    *,
    item: type[T] | Callable[[Mapping[str, Any]], T],
    client: httpx.AsyncClient | None = None,
    **options: Unpack[FollowOptions],
) -> AsyncFeed[T]: ...


@overload
def follow(
    url: str,
    *,
    item: None = None,
    client: httpx.AsyncClient | None = None,
    **options: Unpack[FollowOptions],
) -> AsyncFeed[Mapping[str, Any]]: ...


def follow(
    url: str,
    *,
    item: Any = None,
    client: httpx.AsyncClient | None = None,
    **options: Unpack[FollowOptions],
) -> AsyncFeed[Any]:
    """Follow a feed, given the address of either of its halves.

    ::

        async with follow("https://example.com/api/logs?level=error", token=key) as feed:
            async for value in feed:
                if isinstance(value, Item):
                    print(value.data)

    ``item`` converts each item: a pydantic model, a dataclass, or a function that takes the JSON
    object. Without it, items are dicts. An item that does not fit raises PeerError.

    ``client`` is used unchanged and stays open. The other options are in ``FollowOptions`` and
    ``StreamOptions``.

    The iteration also raises ResponseError when the server ends it because its right was lost.
    """
    return AsyncFeed(FeedSession(url, item=item, **options), client)

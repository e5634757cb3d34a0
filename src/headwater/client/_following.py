"""``stream`` and ``follow`` for asyncio."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Unpack, overload

from headwater.client._aio import AsyncFeed, AsyncRunStream, AsyncStream
from headwater.client._feed_session import FALLBACK, FeedSession
from headwater.client._options import StreamOptions
from headwater.client._run import RunSession
from headwater.client._session import Session
from headwater.client._transport import IDLE_TIMEOUT, httpx
from headwater.client._values import T
from headwater.protocol import Message

__all__ = ["follow", "follow_run", "stream"]


def stream(
    url: str,
    *,
    cookies: Mapping[str, str] | None = None,
    client: httpx.AsyncClient | None = None,
    idle_timeout: float | None = IDLE_TIMEOUT,
    **options: Unpack[StreamOptions],
) -> AsyncStream:
    """Follow any event stream; it connects when it is iterated.

    ::

        async with stream("https://example.com/events", token=key) as messages:
            async for message in messages:
                print(message.event, message.json())

    ``idle_timeout`` is the longest silence in seconds, heartbeats included, after which the
    connection is taken for dead, and the longest time until an answer begins; None waits for ever.
    ``client`` is used as it is and stays open. The other options are in ``StreamOptions``. Raises
    UsageError for what cannot work.
    """
    return AsyncStream(Session[Message](url, **options), client, cookies, idle_timeout)


def follow_run(
    url: str,
    *,
    cookies: Mapping[str, str] | None = None,
    client: httpx.AsyncClient | None = None,
    idle_timeout: float | None = IDLE_TIMEOUT,
    **options: Unpack[StreamOptions],
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
    return AsyncRunStream(RunSession(url, **options), client, cookies, idle_timeout)


@overload
def follow(
    url: str,
    *,
    item: type[T] | Callable[[Mapping[str, Any]], T],
    fallback: float | None = FALLBACK,
    envelope: str | None = None,
    cookies: Mapping[str, str] | None = None,
    client: httpx.AsyncClient | None = None,
    idle_timeout: float | None = IDLE_TIMEOUT,
    **options: Unpack[StreamOptions],
) -> AsyncFeed[T]: ...


@overload
def follow(
    url: str,
    *,
    item: None = None,
    fallback: float | None = FALLBACK,
    envelope: str | None = None,
    cookies: Mapping[str, str] | None = None,
    client: httpx.AsyncClient | None = None,
    idle_timeout: float | None = IDLE_TIMEOUT,
    **options: Unpack[StreamOptions],
) -> AsyncFeed[Mapping[str, Any]]: ...


def follow(
    url: str,
    *,
    item: Any = None,
    fallback: float | None = FALLBACK,
    envelope: str | None = None,
    cookies: Mapping[str, str] | None = None,
    client: httpx.AsyncClient | None = None,
    idle_timeout: float | None = IDLE_TIMEOUT,
    **options: Unpack[StreamOptions],
) -> AsyncFeed[Any]:
    """Follow a feed, given the address of either of its halves; options as in ``stream``.

    ::

        async with follow("https://example.com/api/logs?level=error", token=key) as feed:
            async for value in feed:
                if isinstance(value, Item):
                    print(value.data)

    ``item`` is what items are given as: a pydantic model, a dataclass, or a function that takes the
    JSON object; without it they are dicts. One that does not fit is a PeerError.

    A stream that brings no byte within ``fallback`` seconds is in the hands of a proxy that
    collects answers: the REST half is then asked by long-polls, and now and then the stream is
    tried again. A page has one position, so a program that is ended within one gets its items
    again. None never polls.

    ``envelope`` names the member of each answer that has the page or the item, such as ``"data"``
    in ``{"success": true, "data": …}``, where the feed was declared with ``envelope=``.

    Raises ResponseError also when the server ends the stream because the right to it was lost.
    """
    session = FeedSession(url, item=item, fallback=fallback, envelope=envelope, **options)
    return AsyncFeed(session, client, cookies, idle_timeout)

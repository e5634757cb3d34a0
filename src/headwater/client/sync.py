"""The client without asyncio: the same names, for plain ``for`` loops and threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack, overload

from headwater.client._blocking import Feed, RunStream, Stream
from headwater.client._feed_session import FALLBACK, FeedSession
from headwater.client._held import MAX_ITEMS, NEWEST, check_options
from headwater.client._options import FollowOptions, StreamOptions
from headwater.client._run import RunSession
from headwater.client._session import Session
from headwater.client._sync_live import LiveList, LiveMap
from headwater.client._transport import IDLE_TIMEOUT, httpx
from headwater.client._values import T
from headwater.protocol import Message

__all__ = [
    "Feed",
    "LiveList",
    "LiveMap",
    "RunStream",
    "Stream",
    "follow",
    "follow_run",
    "live_list",
    "live_map",
    "stream",
]


def stream(
    url: str,
    *,
    cookies: Mapping[str, str] | None = None,
    client: httpx.Client | None = None,
    idle_timeout: float | None = IDLE_TIMEOUT,
    **options: Unpack[StreamOptions],
) -> Stream:
    """Follow any event stream; see ``headwater.client.stream``."""
    return Stream(Session[Message](url, **options), client, cookies, idle_timeout)


def follow_run(
    url: str,
    *,
    cookies: Mapping[str, str] | None = None,
    client: httpx.Client | None = None,
    idle_timeout: float | None = IDLE_TIMEOUT,
    **options: Unpack[StreamOptions],
) -> RunStream:
    """Follow a run to its end, given its address; see ``headwater.client.follow_run``."""
    return RunStream(RunSession(url, **options), client, cookies, idle_timeout)


@overload
def follow(
    url: str,
    *,
    item: type[T] | Callable[[Mapping[str, Any]], T],
    fallback: float | None = FALLBACK,
    envelope: str | None = None,
    cookies: Mapping[str, str] | None = None,
    client: httpx.Client | None = None,
    idle_timeout: float | None = IDLE_TIMEOUT,
    **options: Unpack[StreamOptions],
) -> Feed[T]: ...


@overload
def follow(
    url: str,
    *,
    item: None = None,
    fallback: float | None = FALLBACK,
    envelope: str | None = None,
    cookies: Mapping[str, str] | None = None,
    client: httpx.Client | None = None,
    idle_timeout: float | None = IDLE_TIMEOUT,
    **options: Unpack[StreamOptions],
) -> Feed[Mapping[str, Any]]: ...


def follow(
    url: str,
    *,
    item: Any = None,
    fallback: float | None = FALLBACK,
    envelope: str | None = None,
    cookies: Mapping[str, str] | None = None,
    client: httpx.Client | None = None,
    idle_timeout: float | None = IDLE_TIMEOUT,
    **options: Unpack[StreamOptions],
) -> Feed[Any]:
    """Follow a feed, given the address of either of its halves; see ``headwater.client.follow``."""
    session = FeedSession(url, item=item, fallback=fallback, envelope=envelope, **options)
    return Feed(session, client, cookies, idle_timeout)


def live_map(
    url: str,
    *,
    key: str | Sequence[str] = "id",
    item: Any = None,
    max_items: int = MAX_ITEMS,
    client: httpx.Client | None = None,
    **options: Unpack[FollowOptions],
) -> LiveMap[Any]:
    """The items of a keyed feed, while a ``with`` block runs; see ``headwater.client.live_map``."""
    check_options(options)
    return LiveMap(follow(url, client=client, **options), key, item, max_items)


def live_list(
    url: str,
    *,
    keep: int = NEWEST,
    item: Any = None,
    client: httpx.Client | None = None,
    **options: Unpack[FollowOptions],
) -> LiveList[Any]:
    """The newest items of a feed; see ``headwater.client.live_list``."""
    check_options(options)
    return LiveList(follow(url, client=client, **options), keep, item)

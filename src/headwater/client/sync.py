"""The client without asyncio: the same names, for plain ``for`` loops and threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack, overload

from headwater.client._blocking import Feed, RunStream, Stream
from headwater.client._feed_session import FeedSession
from headwater.client._held import MAX_ITEMS, NEWEST, check_start
from headwater.client._options import FollowOptions, StreamOptions
from headwater.client._run import RunSession
from headwater.client._session import Session
from headwater.client._sync_live import LiveList, LiveMap
from headwater.client._transport import httpx
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
    url: str, *, client: httpx.Client | None = None, **options: Unpack[StreamOptions]
) -> Stream:
    """Follow any event stream; see ``headwater.client.stream``."""
    return Stream(Session[Message](url, **options), client)


def follow_run(
    url: str, *, client: httpx.Client | None = None, **options: Unpack[StreamOptions]
) -> RunStream:
    """Follow a run to its end, given its address; see ``headwater.client.follow_run``."""
    return RunStream(RunSession(url, **options), client)


@overload
def follow(
    url: str,
    *,
    item: type[T] | Callable[[Mapping[str, Any]], T],
    client: httpx.Client | None = None,
    **options: Unpack[FollowOptions],
) -> Feed[T]: ...


@overload
def follow(
    url: str,
    *,
    item: None = None,
    client: httpx.Client | None = None,
    **options: Unpack[FollowOptions],
) -> Feed[Mapping[str, Any]]: ...


def follow(
    url: str,
    *,
    item: Any = None,
    client: httpx.Client | None = None,
    **options: Unpack[FollowOptions],
) -> Feed[Any]:
    """Follow a feed, given the address of either of its halves; see ``headwater.client.follow``."""
    return Feed(FeedSession(url, item=item, **options), client)


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
    check_start(options)
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
    check_start(options)
    return LiveList(follow(url, item=item, client=client, **options), keep)

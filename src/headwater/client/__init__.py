"""Follows event streams and feeds from Python. It reconnects by itself and resumes where it was.

``stream`` and ``follow`` are for asyncio. ``headwater.client.sync`` has the same for threads.
"""

from headwater.client._address import rest_url, stream_url
from headwater.client._aio import AsyncFeed, AsyncRunStream, AsyncStream
from headwater.client._aio_live import AsyncLiveList, AsyncLiveMap, live_list, live_map
from headwater.client._following import follow, follow_run, stream
from headwater.client._options import FollowOptions, StreamOptions
from headwater.client._run import RunEvent
from headwater.client._values import FeedValue, Item, Removed, Reset, Snapshot
from headwater.protocol import Message, Wait

__all__ = [
    "AsyncFeed",
    "AsyncLiveList",
    "AsyncLiveMap",
    "AsyncRunStream",
    "AsyncStream",
    "FeedValue",
    "FollowOptions",
    "Item",
    "Message",
    "Removed",
    "Reset",
    "RunEvent",
    "Snapshot",
    "StreamOptions",
    "Wait",
    "follow",
    "follow_run",
    "live_list",
    "live_map",
    "rest_url",
    "stream",
    "stream_url",
]

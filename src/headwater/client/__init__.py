"""Follow event streams and feeds from Python: reconnects by itself and resumes where it was.

``stream`` and ``follow`` are for asyncio; ``headwater.client.sync`` has the same without it.
"""

from headwater.client.aio import AsyncFeed, AsyncStream, follow, stream
from headwater.client.feed import FeedValue, Item, Removed, Reset, Snapshot, stream_url
from headwater.client.session import StreamOptions
from headwater.protocol import Message, Wait

__all__ = [
    "AsyncFeed",
    "AsyncStream",
    "FeedValue",
    "Item",
    "Message",
    "Removed",
    "Reset",
    "Snapshot",
    "StreamOptions",
    "Wait",
    "follow",
    "stream",
    "stream_url",
]

"""The open streams and the tails of a process, as they are now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from headwater.delivery._channel import Channel
from headwater.delivery._feed_stream import FeedStream
from headwater.delivery._hub import Hub
from headwater.delivery._reader import OriginReader
from headwater.delivery._stream import Stream
from headwater.web._rights import Right


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """One open stream, as it is now.

    Attributes:
        id: unique in this process; ``close_stream`` takes it.
        opened_at: when its head was sent.
        subjects: on whose behalf, as guards passed it to ``identify``.
        client: the client's address; a proxy's where the server does not know the client's.
        address: what was asked for: the path, with its query.
        feed: the name of the feed; None for a stream of ``sse=``.
        position: where its client is in the feed; None for a stream of ``sse=``.
        lag: events of the feed that were not written to it yet. None while it reads the source,
            and for a stream of ``sse=``.
        waiting_bytes: written to it, and not taken by its connection yet.
        sent_bytes: that its peer has acknowledged, on Linux and Headwater's protocol for uvicorn;
            elsewhere those that were given to the server. None where neither is known.
    """

    id: str
    opened_at: datetime
    subjects: tuple[str, ...]
    client: str
    address: str
    feed: str | None
    position: str | None
    lag: int | None
    waiting_bytes: int
    sent_bytes: int | None


@dataclass(frozen=True, slots=True)
class TailInfo:
    """What reads one table, topic or function for all streams of a process.

    Attributes:
        name: of what it reads.
        changes: read since it began to.
        streams: open ones that show it, by the name of their feed.
    """

    name: str
    changes: int
    streams: Mapping[str, int]


def stream_infos(hub: Hub) -> list[StreamInfo]:
    """All open streams, the oldest first."""
    streams = [each for each in hub.streams if isinstance(each, Stream) and not each.ended]
    return [_info(each) for each in sorted(streams, key=lambda stream: stream.number)]


def tail_infos(hub: Hub) -> list[TailInfo]:
    """All that is read, by name."""
    return sorted((_tail(each) for each in hub.readers), key=lambda tail: tail.name)


def _info(stream: Stream) -> StreamInfo:
    right = stream.lease if isinstance(stream.lease, Right) else None
    request = None if right is None else right.request
    feed = position = lag = None
    if isinstance(stream, FeedStream):
        channel = stream.channel
        feed = channel.feed.name
        place, lag = stream.progress
        if place is not None:
            position = channel.feed.position(channel.reader.epoch, place)
    return StreamInfo(
        id=str(stream.number),
        opened_at=datetime.fromtimestamp(stream.number / 1_000_000, UTC),
        subjects=() if right is None else right.subjects,
        client="" if request is None else request.client,
        address="" if request is None else request.address,
        feed=feed,
        position=position,
        lag=lag,
        waiting_bytes=stream.sender.pending,
        sent_bytes=stream.sender.sent,
    )


def _tail(reader: OriginReader) -> TailInfo:
    streams: Counter[str] = Counter()
    for target in reader.targets.values():
        if isinstance(target, Channel):
            streams[target.feed.name] += len(target.streams)
    return TailInfo(reader.origin.name, reader.delivered, dict(streams))

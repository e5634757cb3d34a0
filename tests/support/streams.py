"""Streams of a real hub without a network, and a client of them that resumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from headwater.delivery._feed_stream import FeedStream, open_feed
from headwater.delivery._hub import Hub
from headwater.delivery._sender import Sender
from headwater.feeds._feed import Feed
from headwater.feeds._source import Source
from headwater.protocol import Decoder, Message


class MemorySender(Sender):
    """Keeps the bytes. While ``full`` it is a connection whose peer reads nothing.

    Attributes:
        room: bytes that it takes until it is full; None for any number.
    """

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.room: int | None = None
        self._decoder = Decoder()

    @property
    def pending(self) -> int:
        return 0

    def start(self, status: int, headers: Any, /) -> None:
        assert status == 200

    def write(self, data: bytes) -> None:
        if not self.closed:
            self.data += data
            if self.room is not None and len(data) >= self.room:
                self.full = True

    def gone(self) -> None:
        self.closed = True

    def finish(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def drain(self) -> None:
        """Let the peer read again."""
        self.full, self.room = False, None
        if self.stream is not None:
            self.stream.idle()

    @property
    def position(self) -> str:
        """The last id in the bytes so far, also of a block without an event."""
        return self._decoder.last_event_id

    def take(self) -> list[Message]:
        """The events since the last call."""
        data, self.data = self.data, b""
        return self._decoder.feed(data)


class StreamClient:
    """A client of a feed that keeps what it received and resumes from the last id.

    Attributes:
        told: the ids of the items, in order, across all its connections.
        items: by key, what a keyed feed told.
        resets: the reasons of those.
    """

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.told: list[Any] = []
        self.items: dict[Any, Any] = {}
        self.resets: list[str] = []
        self.last: str | None = None
        self.make_sender: Callable[[], MemorySender] = MemorySender
        self.sender = MemorySender()
        self.stream: FeedStream | None = None

    async def connect(self, hub: Hub, source: Source) -> None:
        self.sender = self.make_sender()
        channel = await hub.hold(self.feed, source)
        try:
            opening = await open_feed(channel, limit=100, resume=self.last)
            self.stream = FeedStream(self.sender, hub.streams, channel, limit=100, heartbeat=None)
            self.stream.begin(opening)
        finally:
            hub.release(channel)
        self.read()

    def read(self, most: int | None = None) -> None:
        """Read what has arrived, but at most the first ``most`` events."""
        messages = self.sender.take()
        last = self.last
        for message in messages[:most]:
            last = message.last_event_id
            data = json.loads(message.data) if message.data else None
            if message.event == "snapshot":
                self.told += [item["id"] for item in data[self.feed.collection]]
                self.items = {item["id"]: item for item in data[self.feed.collection]}
            elif message.event == "reset":
                self.resets.append(data["reason"])
                self.told, self.items = [], {}
            elif message.event == f"{self.feed.event}_removed":
                self.items.pop(data["id"], None)
            elif message.event == self.feed.event:
                self.told.append(data["id"])
                self.items[data["id"]] = data
        if most is None or most >= len(messages):
            last = self.sender.position
        if last and (messages or most is None):
            self.last = last

    def leave(self, most: int | None = None) -> None:
        """Read at most ``most`` of the events that have arrived, then drop the connection."""
        self.read(most)
        if self.stream is not None:
            self.sender.gone()
            self.stream.close()
            self.stream = None

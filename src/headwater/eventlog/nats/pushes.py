"""Pushes from NATS: the server publishes each stored event, one subscription for each topic."""

from __future__ import annotations

from collections.abc import Sequence

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error

from headwater.eventlog.nats.connection import PATIENCE, Life, Tap, unavailable
from headwater.eventlog.nats.stream import Stream, record_of
from headwater.eventlog.push_reader import Push, PushReader
from headwater.eventlog.record import Offset

__all__ = ["NatsSubscriptions"]

# Subscriptions between two flushes, so that the server's buffer for this client does not fill.
CHUNK = 1000


class NatsSubscriptions:
    """The subscriptions on the log's own connection. See ``Subscriptions``."""

    def __init__(self, life: Life, stream: Stream, reader: PushReader) -> None:
        self._life = life
        self._stream = stream
        self._reader = reader
        self._tap = Tap(self._receive)
        self._subscriptions: dict[str, Subscription] = {}
        life.listeners.append(reader.lost)

    async def subscribe(self, topics: Sequence[str]) -> None:
        """As Subscriptions."""
        try:
            for start in range(0, len(topics), CHUNK):
                for topic in topics[start : start + CHUNK]:
                    if topic not in self._subscriptions:
                        self._subscriptions[topic] = await self._life.client.subscribe(
                            self._stream.subject("n", topic), future=self._tap
                        )
                await self._life.client.flush(int(PATIENCE))
        except (Error, OSError, TimeoutError) as error:
            raise unavailable(error) from error

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """As Subscriptions."""
        try:
            for topic in topics:
                subscription = self._subscriptions.pop(topic, None)
                if subscription is not None:
                    await subscription.unsubscribe()
        except (Error, OSError, TimeoutError) as error:
            raise unavailable(error) from error

    async def ping(self) -> None:
        """As Subscriptions."""
        try:
            await self._life.client.flush(int(PATIENCE))
        except (Error, OSError, TimeoutError) as error:
            # Silent for too long: close it, for requests too.
            await self._life.close()
            raise unavailable(error) from error

    async def close(self) -> None:
        """As Subscriptions. The connection itself stays open: it is the log's."""
        if self._reader.lost in self._life.listeners:
            self._life.listeners.remove(self._reader.lost)
        if not self._life.client.is_closed:
            await self.unsubscribe(list(self._subscriptions))

    def _receive(self, message: Msg) -> None:
        headers = message.headers or {}
        topic = self._stream.topic(message.subject)
        if topic in self._subscriptions:
            record = record_of(topic, message)
            before = Offset.of(int(headers.get("Nats-Last-Sequence", 0)))
            push = Push(topic, before, record.offset, [record], record.offset[0])
            self._reader.receive(push)

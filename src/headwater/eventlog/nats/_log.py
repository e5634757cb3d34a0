"""``NatsLog``: an event log in NATS JetStream, and opening one.

The server publishes each stored event again, with one subscription for each followed topic.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error

from headwater.errors import UsageError
from headwater.eventlog._addresses import Address
from headwater.eventlog._interface import EventLog
from headwater.eventlog._pushed import PushedLog, PushReader
from headwater.eventlog._pushes import Push, States, Subscriptions
from headwater.eventlog._record import Event, Offset, Record, Retention, Run, encode_all
from headwater.eventlog.nats._connection import NAME, Life, Link, Tap, unavailable
from headwater.eventlog.nats._pages import LAST, Pages, Trimmer
from headwater.eventlog.nats._stream import (
    LAG,
    RETRY,
    Stream,
    mark_of,
    record_of,
    records_of,
    sequence_of,
)
from headwater.eventlog.nats._writer import BATCH_BYTES, MAX_BATCH, NatsWriter

# Pings between two checks of the stream's settings, which somebody may edit.
INSPECT = 5
# Subscriptions between two flushes, so that the buffer for this client does not fill.
CHUNK = 1000


class NatsSubscriptions:
    """The subscriptions on the log's own connection. See ``Subscriptions``."""

    def __init__(self, life: Life, stream: Stream, reader: PushReader) -> None:
        self._life = life
        self._stream = stream
        self._reader = reader
        self._tap = Tap(self._receive)
        self._subscriptions: dict[str, Subscription] = {}
        self._pings = 0
        life.lost = reader.lost

    async def subscribe(self, topics: Sequence[str]) -> None:
        """As Subscriptions."""
        is_first = not self._subscriptions
        try:
            for start in range(0, len(topics), CHUNK):
                for topic in topics[start : start + CHUNK]:
                    if topic not in self._subscriptions:
                        self._subscriptions[topic] = await self._life.client.subscribe(
                            self._stream.subject("n", topic), future=self._tap
                        )
                await self._life.flush()
            if is_first:
                await self._life.flush()  # a refusal may come after the first
            self._life.check_rights(self._stream.subject("n", ""))
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
            await self._life.flush()
            self._life.check_rights(self._stream.subject("n", ""))
        except (Error, OSError, TimeoutError) as error:
            # Close it, for requests too: it does not answer.
            await self._life.close()
            raise unavailable(error) from error
        self._pings += 1
        if self._pings % INSPECT == 0:
            await self._stream.inspect()

    async def close(self) -> None:
        """As Subscriptions. The connection itself stays open: it is the log's."""
        self._life.lost = None
        if not self._life.client.is_closed:
            await self.unsubscribe(list(self._subscriptions))

    def _receive(self, message: Msg) -> None:
        headers = message.headers or {}
        topic = self._stream.topic(message.subject)
        if topic in self._subscriptions:
            record = record_of(topic, message)
            before = Offset.of(int(headers.get("Nats-Last-Sequence", 0)))
            number = int(headers["Nats-Sequence"])
            records = None if record is None else [record]
            self._reader.receive(Push(topic, before, Offset.of(number), records, number))


# Bytes for headers: a server's default limit is 1 MiB for a message with its headers.
HEADERS_BYTES = 4096

_NAME = re.compile(r"[0-9A-Za-z_-]{1,50}")


class NatsLog(PushedLog):
    """An event log in a stream of NATS JetStream.

    A process opens one connection, for requests and pushes. A batch with a key may have one event
    less than ``capabilities.max_batch``.

    Arguments:
        servers: ``nats://host:4222`` and the like. The log uses the first that answers.
        stream: the stream's name, with which its subjects begin. It is created if it is missing.
        replicas: how many servers of a cluster keep a stream that is created.
        keys_kept: how long the log remembers an append's key. The longest that any process has
            asked for counts. The server keeps each key in memory, and reads this part of the stream
            when it starts.
        max_event_bytes: the most bytes of one event's JSON; less if the server takes less.
        options: for ``nats.connect``, such as ``user_credentials`` or ``tls``.
    """

    name = NAME
    max_append_bytes = BATCH_BYTES
    # The answer about a topic has its last event.
    topics_per_request = 100
    at_once = 20

    def __init__(
        self,
        servers: str | Sequence[str],
        *,
        stream: str = "headwater",
        replicas: int = 1,
        keys_kept: timedelta = timedelta(hours=1),
        max_event_bytes: int = EventLog.max_event_bytes - HEADERS_BYTES,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if not _NAME.fullmatch(stream):
            raise UsageError(f"stream {stream[:60]!a}: 1 to 50 characters of 0-9 A-Z a-z _ -")
        super().__init__(keys_kept, MAX_BATCH)
        self.max_event_bytes = max_event_bytes
        self._servers = [servers] if isinstance(servers, str) else servers
        self._options = options or {}
        self._link = Link(self._servers, self._options, self._opened)
        self._stream = Stream(self._link, stream, replicas, keys_kept)
        self._pages = Pages(self._stream)
        self._trimmer = Trimmer(self._stream, self._pages)
        self._writer = NatsWriter(self._stream, self._pages)

    async def _start(self) -> None:
        await self._stream.ready()
        self.capabilities = replace(self.capabilities, keys_kept=self._stream.keys_kept)

    def _opened(self, life: Life) -> None:
        self.max_event_bytes = min(self.max_event_bytes, life.client.max_payload - HEADERS_BYTES)

    async def _append(
        self, topic: str, events: Sequence[Event], key: str | None, connection: Any
    ) -> list[Record]:
        # The note of a key is a message of its own.
        if key is not None and len(events) == MAX_BATCH:
            raise UsageError(f"one append with a key takes at most {MAX_BATCH - 1} events")
        await self._link.life()
        if any(event.size > self.max_event_bytes for event in events):
            # Too much for this server, which was not known before the first use.
            encode_all([event.data for event in events], self.max_event_bytes, MAX_BATCH)
        return await self._writer.append(topic, events, key)

    async def _read(self, topic: str, after: Offset, limit: int) -> tuple[Run, Offset | None]:
        deadline = time.monotonic() + LAG
        while True:
            run, last = await self._read_once(topic, after, limit)
            there = run.place is not None or not run.bounds.earliest < after <= run.bounds.latest
            if there or self._stream.replicas == 1 or time.monotonic() > deadline:
                return run, last
            await asyncio.sleep(RETRY)  # a replica may not have the record at ``after`` yet

    async def _read_once(self, topic: str, after: Offset, limit: int) -> tuple[Run, Offset | None]:
        number = min(after[0], LAST)
        # One more: what stands at the offset itself.
        messages = await self._pages.after(
            self._stream.subject("t", topic), max(number - 1, 0), limit + 1
        )
        full, place = len(messages) > limit, None
        if messages and sequence_of(messages[0]) == number:
            place = mark_of(messages.pop(0))
        messages = messages[:limit]
        seen = Offset.of(sequence_of(messages[-1]) if messages else number)
        # Read after the records, so that a trim in between is noticed. Events that were appended in
        # between are not in the records, so the bounds must leave them out too.
        bounds = await self._bounds(topic)
        last = seen if full else None
        if last is None and seen < bounds.latest:
            mark = mark_of(messages[-1]) if messages else place or ""
            if seen <= bounds.earliest:
                seen, mark = bounds.earliest, ""
            bounds = replace(bounds, latest=seen, mark=mark)
        return Run(records_of(topic, messages), bounds, place), last

    async def _latest(
        self, topic: str, limit: int, before: Offset | None
    ) -> tuple[Run, Offset | None]:
        bounds = await self._bounds(topic)
        head = bounds.latest[0] + 1
        below = head if before is None else min(head, before[0])
        subject = self._stream.subject("t", topic)
        messages = await self._pages.newest(subject, below, limit, at_end=below == head)
        first = Offset.of(sequence_of(messages[0])) if len(messages) == limit else None
        return Run(records_of(topic, messages), bounds), first

    async def _topics_to_trim(self, keep: Retention) -> Sequence[str]:
        return await self._trimmer.topics(keep)

    async def _trim_topic(self, topic: str, keep: Retention) -> int:
        return await self._trimmer.trim(topic, keep)

    async def _forget_topic(self, topic: str) -> None:
        await self._trimmer.forget(topic)

    def another(self) -> EventLog:
        return NatsLog(
            self._servers,
            stream=self._stream.name,
            replicas=self._stream.replicas,
            keys_kept=self._stream.keys_kept,
            max_event_bytes=self.max_event_bytes,
            options=self._options,
        )

    async def _close(self) -> None:
        await super()._close()
        await self._writer.close()
        await self._link.close()

    async def listen(self, reader: PushReader) -> Subscriptions:
        """As PushedLog."""
        return NatsSubscriptions(await self._link.life(), self._stream, reader)

    async def _states(self, topics: Sequence[str]) -> States:
        return await self._stream.states(topics)

    async def begin_anew(self, epoch: str) -> None:
        """As PushedLog."""
        await self._stream.begin_anew(epoch)

    async def went_back(self, topic: str, last: Offset) -> bool:
        """As PushedLog. Then its sequence was given to another message."""
        messages = await self._pages.after(f"{self._stream.name}.>", last[0] - 1, 1)
        return bool(messages) and sequence_of(messages[0]) == last[0]


def open_nats(url: str) -> NatsLog:
    """The log at ``nats://[user:password@]host[:port][,host…]``; ``tls://`` for TLS.

    Options: ``stream``, ``replicas``, ``keys_kept`` in seconds, ``credentials``: a file.
    """
    address = Address.parse(url, "nats")
    replicas = address.number("replicas", 1)
    kept = address.number("keys_kept", 3600)
    place, given = address.place, address.options
    stream, credentials = given.pop("stream", "headwater"), given.pop("credentials", None)
    if given or address.path not in {"", "/"} or credentials == "":
        raise UsageError(
            "event log nats://: give an address such as nats://host:4222, and as options only "
            "stream, replicas, keys_kept and credentials"
        )
    users = {host.rpartition("@")[0] for host in place.split(",") if "@" in host}
    if len(users) > 1:
        raise UsageError("event log nats://: give one user and password for all hosts")
    user, colon, password = (users or {""}).pop().partition(":")
    options: dict[str, Any] = {}
    if user:
        names = ("user", "password") if colon else ("token",)
        options = dict(zip(names, (unquote(user), unquote(password)), strict=False))
    if credentials is not None:
        options["user_credentials"] = credentials
    hosts = [host.rpartition("@")[2] for host in place.split(",")]
    if not all(map(_is_host, hosts)):
        raise UsageError(
            "event log nats://: give hosts with or without ports, as in nats://host:4222,other"
        )
    return NatsLog(
        [f"{address.scheme}://{host}" for host in hosts],
        stream=stream,
        replicas=replicas,
        keys_kept=timedelta(seconds=kept),
        options=options,
    )


def _is_host(text: str) -> bool:
    try:
        parts = urlsplit(f"//{text}")
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False

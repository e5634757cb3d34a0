"""An event log in NATS 2.12 or newer: one JetStream stream for all topics.

A batch, and the memory of its key, are stored as a whole or not at all. An offset is the stream's
own sequence, so that offsets of one topic rise with gaps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from headwater.errors import UsageError
from headwater.eventlog.interface import EventLog, Follower
from headwater.eventlog.nats.batches import BATCH_BYTES, MAX_BATCH
from headwater.eventlog.nats.connection import NAME, Link
from headwater.eventlog.nats.pages import Pages
from headwater.eventlog.nats.pushes import NatsPushes
from headwater.eventlog.nats.stream import Stream, record_of
from headwater.eventlog.nats.trim import Trimmer
from headwater.eventlog.nats.writer import Writer
from headwater.eventlog.push_reader import PushReader
from headwater.eventlog.pushes import Pushes, Receiver, States
from headwater.eventlog.record import (
    Bounds,
    Capabilities,
    Offset,
    Record,
    Retention,
    Run,
    check_key,
    check_topic,
    encode_all,
)

__all__ = ["NatsLog", "open_nats"]

# A server's default bound is 1 MiB for a message with its headers.
HEADERS_BYTES = 4096
# The server's largest sequence.
_LAST = 2**64 - 1

_NAME = re.compile(r"[0-9A-Za-z_-]{1,50}")


class NatsLog(EventLog):
    """An event log in a stream of NATS JetStream.

    One connection for a process, on which it asks and is pushed to. A batch with a key takes one
    event less than ``capabilities.max_batch``.

    Args:
        servers: ``nats://host:4222`` and the like; any of them that answers is taken.
        stream: the stream's name, which its subjects begin with; created where it is missing.
        replicas: servers of a cluster that each keep the stream, for one that is created.
        keys_kept: how long an append's key is remembered: the longest that any process asked for.
            The server has each in memory meanwhile, and reads so much of the stream when it starts.
        max_event_bytes: of one event's JSON; less where the server takes less.
        options: for ``nats.connect``, such as ``user_credentials`` or ``tls``.
    """

    name = NAME

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
        if keys_kept < timedelta(seconds=1):
            raise UsageError(f"keys_kept={keys_kept}: a retry needs at least a second")
        self.capabilities = Capabilities(
            durable=True,
            multi_process=True,
            transactional=False,
            trim_by_size=True,
            max_batch=MAX_BATCH,
            keys_kept=keys_kept,
        )
        self.max_event_bytes = max_event_bytes
        self._link = Link([servers] if isinstance(servers, str) else servers, options or {})
        self._stream = Stream(self._link, stream, replicas, keys_kept)
        self._pages = Pages(self._stream)
        self._trimmer = Trimmer(self._stream, self._pages)
        self._reader = PushReader(self)
        self._writer = Writer(self._stream, self._pages)

    async def start(self) -> None:
        await self._stream.ready()
        self.capabilities = replace(self.capabilities, keys_kept=self._stream.keys_kept)
        life = await self._link.life()
        self.max_event_bytes = min(self.max_event_bytes, life.client.max_payload - HEADERS_BYTES)

    async def append(
        self,
        topic: str,
        data: Mapping[str, Any] | Iterable[Mapping[str, Any]],
        *,
        key: str | None = None,
        connection: Any = None,
    ) -> list[Record]:
        check_topic(topic)
        check_key(key)
        if connection is not None:
            raise UsageError(f"{NAME} cannot join a transaction: leave connection out")
        events = encode_all(data, self.max_event_bytes, MAX_BATCH)
        if not events:
            return []
        # The memory of a key is a message of its own.
        if key is not None and len(events) == MAX_BATCH:
            raise UsageError(f"one append with a key takes at most {MAX_BATCH - 1} events")
        if (size := sum(event.size for event in events)) > BATCH_BYTES:
            raise UsageError(f"one append takes at most {BATCH_BYTES} bytes, not {size}")
        return await self._writer.append(topic, events, key)

    async def read(self, topic: str, after: Offset, limit: int) -> Run:
        subject = self._stream.subject("t", check_topic(topic))
        number = min(after[0], _LAST)
        messages = await self._pages.after(subject, number, max(limit, 1))
        records = [record_of(topic, one) for one in messages]
        # Looked at afterwards, so that a trim in between is noticed. Then what was appended in
        # between is not in the records, and is left out of the bounds too.
        bounds = (await self._stream.states([topic])).topics[topic]
        seen = records[-1].offset if records else after
        if len(records) < limit and seen < bounds.latest:
            bounds = Bounds(bounds.epoch, bounds.earliest, max(seen, bounds.earliest))
        return Run(records, bounds)

    async def latest(self, topic: str, limit: int, before: Offset | None = None) -> Run:
        bounds = (await self._stream.states([check_topic(topic)])).topics[topic]
        head = bounds.latest[0] + 1
        below = head if before is None else min(head, before[0])
        subject = self._stream.subject("t", topic)
        messages = await self._pages.newest(subject, below, max(limit, 1), at_end=below == head)
        return Run([record_of(topic, one) for one in messages], bounds)

    async def bounds(self, topic: str) -> Bounds:
        return (await self._stream.states([check_topic(topic)])).topics[topic]

    async def follow(self, topic: str, follower: Follower) -> Bounds:
        check_topic(topic)
        if self._link.closed:
            raise UsageError(f"{NAME} is closed")
        return await self._reader.follow(topic, follower)

    async def unfollow(self, topic: str, follower: Follower) -> None:
        self._reader.unfollow(topic, follower)

    async def trim(
        self,
        topic: str | None = None,
        *,
        max_age: timedelta | None = None,
        max_count: int | None = None,
        max_bytes: int | None = None,
    ) -> int:
        keep = Retention(max_age, max_count, max_bytes)
        if keep == Retention():
            return 0
        return await self._trimmer.trim(None if topic is None else check_topic(topic), keep)

    async def close(self) -> None:
        await self._reader.close()
        await self._link.close()

    async def listen(self, receiver: Receiver) -> Pushes:
        """For the reader."""
        return NatsPushes(await self._link.life(), self._stream, receiver)

    async def states(self, topics: Sequence[str]) -> States:
        """For the reader."""
        return await self._stream.states(topics)

    async def begin_anew(self, epoch: str) -> None:
        """For the reader."""
        await self._stream.begin_anew(epoch)


def open_nats(url: str) -> NatsLog:
    """The log at ``nats://[user:password@]host[:port][,host…]``; ``tls://`` for TLS.

    Options: ``stream``, ``replicas``, ``keys_kept`` in seconds, ``credentials``: a file.
    """
    scheme, place, path, query, _ = urlsplit(url)
    given = dict(parse_qsl(query, keep_blank_values=True))
    stream, credentials = given.pop("stream", "headwater"), given.pop("credentials", None)
    replicas, kept = given.pop("replicas", "1"), given.pop("keys_kept", "3600")
    if given or path not in {"", "/"} or not place:
        raise UsageError(
            "event log nats://: give an address such as nats://host:4222, and as options only "
            "stream, replicas, keys_kept and credentials"
        )
    if not replicas.isdigit() or not kept.isdigit():
        raise UsageError("event log nats://: replicas and keys_kept are numbers")
    user, at, _ = place.split(",")[0].rpartition("@")
    servers = [
        f"{scheme.lower()}://{host if '@' in host else user + at + host}"
        for host in place.split(",")
    ]
    return NatsLog(
        servers,
        stream=stream,
        replicas=int(replicas),
        keys_kept=timedelta(seconds=int(kept)),
        options={} if credentials is None else {"user_credentials": credentials},
    )

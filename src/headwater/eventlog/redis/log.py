"""An event log in Redis 7 or Valkey 8, and newer: a stream for each topic.

An append is one script: the events, the key's memory and the push to who follows are there
together, or none of them is. An offset is the stream's own id, ``1718000000000-0``.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from redis.asyncio.connection import ConnectionPool

from headwater.errors import SourceUnavailableError, UsageError
from headwater.eventlog.interface import EventLog, Follower
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
from headwater.eventlog.redis.commands import NAME, Commands, connection_of, pool_of
from headwater.eventlog.redis.entries import (
    bounds_of,
    from_id,
    moment_of,
    offset_of,
    records_of,
    until_id,
)
from headwater.eventlog.redis.pushes import RedisPushes
from headwater.eventlog.redis.scripts import (
    APPEND,
    BEGIN_ANEW,
    LATEST,
    NAMES,
    READ,
    SIZES,
    STATES,
    TRIM,
)

__all__ = ["RedisLog", "open_redis"]

# Bytes of one append that are pushed to followers; they read a larger one from the log, so that
# each of many processes does not make the server hold a copy.
PUSH_BYTES = 64 * 1024
# Bytes of one append: far below the gigabyte at which the server drops a connection.
BATCH_BYTES = 64 * 1024 * 1024
# Topics, or entries, that one call asks about.
CHUNK = 200

_PREFIX = re.compile(r"[0-9A-Za-z._:{}-]{1,50}")


class RedisLog(EventLog):
    """An event log in Redis or Valkey.

    Two connections for a process: one that everything is asked on, and one that is pushed to while
    anything is followed. Records live in the server's memory; how well they outlive it is set
    there (``appendonly``).

    Args:
        pool: makes the connections: from ``ConnectionPool.from_url`` of ``redis.asyncio``, or the
            pool of a Sentinel. It needs ``protocol=2``, and ``retry`` with no retries.
        prefix: of all keys and channels; logs with different ones are apart.
        keys_kept: how long an append's key is remembered. Each takes about 150 bytes meanwhile.
        max_event_bytes: of one event's JSON.
    """

    name = NAME

    def __init__(
        self,
        pool: ConnectionPool,
        *,
        prefix: str = "headwater",
        keys_kept: timedelta = timedelta(days=1),
        max_event_bytes: int = EventLog.max_event_bytes,
    ) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise UsageError(f"prefix {prefix[:60]!a}: 1 to 50 characters of 0-9 A-Z a-z . _ : -")
        if keys_kept < timedelta(seconds=1):
            raise UsageError(f"keys_kept={keys_kept}: a retry needs at least a second")
        self.capabilities = Capabilities(
            durable=True,
            multi_process=True,
            transactional=False,
            trim_by_size=True,
            keys_kept=keys_kept,
        )
        self.max_event_bytes = max_event_bytes
        self._pool = pool
        self._prefix = prefix
        self._log, self._topics = f"{prefix}:log", f"{prefix}:topics"
        self._commands = Commands(pool)
        self._reader = PushReader(self)

    async def start(self) -> None:
        await self._commands.start()

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
        events = encode_all(data, self.max_event_bytes, self.capabilities.max_batch)
        if not events:
            return []
        if (size := sum(event.size for event in events)) > BATCH_BYTES:
            raise UsageError(f"one append takes at most {BATCH_BYTES} bytes, not {size}")
        kept = self.capabilities.keys_kept or timedelta()
        is_new, told = await self._commands.run(
            APPEND,
            [*self._keys(topic), f"{self._prefix}:k:{topic} {key or ''}"],
            [
                _epoch(),
                topic,
                f"{self._prefix}:c:{topic}",
                key or "",
                kept // timedelta(milliseconds=1),
                PUSH_BYTES,
                *(event.text for event in events),
            ],
            again=key is not None,
        )
        if not is_new:
            return records_of(topic, told)
        ids = [name.decode() for name in told]
        return [
            Record(topic, offset_of(text), moment_of(text), event.data, key)
            for text, event in zip(ids, events, strict=True)
        ]

    async def read(self, topic: str, after: Offset, limit: int) -> Run:
        check_topic(topic)
        arguments = [_epoch(), topic, from_id(after), max(limit, 1)]
        epoch, latest, earliest, entries = await self._commands.run(
            READ, self._keys(topic), arguments
        )
        return Run(records_of(topic, entries), bounds_of(epoch, latest, earliest))

    async def latest(self, topic: str, limit: int, before: Offset | None = None) -> Run:
        check_topic(topic)
        arguments = [_epoch(), topic, until_id(before), max(limit, 1)]
        epoch, latest, earliest, entries = await self._commands.run(
            LATEST, self._keys(topic), arguments
        )
        return Run(records_of(topic, entries[::-1]), bounds_of(epoch, latest, earliest))

    async def bounds(self, topic: str) -> Bounds:
        return (await self.states([check_topic(topic)])).topics[topic]

    async def follow(self, topic: str, follower: Follower) -> Bounds:
        check_topic(topic)
        if self._commands.closed:
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
        if topic is not None:
            return await self._trim(check_topic(topic), keep)
        names = [name.decode() for name in await self._commands.run(NAMES, [self._topics], [])]
        removed = 0
        for start in range(0, len(names), CHUNK):
            part = names[start : start + CHUNK]
            removed += sum(await asyncio.gather(*(self._trim(name, keep) for name in part)))
        return removed

    async def _trim(self, topic: str, keep: Retention) -> int:
        count, lowest = keep.max_count, ""
        if keep.max_bytes is not None:
            first, fits = await self._within(topic, keep.max_bytes)
            if not fits:
                lowest = first or ""
                count = count if first else 0
        age = "" if keep.max_age is None else keep.max_age / timedelta(milliseconds=1)
        arguments = [_epoch(), topic, "" if count is None else count, age, lowest]
        return int(await self._commands.run(TRIM, self._keys(topic), arguments))

    async def _within(self, topic: str, most: int) -> tuple[str | None, bool]:
        """The oldest id of the newest that have so many bytes together; whether all have."""
        first: str | None = None
        start, left = "+", most
        while True:
            told = await self._commands.run(SIZES, [self._keys(topic)[2]], [start, CHUNK])
            for name, size in zip(told[::2], told[1::2], strict=True):
                left -= size
                if left < 0:
                    return first, False
                first = name.decode()
            if len(told) < 2 * CHUNK:
                return first, True
            start = f"({first}"

    async def close(self) -> None:
        await self._reader.close()
        await self._commands.close()

    async def listen(self, receiver: Receiver) -> Pushes:
        """For the reader."""
        pushes = RedisPushes(self._pool, f"{self._prefix}:c:", receiver)
        await pushes.open()
        return pushes

    async def states(self, topics: Sequence[str]) -> States:
        """For the reader."""
        found: dict[str, Bounds] = {}
        for start in range(0, max(len(topics), 1), CHUNK):
            part = topics[start : start + CHUNK]
            streams = [self._keys(topic)[2] for topic in part]
            epoch, head, *told = await self._commands.run(
                STATES, [self._log, self._topics, *streams], [_epoch(), *part]
            )
            for topic, latest, earliest in zip(part, told[::2], told[1::2], strict=True):
                found[topic] = bounds_of(epoch, latest, earliest)
        epochs = {bounds.epoch for bounds in found.values()}
        if len(epochs) > 1:
            raise SourceUnavailableError(NAME, "it was wiped just now")
        return States(epoch.decode(), int(head), found)

    async def begin_anew(self, epoch: str) -> None:
        """For the reader."""
        await self._commands.run(BEGIN_ANEW, [self._log], [_epoch(), epoch])

    def _keys(self, topic: str) -> list[str]:
        return [self._log, self._topics, f"{self._prefix}:t:{topic}"]


def open_redis(url: str) -> RedisLog:
    """The log at ``redis://[user:password@]host[:port][/database]``; ``rediss://`` for TLS.

    Options: ``prefix``, and ``keys_kept`` in seconds; all others are the driver's.
    """
    scheme, place, path, query, _ = urlsplit(url)
    options = dict(parse_qsl(query, keep_blank_values=True))
    prefix = options.pop("prefix", "headwater")
    kept = options.pop("keys_kept", "86400")
    if not kept.isdigit():
        raise UsageError("event log redis://: keys_kept is a number of seconds")
    scheme = scheme.lower().replace("valkey", "redis")
    try:
        pool = pool_of(urlunsplit((scheme, place, path, urlencode(options), "")))
        connection_of(pool)  # the driver refuses an option that it does not know only here
    except (ValueError, TypeError) as error:
        raise UsageError(
            "event log redis://: give an address such as redis://host:6379/0 and the driver's "
            "options only"
        ) from error
    return RedisLog(pool, prefix=prefix, keys_kept=timedelta(seconds=int(kept)))


def _epoch() -> str:
    """For a log that has none yet; letters and digits only, as a position carries it."""
    return secrets.token_hex(16)

"""``RedisLog``: an event log in Redis or Valkey, and opening one."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode, urlunsplit

from redis.asyncio.connection import ConnectionPool
from redis.exceptions import RedisError

from headwater.errors import SourceUnavailableError, UsageError
from headwater.eventlog._addresses import Address
from headwater.eventlog._interface import EventLog
from headwater.eventlog._pushed import PushedLog, PushReader
from headwater.eventlog._pushes import States, Subscriptions
from headwater.eventlog._record import START, WHOLE, Bounds, Event, Offset, Record, Retention, Run
from headwater.eventlog.redis import _scripts as scripts
from headwater.eventlog.redis._commands import NAME, Commands, connection_of, pool_of
from headwater.eventlog.redis._pushes import (
    LAST_ID,
    RedisSubscriptions,
    bounds_of,
    from_id,
    mark_of,
    moment_of,
    offset_of,
    records_of,
    until_id,
)

# The most bytes of one append that are pushed to followers. They read a larger append from the log,
# so that the server does not hold a copy for each of many processes.
PUSH_BYTES = 64 * 1024
# The most topics, or entries, of one call.
CHUNK = 200

_PREFIX = re.compile(r"[0-9A-Za-z._:{}-]{1,50}")
_DATABASE = re.compile("/?[0-9]{0,9}")
# Parts of a log's own keys. A prefix with one of them would be the keys of another log.
_PARTS = {"log", "topics", "t", "k", "c"}
# Options of the driver that an address may have; and those that begin with ``ssl_``.
_OPTIONS = {"db", "username", "password", "client_name", "socket_connect_timeout"}

logger = logging.getLogger(__name__)


class RedisLog(PushedLog):
    """An event log in Redis or Valkey.

    A process opens two connections: one for its commands, and one for pushes while it follows a
    topic. The server keeps records in its memory. Its ``appendonly`` says how well they survive a
    restart.

    Arguments:
        pool: makes the connections: from ``ConnectionPool.from_url`` of ``redis.asyncio``, or the
            pool of a Sentinel, with ``protocol=2`` and a ``retry`` without retries.
        prefix: of all keys and channels. Logs with different prefixes share nothing.
        keys_kept: how long the log remembers an append's key. Each takes about 150 bytes.
        max_event_bytes: the most bytes of one event's JSON.
    """

    name = NAME
    # Far below the gigabyte at which the server drops a connection.
    max_append_bytes = 64 * 1024 * 1024
    topics_per_request = at_once = CHUNK

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
        if taken := _PARTS.intersection(prefix.split(":")[1:]):
            raise UsageError(
                f"prefix {prefix!a}: another log's keys may begin with it, as :{taken.pop()} is a "
                "part of a log's keys; use another word"
            )
        given = pool.connection_kwargs
        if str(given.get("protocol", 2)) != "2" or given.get("decode_responses"):
            raise UsageError(f"{NAME}: make its pool with protocol=2, without decode_responses")
        super().__init__(keys_kept, max_batch=10_000)
        self.max_event_bytes = max_event_bytes
        self._pool = pool
        self._prefix = prefix
        self._log, self._topics = f"{prefix}:log", f"{prefix}:topics"
        self._channels = f"{prefix}:{given.get('db') or 0}:c:"
        # The first part of the epochs that an append of this log begins.
        self._own = secrets.token_hex(12)
        # The log's epoch and count of appends, as this process knows them.
        self._known = ("", 0)
        # Milliseconds.
        self._keys_kept = keys_kept // timedelta(milliseconds=1)
        self._silent = False
        self._commands = Commands(pool)

    async def _start(self) -> None:
        await self._states([])

    async def _append(
        self, topic: str, events: Sequence[Event], key: str | None, connection: Any
    ) -> list[Record]:
        mark = secrets.token_hex(4)
        is_new, answer, *more = await self._commands.run(
            scripts.APPEND,
            [*self._keys(topic), f"{self._prefix}:k:{topic} {key or ''}"],
            [
                self._own + mark,
                topic,
                self._channels + topic,
                key or "",
                self._keys_kept,
                PUSH_BYTES,
                mark,
                *self._known,
                *(event.text for event in events),
            ],
            again=key is not None,
        )
        if not is_new:
            return records_of(topic, answer)
        silent, epoch, appends = more
        self._note(epoch.decode(), appends)
        if silent and not self._silent:
            self._silent = True
            logger.warning(
                "%s: events are stored, but followers get them seconds late, as this user has no "
                "permission to publish to %s*: %s", self.name, self._channels, silent.decode()
            )  # fmt: skip
        ids = [name.decode() for name in answer]
        return [
            Record(topic, offset_of(text), moment_of(text), event.data, key, mark)
            for text, event in zip(ids, events, strict=True)
        ]

    async def _read(self, topic: str, after: Offset, limit: int) -> tuple[Run, Offset | None]:
        # One more: what stands at the offset itself.
        entries, bounds = await self._entries(scripts.READ, topic, from_id(after), limit + 1)
        full, place = len(entries) > limit, None
        if entries and offset_of(entries[0][0].decode()) == after:
            place = mark_of(entries.pop(0)[1])
        entries = entries[:limit]
        last = offset_of(entries[-1][0].decode()) if full else None
        return Run(records_of(topic, entries), bounds, place), last

    async def _latest(
        self, topic: str, limit: int, before: Offset | None
    ) -> tuple[Run, Offset | None]:
        entries, bounds = await self._entries(scripts.LATEST, topic, until_id(before), limit)
        first = offset_of(entries[-1][0].decode()) if len(entries) == limit else None
        return Run(records_of(topic, entries[::-1]), bounds), first

    async def _entries(
        self, script: str, topic: str, start: str, limit: int
    ) -> tuple[list[Any], Bounds]:
        *bounds, entries = await self._commands.run(
            script, self._keys(topic), [_epoch(), topic, start, limit]
        )
        return entries, bounds_of(*bounds)

    async def _topics_to_trim(self, keep: Retention) -> Sequence[str]:  # all of them
        names = await self._commands.run(scripts.NAMES, [self._topics], [])
        return [name.decode() for name in names if not name.startswith(WHOLE.encode())]

    async def _trim_topic(self, topic: str, keep: Retention) -> int:
        count, lowest = keep.max_count, ""
        if keep.max_bytes is not None:
            lowest = await self._lowest_within(topic, keep.max_bytes)
        if keep.before is not None and keep.before > max(START, offset_of(lowest or "0-0")):
            lowest = from_id(keep.before)
        age = "" if keep.max_age is None else keep.max_age / timedelta(milliseconds=1)
        arguments = [_epoch(), topic, "" if count is None else count, age, lowest]
        return int(await self._commands.run(scripts.TRIM, self._keys(topic), arguments))

    async def _forget_topic(self, topic: str) -> None:
        arguments = [topic, f"{self._prefix}:k:{topic} ", CHUNK]
        while not await self._commands.run(scripts.FORGET, self._keys(topic), arguments):
            pass

    def another(self) -> EventLog:
        kept = self.capabilities.keys_kept or timedelta()
        return RedisLog(
            self._pool, prefix=self._prefix, keys_kept=kept, max_event_bytes=self.max_event_bytes
        )

    async def _lowest_within(self, topic: str, most: int) -> str:
        """The id from which on all entries fit into ``most`` bytes; empty if all of them do."""
        lowest, start, left = LAST_ID, "+", most
        while True:
            sizes = await self._commands.run(scripts.SIZES, [self._keys(topic)[2]], [start, CHUNK])
            for name, size in zip(sizes[::2], sizes[1::2], strict=True):
                left -= size
                if left < 0:
                    return lowest
                lowest = name.decode()
            if len(sizes) < 2 * CHUNK:
                return ""
            start = f"({lowest}"

    async def _close(self) -> None:
        await super()._close()
        await self._commands.close()

    async def listen(self, reader: PushReader) -> Subscriptions:
        """As PushedLog."""
        subscriptions = RedisSubscriptions(self._pool, self._channels, reader)
        await subscriptions.open()
        return subscriptions

    async def _states(self, topics: Sequence[str]) -> States:
        streams = [self._keys(topic)[2] for topic in topics]
        epoch, head, *bounds = await self._commands.run(
            scripts.STATES, [self._log, self._topics, *streams], [_epoch(), *topics]
        )
        found = {
            topic: bounds_of(epoch, *bounds[place * 3 : place * 3 + 3])
            for place, topic in enumerate(topics)
        }
        if not head.isdigit():
            raise SourceUnavailableError(self.name, f"another program wrote to the key {self._log}")
        self._note(epoch.decode(), int(head))
        return States(epoch.decode(), int(head), found)

    def _note(self, epoch: str, appends: int) -> None:
        known, most = self._known
        self._known = (epoch, max(appends, most) if epoch == known else appends)

    async def begin_anew(self, epoch: str) -> None:
        """As PushedLog."""
        await self._commands.run(scripts.BEGIN_ANEW, [self._log], [_epoch(), epoch])

    async def went_back(self, topic: str, last: Offset) -> bool:
        """As PushedLog. A topic that was only forgotten has no record before ``last``."""
        return bool((await self.latest(topic, 1, last)).records)

    def _keys(self, topic: str) -> list[str]:
        return [self._log, self._topics, f"{self._prefix}:t:{topic}"]


def open_redis(url: str) -> RedisLog:
    """The log at ``redis://[user:password@]host[:port][/database]``; ``rediss://`` for TLS.

    Options: ``prefix``; ``keys_kept`` in seconds; of the driver ``db``, ``username``, ``password``,
    ``client_name``, ``socket_connect_timeout`` and those that begin with ``ssl_``.
    """
    address = Address.parse(url, "redis")
    kept, options = address.number("keys_kept", 86_400), address.options
    prefix = options.pop("prefix", "headwater")
    odd = [one for one in options if one not in _OPTIONS and not one.startswith("ssl_")]
    if odd:
        raise UsageError(
            f"event log redis://: the option {odd[0][:40]!a} cannot be set; prefix, keys_kept, "
            f"{', '.join(sorted(_OPTIONS))} and ssl_* can"
        )
    if not _DATABASE.fullmatch(address.path):
        raise UsageError("event log redis://: the path is the number of a database, as in /0")
    scheme = address.scheme.replace("valkey", "redis")
    try:
        pool = pool_of(urlunsplit((scheme, address.place, address.path, urlencode(options), "")))
        connection_of(pool)  # the driver refuses an option that it does not know only here
    except (ValueError, TypeError, RedisError) as error:
        raise UsageError(
            "event log redis://: give an address such as redis://host:6379/0 and the driver's "
            "options only"
        ) from error
    return RedisLog(pool, prefix=prefix, keys_kept=timedelta(seconds=kept))


def _epoch() -> str:
    """A new epoch, of letters and digits only, as it is a part of positions."""
    return secrets.token_hex(16)

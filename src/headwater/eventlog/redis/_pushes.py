"""Pushes from Redis or Valkey: one connection for a process, one channel for each topic.

Also the translation of a stream's entries: ids to offsets, and entries to records.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from redis.asyncio.connection import ConnectionPool
from redis.exceptions import RedisError, ResponseError

from headwater.eventlog._pushed import PushReader
from headwater.eventlog._pushes import Push
from headwater.eventlog._record import START, Bounds, Offset, Record, event_in, moment
from headwater.eventlog.redis._commands import NAME, PATIENCE, connection_of, unavailable

# Both halves of an id have 64 bits.
_MOST = 2**64 - 1
LAST_ID = f"{_MOST}-{_MOST}"


def offset_of(text: str) -> Offset:
    """The offset of an id; ``0-0`` comes before all."""
    ms, _, number = text.partition("-")
    offset = Offset.of(int(ms), int(number))
    return offset if offset > (0, 0) else START


def moment_of(text: str) -> datetime:
    """When the server gave out the id: UTC, to the millisecond, by its clock."""
    return moment(int(text.partition("-")[0]) * 1000)


def from_id(after: Offset) -> str:
    """The start of a range that begins with the entry at an offset."""
    if after >= (_MOST, _MOST):
        return LAST_ID
    # START, and the offset of another engine, has no second number: 7 is before 7-0.
    return f"{after[0]}-{min(after[1], _MOST) if len(after) > 1 else 0}"


def until_id(before: Offset | None) -> str:
    """The end of a range that ends just before an offset."""
    if before is None or before[0] > _MOST:
        return "+"
    number = before[1] if len(before) > 1 else 0
    return f"({before[0]}-{min(number, _MOST)}" if before[0] or number else "-"


def bounds_of(epoch: bytes, latest: bytes, earliest: bytes, mark: bytes) -> Bounds:
    """Bounds from what a script returned."""
    found = offset_of(earliest.decode()), offset_of(latest.decode())
    return Bounds(epoch.decode(), *found, mark.decode())


def mark_of(fields: Sequence[bytes]) -> str:
    """The mark of an entry; empty for one that an earlier version or another program added."""
    return dict(zip(fields[::2], fields[1::2], strict=True)).get(b"m", b"").decode()


def records_of(topic: str, entries: Sequence[Any]) -> list[Record]:
    """The records of entries, in their order; entries of other programs are skipped."""
    records = []
    for name, fields in entries:
        text = name.decode()
        found = dict(zip(fields[::2], fields[1::2], strict=True))
        data = event_in(topic, text, found.get(b"d"))
        if data is not None:
            key = found[b"k"].decode() if b"k" in found else None
            mark = found.get(b"m", b"").decode()
            records.append(Record(topic, offset_of(text), moment_of(text), data, key, mark))
    return records


# Channels per command.
CHUNK = 1000


class RedisSubscriptions:
    """One connection. See ``Subscriptions``.

    Arguments:
        pool: makes the connection.
        prefix: of the channels' names, which go on with the topic.
        reader: receives the pushes.
    """

    def __init__(self, pool: ConnectionPool, prefix: str, reader: PushReader) -> None:
        self._connection = connection_of(pool)
        self._prefix = prefix
        self._reader = reader
        # The callers that wait, in the order of their calls.
        self._asked: deque[asyncio.Future[None]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, and subscribe to a channel without messages.

        It keeps the connection in the subscribed state when no topic is followed.
        """
        try:
            async with asyncio.timeout(PATIENCE):
                await self._connection.connect()  # type: ignore[no-untyped-call]
        except (RedisError, OSError, TimeoutError) as error:
            await self.close()
            raise unavailable(error) from error
        self._task = asyncio.create_task(self._listen(), name=f"{NAME}: pushes")
        try:
            await self._ask("SUBSCRIBE", self._prefix)
        except BaseException:
            await self.close()
            raise

    async def subscribe(self, topics: Sequence[str]) -> None:
        """As Subscriptions."""
        await self._ask_in_parts("SUBSCRIBE", topics)

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """As Subscriptions."""
        await self._ask_in_parts("UNSUBSCRIBE", topics)

    async def ping(self) -> None:
        """As Subscriptions."""
        await self._ask()

    async def close(self) -> None:
        """As Subscriptions."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        with suppress(RedisError, OSError):
            await self._connection.disconnect(nowait=True)

    async def _ask_in_parts(self, command: str, topics: Sequence[str]) -> None:
        for start in range(0, len(topics), CHUNK):
            part = topics[start : start + CHUNK]
            await self._ask(command, *(self._prefix + topic for topic in part))

    async def _ask(self, *command: str) -> None:
        """Send a command and a PING. Once that is answered, the server has done both."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(done)
        try:
            async with asyncio.timeout(PATIENCE):
                if command:
                    await self._connection.send_command(*command, check_health=False)
                await self._connection.send_command("PING", check_health=False)
                await done
        except (RedisError, OSError, TimeoutError) as error:
            raise unavailable(error) from error

    async def _listen(self) -> None:
        error: Exception | None = None
        try:
            while True:
                try:
                    answer = await self._connection.read_response(disconnect_on_error=False)
                except ResponseError as refused:
                    # For example: this user has no permission for the channel.
                    if self._asked and not self._asked[0].done():
                        said = unavailable(refused, "following is refused: ")
                        self._asked[0].set_exception(said)
                    continue
                if answer[0] == b"message":
                    self._receive(answer[1], answer[2])
                elif answer == b"PONG" or answer[0] == b"pong":  # before and after a SUBSCRIBE
                    done = self._asked.popleft()
                    if not done.done():
                        done.set_result(None)
        except Exception as fault:
            error = fault
        finally:
            lost = unavailable(error or ConnectionError("closed"))
            for done in self._asked:
                if not done.done():
                    done.set_exception(lost)
                    done.exception()  # as no caller may be waiting
            if error is not None:
                self._reader.lost(lost)

    def _receive(self, channel: bytes, message: bytes) -> None:
        topic = channel[len(self._prefix) :].decode()
        epoch, appends, before, mark, last, own, key, *parts = message.decode().split("\n")
        records: list[Record] | None = None
        if parts:
            records = [
                Record(topic, offset_of(text), moment_of(text), json.loads(data), key or None, own)
                for text, data in zip(parts[::2], parts[1::2], strict=True)
            ]
        push = Push(topic, offset_of(before), offset_of(last), records, int(appends), epoch, mark)
        self._reader.receive(push)

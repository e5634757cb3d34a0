"""Appends to a JetStream stream: one message, or a batch that is stored as a whole or not at all.

The server itself refuses what a key brought before, for as long as its window for duplicates is. It
does not say where a batch was, so a batch with a key has one more message that does, and that lives
as long.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import nats.errors

from headwater.errors import SourceUnavailableError
from headwater.eventlog.nats.batches import Batches, Message
from headwater.eventlog.nats.connection import NAME, PATIENCE, Life
from headwater.eventlog.nats.pages import Pages
from headwater.eventlog.nats.stream import (
    AT,
    KEY,
    WRONG_SEQUENCE,
    ApiError,
    Stream,
    microseconds,
    record_of,
    sequence_of,
    told_by,
)
from headwater.eventlog.record import Event, Offset, Record

__all__ = ["Writer"]

# The header that makes a second message with the same value a duplicate.
ONCE = "Nats-Msg-Id"
# What the server says of a batch with such a message.
KNOWN = 10201
# Nothing was stored, and soon it can be: batches of other processes are on their way, or in a
# cluster the same key is.
BUSY = ("too many inflight", "in process")
# Batches of this process on their way: the server takes 50 for a stream, of all processes.
ABREAST = 10
# The server's largest sequence.
LAST = 2**64 - 1


class Writer:
    """Appends of this process. Raises SourceUnavailableError."""

    def __init__(self, stream: Stream, pages: Pages) -> None:
        self._stream = stream
        self._pages = pages
        self._plain_batches = False
        self._abreast = asyncio.Semaphore(ABREAST)
        self._batches = Batches(self._store)

    async def append(self, topic: str, events: Sequence[Event], key: str | None) -> list[Record]:
        """The records, or those that the key brought before."""
        at = datetime.now(UTC)
        headers = {AT: microseconds(at)}
        told: Mapping[str, Any]
        try:
            if key is None and len(events) == 1:
                told = await self._send([self._event(topic, events[0], headers)], again=False)
            elif key is None:
                messages = [self._event(topic, one, headers) for one in events]
                told = {"seq": await self._batches.put(messages)}
            elif len(events) == 1:
                once = {KEY: key, ONCE: self._name(topic, key)}
                message = self._event(topic, events[0], headers | once)
                told = await self._patiently([message], again=True)
                if told.get("duplicate"):
                    return await self._brought(topic, key, int(told["seq"]))
            else:
                told = await self._keyed_batch(topic, events, headers, key)
        except ApiError as error:
            if error.code not in {WRONG_SEQUENCE, KNOWN} or key is None:
                raise SourceUnavailableError(NAME, str(error)) from error
            return await self._brought(topic, key, None)
        first = int(told["seq"]) - len(events) + 1
        if key is not None and len(events) > 1:
            first -= 1  # the last of the batch is the memory of its key
        return [
            Record(topic, Offset.of(first + place), at, event.data, key)
            for place, event in enumerate(events)
        ]

    def _event(self, topic: str, event: Event, headers: Mapping[str, str]) -> Message:
        return self._stream.subject("t", topic), event.text.encode(), headers

    async def _keyed_batch(
        self, topic: str, events: Sequence[Event], headers: Mapping[str, str], key: str
    ) -> Mapping[str, Any]:
        messages = [self._event(topic, event, {**headers, KEY: key}) for event in events]
        kept = {
            "Nats-Expected-Last-Subject-Sequence": "0",
            "Nats-TTL": f"{self._stream.keys_kept // timedelta(seconds=1)}s",
        }
        messages.append((self._memory(topic, key), str(len(events)).encode(), kept))
        if not self._plain_batches:
            # So that one event with the same key is noticed too, whichever comes first.
            to, payload, own = messages[0]
            named = [(to, payload, {**own, ONCE: self._name(topic, key)}), *messages[1:]]
            try:
                return await self._batch(named, again=True)
            except ApiError as error:
                if "unsupported header" not in str(error):
                    raise
                self._plain_batches = True  # a server of the first release that has batches
        return await self._batch(messages, again=True)

    async def _store(self, messages: Sequence[Message]) -> int:
        return int((await self._batch(messages))["seq"])

    async def _batch(
        self, messages: Sequence[Message], *, again: bool = False
    ) -> Mapping[str, Any]:
        """Store all or none. The server writes a batch to its disk and waits for that, twice."""
        batch = {"Nats-Batch-Id": secrets.token_hex(16)}
        parts: list[Message] = [
            (to, payload, {**own, **batch, "Nats-Batch-Sequence": str(place)})
            for place, (to, payload, own) in enumerate(messages, 1)
        ]
        to, payload, own = parts[-1]
        parts[-1] = (to, payload, {**own, "Nats-Batch-Commit": "1"})
        async with self._abreast:
            return await self._patiently(parts, again=again)

    async def _patiently(self, messages: Sequence[Message], *, again: bool) -> Mapping[str, Any]:
        """Again while the server says that it has just now too many of its kind on their way."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return await self._send(messages, again=again)
            except ApiError as error:
                busy = any(reason in str(error) for reason in BUSY)
                if not busy or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(random.uniform(0.01, 0.05))

    async def _send(self, messages: Sequence[Message], *, again: bool) -> Mapping[str, Any]:
        """Publish; the acknowledgement of the last one. Raises ApiError."""

        async def once(life: Life) -> Mapping[str, Any]:
            for subject, payload, headers in messages[:-1]:
                await life.send(subject, payload, headers)
            (answer,) = await life.ask(*messages[-1])
            return told_by(answer)

        await self._stream.ready()
        try:
            return await self._stream.link.run(once, again=again)
        except nats.errors.NoRespondersError:
            # Nobody listens at the subject: nothing was stored, and the stream is to be made.
            self._stream.lost()
            await self._stream.ready()
        try:
            return await self._stream.link.run(once, again=again)
        except nats.errors.NoRespondersError as error:
            raise SourceUnavailableError(NAME, "its stream has no leader") from error

    async def _brought(self, topic: str, key: str, sequence: int | None) -> list[Record]:
        """The records that a key brought before, as far as they are kept.

        ``sequence`` is that of the first one, where the server told it.
        """
        subject = self._stream.subject("t", topic)
        memory = await self._stream.last(self._memory(topic, key))
        if memory is not None:
            below, count = sequence_of(memory), int(memory.data)
            messages = await self._pages.after(subject, below - count - 1, count)
            return [record_of(topic, one) for one in messages if sequence_of(one) < below]
        if sequence is not None:
            messages = await self._pages.after(subject, sequence - 1, 1)
            return [record_of(topic, one) for one in messages if sequence_of(one) == sequence]
        # A batch with the key of one event: nobody knows where that is, so all are looked at.
        return [
            record_of(topic, one)
            async for one in self._pages.between(subject, 0, LAST)
            if (one.headers or {}).get(KEY) == key
        ]

    def _memory(self, topic: str, key: str) -> str:
        return f"{self._stream.name}.k.{self._name(topic, key)}"

    def _name(self, topic: str, key: str) -> str:
        return hashlib.blake2s(f"{topic} {key}".encode(), digest_size=16).hexdigest()

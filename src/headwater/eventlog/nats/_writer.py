"""Appends to a JetStream stream: one message, or a batch that is stored as a whole or not at all.

The server refuses a known key for the length of its window for duplicates. It does not say where
the batch with that key is. So such a batch ends with one more message, the note of the key, which
is kept as long.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from headwater.errors import HeadwaterError
from headwater.eventlog._batcher import Asked, Batcher
from headwater.eventlog._record import Event, Offset, Record, ticks
from headwater.eventlog.nats._connection import NAME, PATIENCE, Life
from headwater.eventlog.nats._pages import Pages
from headwater.eventlog.nats._stream import (
    AT,
    KEY,
    WRONG_SEQUENCE,
    ApiError,
    Stream,
    answer_of,
    mark,
    records_of,
    sequence_of,
)

# The most messages that the server stores as a whole.
MAX_BATCH = 1000
# The server holds a batch in memory until it is complete.
BATCH_BYTES = 64 * 1024 * 1024
# Batches on their way at once; the server takes 50 for a stream, from all processes. Without a key
# one travels while the server writes the other. With a key each append is a batch of its own.
LANES, KEYED_LANES = 2, 8

# The header that makes a second message with the same value a duplicate.
ONCE = "Nats-Msg-Id"
# The server's error for a batch with such a message.
KNOWN = 10201
# Errors after which nothing was stored, and a retry soon works: batches of other processes are on
# their way, or (in a cluster) the same key.
BUSY = ("too many inflight", "in process")
# Subject, payload, headers.
Message = tuple[str, bytes, Mapping[str, str]]


def _weigh(messages: Sequence[Message]) -> tuple[int, int]:
    return len(messages), sum(len(payload) for _, payload, _ in messages)


class NatsWriter:
    """Appends of this process. Raises SourceUnavailableError."""

    def __init__(self, stream: Stream, pages: Pages) -> None:
        self._stream = stream
        self._pages = pages
        self._plain_batches = False
        # The highest acknowledged sequence, and how often this writer began a new epoch.
        self._head = self._lives = 0
        self._batcher: Batcher[Sequence[Message], int] = Batcher(
            NAME,
            self._store_all,
            _weigh,
            (MAX_BATCH, BATCH_BYTES),
            lanes=LANES,
            patience=PATIENCE,
        )
        self._keyed_batches: Batcher[Sequence[Message], int] = Batcher(
            NAME,
            partial(self._store_all, again=True),
            lambda _: (1, 0),
            (1, 0),
            lanes=KEYED_LANES,
            patience=PATIENCE,
        )

    async def append(self, topic: str, events: Sequence[Event], key: str | None) -> list[Record]:
        """The new records, or those of the first append with this key."""
        at = datetime.now(UTC)
        stamp = str(ticks(at))
        headers = {AT: stamp}
        subject = self._stream.subject("t", topic)
        messages: list[Message] = [(subject, one.text.encode(), headers) for one in events]
        answer: Mapping[str, Any]
        head, lives = self._head, self._lives
        try:
            if key is None and len(events) == 1:
                answer = await self._send(messages, again=False)
            elif key is None:
                answer = {"seq": await self._batcher.ask(messages)}
            elif len(events) == 1:
                answer = await self._patiently([self._keyed(messages[0], topic, key)], again=True)
                if answer.get("duplicate"):
                    return await self._brought(topic, key, int(answer["seq"]))
            else:
                answer = {"seq": await self._keyed_batch(topic, messages, key)}
        except ApiError as error:
            if error.code not in {WRONG_SEQUENCE, KNOWN} or key is None:
                raise
            return await self._brought(topic, key, None)
        if int(answer["seq"]) <= head and lives == self._lives:
            await self._begin_anew()
        self._head = max(self._head, int(answer["seq"]))
        first = int(answer["seq"]) - len(events) + 1
        if key is not None and len(events) > 1:
            first -= 1  # the batch's last message is the note of its key
        return [
            Record(topic, Offset((number,)), at, event.data, key, mark(stamp, payload))
            for number, (event, (_, payload, _)) in enumerate(
                zip(events, messages, strict=True), first
            )
        ]

    async def close(self) -> None:
        """Wait for the batches that were asked for."""
        await self._batcher.close()
        await self._keyed_batches.close()

    async def _begin_anew(self) -> None:
        """Begin a new epoch: the stream is an older copy, or lost its last writes."""
        self._lives += 1
        self._head = 0
        with suppress(HeadwaterError):  # the append itself has succeeded
            await self._stream.begin_anew((await self._stream.states([])).epoch)

    def _keyed(self, message: Message, topic: str, key: str) -> Message:
        """One event with a key. A server that restarted knows only the keys of kept messages."""
        to, payload, headers = message
        once = {
            KEY: key,
            ONCE: self._stream.key_name(topic, key),
            "Nats-Expected-Last-Subject-Sequence": "0",
            "Nats-Expected-Last-Subject-Sequence-Subject": self._stream.key_subject(topic, key),
        }
        return to, payload, {**headers, **once}

    async def _keyed_batch(self, topic: str, events: Sequence[Message], key: str) -> int:
        messages = [(to, payload, {**own, KEY: key}) for to, payload, own in events]
        kept = self._stream.key_headers()
        messages.append((self._stream.key_subject(topic, key), str(len(events)).encode(), kept))
        if not self._plain_batches:
            # To notice a single event with the same key too, whichever comes first.
            to, payload, own = messages[0]
            named = [(to, payload, {**own, ONCE: self._stream.key_name(topic, key)}), *messages[1:]]
            try:
                return await self._keyed_batches.ask(named)
            except ApiError as error:
                if "unsupported header" not in error.detail:
                    raise
                self._plain_batches = True  # the first release that has batches
        return await self._keyed_batches.ask(messages)

    async def _store_all(
        self, group: Sequence[Asked[Sequence[Message], int]], *, again: bool = False
    ) -> None:
        """Store the batches of many callers as one; the answer to each is its last sequence.

        The server writes each batch to its disk and waits for that, one after the other.
        """
        try:
            messages = [message for one in group for message in one.job]
            answer = await self._batch(messages, again=again)
        except ApiError as error:
            if len(group) == 1:
                group[0].refuse(error)
                return
            # Nothing was stored. Alone, each gets its own error, and some can be stored.
            for one in group:
                try:
                    await self._store_all([one])
                except Exception as fault:
                    one.refuse(fault)
        else:
            last = int(answer["seq"])
            for one in reversed(group):
                one.answer(last)
                last -= len(one.job)

    async def _batch(self, messages: Sequence[Message], *, again: bool) -> Mapping[str, Any]:
        """Store all or none. The server writes a batch to its disk and waits for that, twice."""
        batch = {"Nats-Batch-Id": secrets.token_hex(16)}
        parts: list[Message] = [
            (to, payload, {**own, **batch, "Nats-Batch-Sequence": str(place)})
            for place, (to, payload, own) in enumerate(messages, 1)
        ]
        to, payload, own = parts[-1]
        parts[-1] = (to, payload, {**own, "Nats-Batch-Commit": "1"})
        return await self._patiently(parts, again=again)

    async def _patiently(self, messages: Sequence[Message], *, again: bool) -> Mapping[str, Any]:
        """Send, and retry while the server says that too many batches are on their way."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return await self._send(messages, again=again)
            except ApiError as error:
                busy = any(reason in error.detail for reason in BUSY)
                if not busy or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(random.uniform(0.01, 0.05))

    async def _send(self, messages: Sequence[Message], *, again: bool) -> Mapping[str, Any]:
        """Publish, and return the acknowledgement of the last message. Raises ApiError."""

        async def once(life: Life) -> Mapping[str, Any]:
            for subject, payload, headers in messages[:-1]:
                await life.client.publish(subject, payload, headers=dict(headers))
            (acknowledged,) = await life.ask(*messages[-1])
            return answer_of(acknowledged)

        return await self._stream.run(once, again=again)

    async def _brought(self, topic: str, key: str, sequence: int | None) -> list[Record]:
        """The records of the first append with a key, as far as they are kept.

        ``sequence`` is that of the first one, if the server has said it.
        """
        subject = self._stream.subject("t", topic)
        note = await self._stream.last(self._stream.key_subject(topic, key))
        if note is not None:
            below, count = sequence_of(note), int(note.data)
            messages = await self._pages.after(subject, below - count - 1, count)
            return records_of(topic, [one for one in messages if sequence_of(one) < below])
        if sequence is not None:
            messages = await self._pages.after(subject, sequence - 1, 1)
            return records_of(topic, [one for one in messages if sequence_of(one) == sequence])
        # A batch with the key of one event. Nothing says where that is stored, so all are read.
        found = [
            one
            async for one in self._pages.between(subject, 0)
            if (one.headers or {}).get(KEY) == key
        ]
        return records_of(topic, found)

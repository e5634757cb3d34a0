"""Appends to a JetStream stream: one message, or a batch that is stored as a whole or not at all.

A key is one more message in its batch, allowed only while its subject is empty: the server itself
refuses what a key brought before, for as long as that message lives.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import nats.errors

from headwater.errors import SourceUnavailableError
from headwater.eventlog.nats_connection import NAME, Life
from headwater.eventlog.nats_pages import Pages
from headwater.eventlog.nats_stream import (
    AT,
    KEY,
    WRONG_SEQUENCE,
    ApiError,
    Stream,
    microseconds,
    record_of,
    sequence_of,
    told_sequence,
)
from headwater.eventlog.record import Event, Offset, Record

__all__ = ["Writer"]

# Batches of this process on their way: the server takes 50 for a stream, of all processes.
ABREAST = 10


class Writer:
    """Appends of this process. Raises SourceUnavailableError."""

    def __init__(self, stream: Stream, pages: Pages, keys_kept: timedelta) -> None:
        self._stream = stream
        self._pages = pages
        self._keys_kept = keys_kept
        self._batches = asyncio.Semaphore(ABREAST)

    async def append(self, topic: str, events: Sequence[Event], key: str | None) -> list[Record]:
        """The records, or those that the key brought before."""
        at = datetime.now(UTC)
        try:
            last = await self._store(topic, events, at, key)
        except ApiError as error:
            if error.code != WRONG_SEQUENCE or key is None:
                raise SourceUnavailableError(NAME, str(error)) from error
            return await self._brought(topic, key)
        first = last - len(events) + 1
        return [
            Record(topic, Offset.of(first + place), at, event.data, key)
            for place, event in enumerate(events)
        ]

    async def _store(
        self, topic: str, events: Sequence[Event], at: datetime, key: str | None
    ) -> int:
        """The sequence of the last event. Raises ApiError."""
        headers = {AT: microseconds(at)} | ({} if key is None else {KEY: key})
        subject = self._stream.subject("t", topic)
        messages = [(subject, event.text.encode(), headers) for event in events]
        if key is not None:
            once = {
                "Nats-Expected-Last-Subject-Sequence": "0",
                "Nats-TTL": f"{self._keys_kept // timedelta(seconds=1)}s",
            }
            messages.append((self._memory(topic, key), str(len(events)).encode(), once))
        if len(messages) == 1:
            return await self._send(messages, again=False)
        batch = {"Nats-Batch-Id": secrets.token_hex(16)}
        parts = [
            (to, payload, own | batch | {"Nats-Batch-Sequence": str(place)})
            for place, (to, payload, own) in enumerate(messages, 1)
        ]
        parts[-1][2]["Nats-Batch-Commit"] = "1"
        async with self._batches:
            last = await self._send(parts, again=key is not None)
        return last - (key is not None)

    async def _send(
        self, messages: Sequence[tuple[str, bytes, Mapping[str, str]]], *, again: bool
    ) -> int:
        async def once(life: Life) -> int:
            for subject, payload, headers in messages[:-1]:
                await life.send(subject, payload, headers)
            (answer,) = await life.ask(*messages[-1])
            return told_sequence(answer)

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

    async def _brought(self, topic: str, key: str) -> list[Record]:
        """The records that a key brought before, as far as they are kept."""
        memory = await self._stream.last(self._memory(topic, key))
        if memory is None:
            raise SourceUnavailableError(NAME, "the key expired just now: try again")
        below, count = sequence_of(memory), int(memory.data)
        subject = self._stream.subject("t", topic)
        messages = await self._pages.after(subject, below - count - 1, count)
        return [record_of(topic, one) for one in messages if sequence_of(one) < below]

    def _memory(self, topic: str, key: str) -> str:
        name = hashlib.blake2s(f"{topic} {key}".encode(), digest_size=16).hexdigest()
        return f"{self._stream.name}.k.{name}"

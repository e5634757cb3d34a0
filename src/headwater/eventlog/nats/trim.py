"""Trimming topics of a JetStream stream.

The highest sequence to be trimmed is stored before anything is removed, so that a reader that finds
a gap finds the reason too. An interruption in between leaves events that a later trim removes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from headwater.eventlog.nats.pages import Pages
from headwater.eventlog.nats.stream import WRONG_SEQUENCE, ApiError, Stream, sequence_of
from headwater.eventlog.record import Retention

__all__ = ["Trimmer"]

_DAWN = datetime(1970, 1, 1, tzinfo=UTC)


class Trimmer:
    """Removes the oldest events. Raises SourceUnavailableError."""

    def __init__(self, stream: Stream, pages: Pages) -> None:
        self._stream = stream
        self._pages = pages

    async def topics(self, keep: Retention) -> Sequence[str]:
        """The topics that may have something to remove."""
        only_count = keep.max_age is None and keep.max_bytes is None
        return [
            name
            for name, count in (await self._counts()).items()
            if not only_count or keep.max_count is None or count > keep.max_count
        ]

    async def _counts(self) -> dict[str, int]:
        """How many events each topic has."""
        await self._stream.ready()
        counts: dict[str, int] = {}
        while True:
            info = await self._stream.call(
                "INFO", {"subjects_filter": f"{self._stream.name}.t.*", "offset": len(counts)}
            )
            subjects = info["state"].get("subjects") or {}
            counts |= {self._stream.topic(one): count for one, count in subjects.items()}
            if not subjects or len(counts) >= info.get("total", 0):
                return counts

    async def trim(self, topic: str, keep: Retention) -> int:
        """Trim a topic. Returns how many events were removed."""
        subject = self._stream.subject("t", topic)
        bounds = (await self._stream.states([topic])).topics[topic]
        below = bounds.latest[0] + 1
        cut = await self._cut_of(subject, below, keep)
        if cut <= bounds.earliest[0] + 1:
            return 0
        going = await self._pages.newest(subject, cut, 1)
        if not going:
            return 0
        highest = sequence_of(going[0])
        await self._remember(topic, highest)
        answer = await self._stream.call("PURGE", {"filter": subject, "seq": highest + 1})
        return int(answer.get("purged", 0))

    async def _cut_of(self, subject: str, below: int, keep: Retention) -> int:
        """The sequence from which everything stays, by the strictest of the limits."""
        cut = 0
        if keep.max_count is not None:
            if keep.max_count == 0:
                cut = below
            else:
                cut = await self._pages.boundary(subject, below, keep.max_count)
        if keep.max_age is not None:
            try:
                oldest = max(datetime.now(UTC) - keep.max_age, _DAWN)
            except OverflowError:
                oldest = _DAWN
            first = await self._pages.since(subject, oldest)
            cut = max(cut, below if first is None else min(first, below))
        if keep.max_bytes is not None:
            sizes = [
                (sequence_of(one), len(one.data))
                async for one in self._pages.between(subject, 0, below)
            ]
            left = keep.max_bytes
            for sequence, size in reversed(sizes):
                left -= size
                if left < 0:
                    cut = max(cut, sequence + 1)
                    break
        return cut

    async def _remember(self, topic: str, highest: int) -> None:
        """Store the highest sequence trimmed, unless a higher one is stored."""
        subject = self._stream.subject("s", topic)
        while True:
            stored = await self._stream.last(subject)
            if stored is not None and int(stored.data) >= highest:
                return
            headers = {
                "Nats-Rollup": "sub",
                "Nats-Expected-Last-Subject-Sequence": str(
                    0 if stored is None else sequence_of(stored)
                ),
            }
            try:
                await self._stream.publish(subject, str(highest).encode(), headers)
            except ApiError as error:
                if error.code != WRONG_SEQUENCE:
                    raise
            else:
                return

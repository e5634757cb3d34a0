"""Following runs: a process reads each run once, however many followers the run has.

Followers that are up to date share the latest records in memory. A follower that is behind, or
connects late, reads the log. It gets the events that it missed in a few large pieces.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import replace

from headwater.errors import PositionError, ResetReason
from headwater.eventlog import START, Bounds, Offset, Record
from headwater.feeds._position import Position, fingerprint
from headwater.runs._records import Fold, RunEvent
from headwater.runs._store import Store

# How many records of a run are kept in memory for its followers, and how many characters of text.
RECORDS, CHARACTERS = 1000, 512 * 1024
# Records of a read of the past, at first and at most; and the characters that one is to have. Each
# record may have 64 KB of text, or a few bytes.
FIRST, PAGE = 16, 500
PAGE_CHARACTERS = 256 * 1024
# Characters of one combined delta of the past.
PIECE = 64 * 1024

# As ``json.dumps`` does it, which makes an encoder at each call.
_encode = json.JSONEncoder(ensure_ascii=False).encode


class Tail:
    """The latest records of one run. Implements ``Follower``.

    Attributes:
        floor: an offset; all later records are in memory.
        followers: how many followers use this tail.
        news: set at the next record.
        gone: why followers cannot continue; None while they can.
        joining: held by the follower that joins the log for all of them.
        joined: whether one has.
    """

    def __init__(self) -> None:
        self.floor = START
        self.records: deque[Record] = deque()
        self.events: dict[Offset, RunEvent] = {}
        self.followers = 0
        self.gone: ResetReason | None = None
        self.joining = asyncio.Lock()
        self.joined = False
        self._size = 0
        self.news = asyncio.Event()

    def deliver(self, records: Sequence[Record]) -> None:
        """As Follower."""
        for record in records:
            self.records.append(record)
            self._size += _size(record)
        while len(self.records) > RECORDS or self._size > CHARACTERS:
            old = self.records.popleft()
            self._size -= _size(old)
            self.events.pop(old.offset, None)
            self.floor = old.offset
        self._ring()

    def reset(self, reason: ResetReason, bounds: Bounds) -> None:
        """As Follower."""
        self.gone = reason
        self._ring()

    @property
    def latest(self) -> Offset:
        """The offset of the latest record."""
        return self.records[-1].offset if self.records else self.floor

    def _ring(self) -> None:
        news, self.news = self.news, asyncio.Event()
        news.set()


def _size(record: Record) -> int:
    """About the characters of a record."""
    if record.data.get("e") == "delta":
        return 200 + len(record.data["d"]["text"])
    return 200 + len(_encode(record.data.get("d")))


class Tails:
    """The runs that this event loop follows."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tails: dict[str, Tail] = {}

    async def join(self, run_id: str) -> Tail:
        """Returns the tail of a run. Each call needs a ``leave``. Raises SourceUnavailableError."""
        tail = self._tails.get(run_id)
        if tail is None or tail.gone is not None:
            tail = self._tails[run_id] = Tail()
        tail.followers += 1
        try:
            async with tail.joining:
                if not tail.joined:
                    bounds = await self._store.log.follow(self._store.topic(run_id), tail)
                    tail.floor = max(tail.floor, bounds.latest)
                    tail.joined = True
        except BaseException:
            await self.leave(run_id, tail)
            raise
        return tail

    async def leave(self, run_id: str, tail: Tail) -> None:
        """Undo ``join``."""
        tail.followers -= 1
        if not tail.followers:
            if self._tails.get(run_id) is tail:
                del self._tails[run_id]
            await self._store.log.unfollow(self._store.topic(run_id), tail)


class RunReader:
    """Reads one run for one follower: the events after a position, and then new ones.

    Attributes:
        fold: how far it has read.
    """

    def __init__(self, store: Store, tails: Tails, run_id: str) -> None:
        self._store = store
        self._tails = tails
        self._run_id = run_id
        self._source = store.log.topic(store.topic(run_id))
        self._feed = fingerprint(run_id)
        self._epoch = ""
        self._offset = START
        self._limit = FIRST
        self.fold = Fold()

    @property
    def has_ended(self) -> bool:
        """Whether it has given the run's ``end``, after which there are no events."""
        return self.fold.ended

    @property
    def is_claimed(self) -> bool:
        """Whether an attempt has claimed the run, as far as it was read."""
        return self.fold.claim is not None

    async def seek(self, after: str | None) -> None:
        """Begin after a position; at the start for None. Raises PositionError."""
        if after is None:
            self._epoch = await self._source.origin.epoch()
            return
        position = Position.parse(after)
        if position.feed != self._feed:
            raise PositionError(after, "unknown", "it is of another run")
        text, _, place = position.place.partition(",")
        found = await self._source.locate(position.epoch, place)
        try:
            self.fold = Fold.parse(text)
        except ValueError:
            raise PositionError(after, "unknown") from None
        self._epoch, self._offset = position.epoch, found.offset

    async def events(self) -> AsyncGenerator[Sequence[RunEvent], None]:
        """The events up to ``end``, in groups. An empty group says that it waits for new events.

        Raises PositionError if the log no longer has the next events, and SourceUnavailableError.
        """
        tail = await self._tails.join(self._run_id)
        try:
            while not self.fold.ended:
                if tail.gone is not None:
                    raise PositionError(str(self._offset), tail.gone)
                if self._offset < tail.floor:
                    limit = self._limit
                    page = await self._store.log.read(
                        self._store.topic(self._run_id), self._offset, limit
                    )
                    if self._offset < page.bounds.earliest:
                        raise PositionError(str(self._offset), "expired")
                    # A page may have records only that are no events. More may follow it.
                    if past := self._merged(page.records):
                        yield past
                    if len(page.records) < limit:
                        self._offset = max(self._offset, page.bounds.latest)
                    else:
                        self._adjust(page.records)
                    continue
                fresh = self._fresh(tail)
                if fresh:
                    yield fresh
                elif not self.fold.ended:
                    yield ()
                    if tail.gone is None and self._offset >= tail.latest:
                        await tail.news.wait()
        finally:
            await self._tails.leave(self._run_id, tail)

    def _adjust(self, records: Sequence[Record]) -> None:
        """Read so many records next as have ``PAGE_CHARACTERS``, if they go on like these."""
        each = max(sum(map(_size, records)) / len(records), 1.0)
        self._limit = max(4, min(int(PAGE_CHARACTERS / each), PAGE, 4 * self._limit))

    def _fresh(self, tail: Tail) -> list[RunEvent]:
        fresh = []
        for record in reversed(tail.records):
            if record.offset <= self._offset:
                break
            fresh.append(record)
        return list(self._taken(reversed(fresh), tail.events))

    def _merged(self, records: Sequence[Record]) -> list[RunEvent]:
        """The events of past records. Adjacent deltas are combined into one."""
        # Each event, and the texts of the deltas that are combined in it.
        found: list[tuple[RunEvent, list[str]]] = []
        size = 0
        for event in self._taken(records, {}):
            texts = []
            if event.name == "delta":
                text = event.data["text"]
                if found and found[-1][1] and size + len(text) <= PIECE:
                    texts = found.pop()[1]
                else:
                    size = 0
                texts.append(text)
                size += len(text)
            found.append((event, texts))
        return [
            replace(event, data={"text": "".join(texts)}) if len(texts) > 1 else event
            for event, texts in found
        ]

    def _taken(
        self, records: Iterable[Record], known: dict[Offset, RunEvent]
    ) -> Iterator[RunEvent]:
        """The events of the next records, up to ``end``. ``known`` has those made before."""
        for record in records:
            if self.fold.ended:
                return
            taken = self.fold.take(record)
            self._offset = record.offset
            if taken is None:
                continue
            event = known.get(record.offset)
            if event is None or event.number != self.fold.number:
                place = f"{self.fold},{self._source.place(record)}"
                position = str(Position(self._feed, self._epoch, place))
                event = known[record.offset] = RunEvent(*taken, self.fold.number, position)
            yield event

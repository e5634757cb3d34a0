"""A channel: one feed with one filter, and all the streams that show it.

A stream of a channel is in one of four states. An *up-to-date* one was sent everything: each new
frame is written to it, and that is all the work there is. One that is *behind* met a full
connection: it goes on from the ring when the connection has drained. One that is *reading* needs
changes that the ring does not hold any more: it reads pages of the source. One that is *ahead*
read a page newer than what the origin has delivered so far: it leaves out what it was sent.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from headwater.delivery.batch import Recipients
from headwater.delivery.reader import OriginReader, Target
from headwater.delivery.ring import Entry, Ring, pieces
from headwater.delivery.sender import ROOM
from headwater.delivery.small_set import EMPTY, SmallSet, with_one, without
from headwater.delivery.stream import Stream
from headwater.delivery.window import Members
from headwater.errors import ResetReason
from headwater.feeds.feed import Feed
from headwater.feeds.source import Change, Filter, Page, Place, Source

__all__ = ["READ_LIMIT", "Channel", "ChannelStream", "Missed"]

# Rows of one read while a stream catches up: few enough that memory stays flat and the first ones
# leave soon, enough that a gap of thousands is not thousands of statements.
READ_LIMIT = 500


@dataclass(frozen=True, slots=True)
class Missed:
    """What comes after a place.

    Attributes:
        page: what was read.
        data: the page's events, and a block that moves on a client whose position would expire.
        holds: the place that a client holds after them, or None for the page's end.
    """

    page: Page
    data: bytes
    holds: Place | None


class ChannelStream(Stream, ABC):
    """What a channel needs of its streams.

    Attributes:
        holds: the place that the client resumed from, until an event moves it on.
    """

    __slots__ = ("holds",)

    holds: Place | None

    @abstractmethod
    def fall_behind(self, number: int) -> None:
        """The connection is full: go on with this entry of the ring when it has drained."""

    @abstractmethod
    def go_on(self) -> None:
        """Send what the ring has beyond what was sent."""

    @abstractmethod
    def restart(self, reason: ResetReason) -> None:
        """Begin anew, with a reset and a snapshot."""


class Channel(Target):
    """One feed with one filter.

    Arguments:
        on_unused: is called when the last stream has left and the origin's ``linger`` is over.

    Attributes:
        feed, source, reader: what is shown, of what, and who delivers its changes.
        ring: the frames that may still have to be sent.
        streams: all streams of the channel, in whatever state.
        holds: the number of requests that are about to add a stream; they keep the channel.
        life: how often the channel began anew. Pages that were read in an earlier life are void.
        reason: why it last began anew.
    """

    __slots__ = (
        "_ahead", "_lingering", "_members", "_on_unused", "_up_to_date", "_written", "feed",
        "holds", "life", "reader", "reason", "ring", "source", "streams",
    )  # fmt: skip

    def __init__(
        self,
        feed: Feed,
        source: Source,
        reader: OriginReader,
        on_unused: Callable[[Channel], None],
    ) -> None:
        self.feed = feed
        self.source = source
        self.reader = reader
        self.ring = Ring(reader.head, reader.bound)
        self.streams: SmallSet[ChannelStream] = EMPTY
        self.holds = 0
        self.life = 0
        self.reason: ResetReason = "unknown"
        self._on_unused = on_unused
        self._up_to_date: Recipients[ChannelStream] = Recipients(reader.batch)
        self._ahead: SmallSet[ChannelStream] = EMPTY
        # The number of the first entry that was not written to the streams that are up to date.
        self._written = 0
        self._lingering: asyncio.TimerHandle | None = None
        self._members = self._new_members()

    # The reader calls these.

    @property
    def filter(self) -> Filter:
        return self.source.filter

    def deliver(self, change: Change) -> None:
        members = self._members
        if members is None:
            data = self.feed.frame(change, self.reader.epoch)
            self.ring.append(Entry(data, change.place))
            return
        members.expire()
        key = change.key or {}
        if change.removed:
            if not members.remove(key):
                return
        else:
            known = members.has(key)
            if not members.update(key, change.moment):
                if not known:
                    return
                change = Change(change.place, change.values, removed=True, key=key)
        place = None if change.place is None else change.place.at(members.expired_until)
        self.ring.append(Entry(self.feed.frame_at(change, self.reader.epoch, place), place))

    def flush(self, now: float) -> None:
        ring = self.ring
        start, self._written = max(self._written, ring.first), ring.end
        entries = ring.since(start)
        if len(entries) == 1:
            self._write(entries[0].data, start, 1, now)
        elif entries:
            for piece in pieces(entries, ROOM):
                self._write(b"".join([entry.data for entry in piece]), start, len(piece), now)
                start += len(piece)
        if self._ahead:
            ahead, self._ahead = self._ahead, EMPTY
            for stream in tuple(ahead):
                if not stream.ended:
                    stream.go_on()

    def _write(self, data: bytes, start: int, frames: int, now: float) -> None:
        counters = self.reader.counters
        for stream in self._up_to_date.write(data, now):
            stream.fall_behind(start)
        written = len(self._up_to_date)
        counters.writes += written
        counters.frames += written * frames

    def retire(self, before: Place) -> None:
        """Send a block with nothing but an id to streams whose position would expire.

        WHATWG HTML, 9.2.6: with an empty data buffer the block sets the last event ID and
        dispatches no event.
        """
        streams = self._up_to_date
        late = any(stream.holds and not stream.holds.includes(before) for stream in streams)
        if late or (len(streams) and not self.ring.before(self.ring.end).includes(before)):
            reader, place = self.reader, self.reader.head
            if self._members is not None:
                self._members.expire()
                place = place.at(self._members.expired_until)
            self.ring.append(Entry(self.feed.moved(reader.epoch, place), place))
            for stream in streams:
                stream.holds = None
            self.flush(asyncio.get_running_loop().time())
            reader.batch.submit()

    def restart(self, reason: ResetReason, head: Place) -> None:
        self.life += 1
        self.reason = reason
        self.ring.clear(head)
        if self._members is not None:
            self._members.close()
            self._members = self._new_members()
        self._written = self.ring.end
        self._up_to_date.clear()
        self._ahead = EMPTY
        for stream in tuple(self.streams):
            stream.restart(reason)

    def fail(self) -> None:
        """End all streams where they are: an item cannot be encoded."""
        for stream in tuple(self.streams):
            stream.fail(500)

    def close(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if self._members is not None:
            self._members.close()
            self._members = None

    # Streams and the hub call these.

    async def prepare(self) -> None:
        """Load what a time window holds, once. The channel is delivered changes already."""
        while (members := self._members) is not None and not members.loaded:
            await self.reader.calls.join((self, self.life), partial(self._load, members))

    async def snapshot(self, limit: int) -> tuple[Page, bytes]:
        """The newest page and its event; streams that ask while it is read share both."""
        return await self.reader.calls.join(
            (self, self.life, limit), lambda: self._read_snapshot(limit)
        )

    async def missed(self, place: Place, holds: Place) -> Missed:
        """What comes after ``place``, for a client whose last id names the place ``holds``.

        Streams that ask for the same while it is read share it.
        """
        return await self.reader.calls.join(
            (self, self.life, str(place), str(holds)), lambda: self._read_missed(place, holds)
        )

    async def _load(self, members: Members) -> None:
        found = await self.source.members()
        if members is self._members:
            members.load(found)
            self.ring.floor_left = members.expired_until

    async def _read_snapshot(self, limit: int) -> tuple[Page, bytes]:
        page = await self.source.page(limit)
        return page, self.feed.snapshot(page)

    async def _read_missed(self, place: Place, holds: Place) -> Missed:
        page = await self.source.page(READ_LIMIT, after=place)
        for change in reversed(page.changes):
            if change.place is not None:
                holds = change.place
                break
        data, retired = self.feed.page_frames(page), self.reader.retired
        if retired is None or holds.includes(retired):
            return Missed(page, data, holds)
        return Missed(page, data + self.feed.moved(page.epoch, page.end), None)

    def reaches(self, place: Place, removed_until: datetime | None) -> bool:
        """Whether the ring has everything after a place.

        Arguments:
            removed_until: up to this moment the client was sent what left the time window.
        """
        left = self.ring.floor_left
        return place.includes(self.ring.floor) and (
            left is None or (removed_until is not None and removed_until >= left)
        )

    def first_after(self, place: Place) -> int:
        """The number of the first entry that a stream at ``place`` has to look at."""
        # Items leave a window by the clock, so the order of places does not bound them.
        return self.ring.first_after(place) if self._members is None else self.ring.first

    def caught_up(self, stream: ChannelStream, had: Place | None) -> bool:
        """A stream has sent everything that the ring holds.

        Arguments:
            had: the place of the page that it began from, if changes may come that it includes.

        Returns whether each new frame is now written to the stream. Otherwise ``go_on`` is called
        once more has been delivered.
        """
        ahead = had is not None and not self.reader.head.includes(had)
        if ahead or self._written != self.ring.end:
            self._ahead = with_one(self._ahead, stream)
            self.reader.flush_on_next_head(self)
            return False
        self._up_to_date.add(stream)
        return True

    def add(self, stream: ChannelStream) -> None:
        self.streams = with_one(self.streams, stream)

    def leave(self, stream: ChannelStream) -> None:
        """A stream has ended. Idempotent."""
        self._up_to_date.discard(stream)
        self._ahead = without(self._ahead, stream)
        self.streams = without(self.streams, stream)
        self.linger()

    def linger(self) -> None:
        """If no stream is left, end the channel after a while in which one may come back."""
        if self.streams or self.holds or self._lingering is not None:
            return
        linger = self.reader.origin.linger
        if linger > 0:
            self._lingering = asyncio.get_running_loop().call_later(linger, self._lingered)
        else:
            self._on_unused(self)

    def _lingered(self) -> None:
        self._lingering = None
        if not self.streams and not self.holds:
            self._on_unused(self)

    # The time window calls this.

    def _append_removal(self, key: Mapping[str, Any], moment: datetime, last: bool) -> None:
        place: Place | None = None
        token: str | None = None
        if last:
            # A place says up to which moment removals were sent, so a client may not resume between
            # two of the same moment. During a delivery the head is older than what the ring has.
            sent, head = self.ring.before(self.ring.end), self.reader.head
            place = (sent if sent.includes(head) else head).at(moment)
            token = self.feed.position(self.reader.epoch, place)
        self.ring.append(Entry(self.feed.removal(key, token), place, moment))
        self.reader.flush_soon(self)

    def _new_members(self) -> Members | None:
        window = self.source.window
        return None if window is None else Members(window.length, self._append_removal)

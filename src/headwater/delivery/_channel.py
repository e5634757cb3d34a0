"""A channel: one feed with one filter, and all the streams that show it.

A stream of a channel is in one of four states:

- *up to date*: it was sent everything, and each new frame is written to it at once;
- *behind*: its connection was full. It continues from the ring when the connection has drained;
- *reading*: it needs changes that the ring no longer has, and reads pages of the source;
- *ahead*: it read a page that is newer than the origin's last delivery. It leaves out the changes
  that the page had.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from headwater.delivery._batch import Recipients
from headwater.delivery._reader import OriginReader
from headwater.delivery._ring import Ring, pieces
from headwater.delivery._sender import ROOM
from headwater.delivery._small_set import EMPTY, SmallSet, with_one, without
from headwater.delivery._stream import Stream
from headwater.delivery._targets import Target
from headwater.delivery._window import Members
from headwater.errors import ResetReason, SourceUnavailableError, UnfitItemError
from headwater.feeds._feed import Feed, Frame
from headwater.feeds._source import Change, Filter, Place, Source


class ChannelStream(Stream, ABC):
    """The members of a stream that a channel uses.

    Attributes:
        holds: the place that the client resumed from, until an event moves it on.
    """

    __slots__ = ("holds",)

    holds: Place | None

    @abstractmethod
    def fall_behind(self, number: int) -> None:
        """Continue with this frame of the ring when the full connection has drained."""

    @abstractmethod
    def go_on(self) -> None:
        """Send what the ring has beyond what was sent."""

    @abstractmethod
    def restart(self, reason: ResetReason | None) -> None:
        """Begin anew with a reset and a snapshot. Without a reason, only with a snapshot."""


class Channel(Target):
    """One feed with one filter.

    Attributes:
        feed, source: the feed that is shown, and the source of its items.
        reader: the reader that delivers the changes.
        ring: the frames that streams may still need.
        streams: all streams of the channel, in every state.
        holds: how many requests are about to add a stream. The channel is kept for them.
        life: how often the channel began anew. Pages that were read in an earlier life are dropped.
        reason: why it last began anew; None if the whole state was replaced.
        interrupted: why streams cannot go on. The channel then gets no more changes.
        held_by: the item that the feed waits at. The channel then gets no more changes.
    """

    __slots__ = (
        "_ahead", "_lingering", "_members", "_prepared", "_up_to_date", "_written", "feed",
        "held_by", "holds", "interrupted", "life", "page_bytes", "preparation",
        "reader", "reason", "ring", "source", "streams",
    )  # fmt: skip

    def __init__(self, feed: Feed, source: Source, reader: OriginReader, page_bytes: int) -> None:
        self.feed = feed
        self.page_bytes = page_bytes
        self.source = source
        self.reader = reader
        self.ring = Ring(reader.head, reader.bound)
        self.streams: SmallSet[ChannelStream] = EMPTY
        self.holds = 0
        self.life = 0
        self.reason: ResetReason | None = "unknown"
        self.held_by: UnfitItemError | None = None
        self.interrupted: str | None = None
        self._up_to_date: Recipients[ChannelStream] = Recipients(reader.batch)
        self._ahead: SmallSet[ChannelStream] = EMPTY
        # The number of the first frame that was not written to the streams that are up to date.
        self._written = 0
        self._lingering: asyncio.TimerHandle | None = None
        self._members = self._new_members()
        self._prepared = False
        self.preparation = None
        if feed.function is not None:
            self.preparation = reader.preparation(feed)
            self.preparation.channels[self] = None

    @property
    def head(self) -> Place:
        """Every change up to here is in the ring."""
        return self.reader.head if self.preparation is None else self.preparation.head

    # The reader calls these.

    @property
    def name(self) -> Hashable:
        return (self.feed, self.source.identity)

    @property
    def filter(self) -> Filter:
        return self.source.filter

    def deliver(self, change: Change) -> None:
        if self.feed.on_invalid == "skip":
            fit = self.feed.shown(change)
            self.reader.counters.invalid_skipped += fit is not change
            if fit is None:
                return
            change = fit
        members = self._members
        if members is None:
            self.ring.append(self.feed.frame(change, self.reader.epoch))
            return
        members.expire()
        key, shown_until = change.key or {}, None
        if change.removed:
            if not members.remove(key):
                return
        else:
            known = members.has(key) or members.was_on_a_page(change.moment)
            if not members.update(key, change.moment):
                if not known:
                    return
                shown_until = members.leaves(change.moment)
                change = Change(change.place, change.values, removed=True, key=key)
        place = None if change.place is None else change.place.at(members.expired_until)
        epoch = self.reader.epoch
        self.ring.append(self.feed.frame_at(change, epoch, place, shown_until=shown_until))

    def deliver_prepared(self, change: Change) -> bool:
        """As Prepared."""
        if self.reader.targets.get(self.name) is not self:
            return False
        try:
            self.deliver(change)
        except Exception as error:
            self.fail(error)
            return False
        return True

    def overtake(self, head: Place) -> None:
        """As Prepared."""
        for stream in tuple(self._up_to_date):
            stream.fall_behind(self.ring.end)
        self._up_to_date.clear()
        self._ahead = EMPTY
        self.ring.skip(head)
        self._written = self.ring.end
        for stream in tuple(self.streams):
            if not stream.ended:
                stream.go_on()

    def flush(self, now: float) -> None:
        ring = self.ring
        start, self._written = self._written, ring.end
        new = ring.since(start)
        if len(new) == 1:
            self._write(new[0].data, start, 1, now)
        elif new:
            for piece in pieces(new, ROOM):
                self._write(b"".join([frame.data for frame in piece]), start, len(piece), now)
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
            reader, place = self.reader, self.head
            if self._members is not None:
                self._members.expire()
                place = place.at(self._members.expired_until)
            self.ring.append(Frame(self.feed.moved(reader.epoch, place), place))
            for stream in streams:
                stream.holds = None
            self.flush(asyncio.get_running_loop().time())
            reader.batch.submit()

    def restart(self, reason: ResetReason | None, head: Place) -> None:
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

    def interrupt(self, why: SourceUnavailableError) -> None:
        # What was delivered may lack changes: streams that come back read the source.
        self.interrupted = why.for_clients
        self.reader.remove(self)
        for stream in tuple(self.streams):
            stream.interrupt(self.interrupted)

    def fail(self, error: Exception) -> None:
        """End all streams where they are: an item cannot be shown.

        What was delivered since is dropped with the channel. A stream that comes back reads the
        source from where it was, and so meets the item again until it is mended.
        """
        held = error if isinstance(error, UnfitItemError) else None
        self.held_by = held or UnfitItemError("an item", type(error).__name__, self.feed.retry)
        self.reader.remove(self)
        for stream in tuple(self.streams):
            self.end_held(stream)

    def end_held(self, stream: Stream) -> None:
        """End a stream at the item that the feed waits at."""
        if self.held_by is not None:
            self.reader.counters.invalid_held += 1
            stream.fail(500, retry=self.held_by.retry)

    def close(self) -> None:
        if self.preparation is not None:
            self.preparation.channels.pop(self, None)
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if self._members is not None:
            self._members.close()
            self._members = None

    # Streams and the hub call these.

    async def prepare(self) -> None:
        """Wait until changes are delivered, and load what a time window holds, once."""
        await self.reader.origin.ready(self.filter)
        if not self._prepared:
            # Until now the origin may have read changes without asking about this filter.
            self._prepared = True
            self.ring.floor = self.reader.head
        while (members := self._members) is not None and not members.loaded:
            await self.reader.calls.join((self, self.life), partial(self._load, members))

    async def _load(self, members: Members) -> None:
        found = await self.source.members()
        if members is self._members:
            members.load(found)
            self.ring.floor_left = members.expired_until

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
        """The number of the first frame that a stream at ``place`` may lack."""
        # Items leave a window by the clock, so the order of places does not bound them.
        return self.ring.first_after(place) if self._members is None else self.ring.first

    def caught_up(self, stream: ChannelStream, had: Place | None) -> bool:
        """A stream has sent everything that the ring holds.

        Arguments:
            had: the place of the page that it began from, if changes may come that it includes.

        Returns whether each new frame is now written to the stream. Otherwise ``go_on`` is called
        once more has been delivered.
        """
        ahead = had is not None and not self.head.includes(had)
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
            self.reader.remove(self)

    def _lingered(self) -> None:
        self._lingering = None
        if not self.streams and not self.holds:
            self.reader.remove(self)

    # The time window calls this.

    def _append_removal(self, key: Mapping[str, Any], moment: datetime, last: bool) -> None:
        place: Place | None = None
        token: str | None = None
        if last:
            # A place says up to which moment removals were sent, so a client may not resume between
            # two of the same moment. During a delivery the head is older than what the ring has.
            sent, head = self.ring.before(self.ring.end), self.head
            place = (sent if sent.includes(head) else head).at(moment)
            token = self.feed.position(self.reader.epoch, place)
        self.ring.append(Frame(self.feed.removal(key, token), place, moment))
        self.reader.flush_soon(self)

    def _new_members(self) -> Members | None:
        window = self.source.window
        return None if window is None else Members(window.length, self._append_removal)

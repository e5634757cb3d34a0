"""A channel: one feed with one filter, and all the streams that follow it.

Its streams are of three kinds. *Current* ones have been sent everything: a new frame is written to
each of them, and that is all the work there is. *Behind* ones met a full connection: they go on
from the ring when it has drained, or from the source when the ring no longer reaches back.
*Ahead* ones read a page that is newer than what the origin has handed over so far; they leave out
what they have had.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Coroutine, Hashable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from headwater.delivery.current import Current
from headwater.delivery.few import NONE, Few, with_one, without
from headwater.delivery.ring import Entry, Ring, pieces, with_places
from headwater.delivery.sender import ROOM, Shared
from headwater.delivery.window import Members
from headwater.errors import ResetReason
from headwater.feeds.feed import Feed
from headwater.feeds.source import Change, Page, Place, Source

if TYPE_CHECKING:
    from headwater.delivery.feed_stream import FeedStream
    from headwater.delivery.follower import Follower

__all__ = ["Channel", "Missed", "State"]

T = TypeVar("T")


class State(enum.Enum):
    """Where a channel has a stream."""

    CURRENT = enum.auto()
    AHEAD = enum.auto()
    BEHIND = enum.auto()
    READING = enum.auto()


@dataclass(frozen=True, slots=True)
class Missed:
    """What comes after a place.

    Attributes:
        data: the page's events, and what moves on a client whose position would expire.
        holds: the place that a client holds then, or None for the page's end.
    """

    page: Page
    data: bytes
    holds: Place | None


class Channel:
    """One feed with one filter.

    Attributes:
        feed, source: what is followed.
        ring: the frames that may still have to be sent.
        streams: the streams that follow, of whatever kind.
        holds: how many are about to add a stream; the channel is kept meanwhile.
        life: how often it began anew; what was read in an earlier life cannot be gone on from.
        reason: why it last began anew.
    """

    __slots__ = (
        "_ahead",
        "_current",
        "_flushed",
        "_lingering",
        "_members",
        "_prepared",
        "_reading",
        "feed",
        "follower",
        "holds",
        "life",
        "reason",
        "ring",
        "source",
        "streams",
    )

    def __init__(self, feed: Feed, source: Source, follower: Follower, head: Place) -> None:
        self.feed = feed
        self.source = source
        self.follower = follower
        self.ring = Ring(head)
        self.streams: Few[FeedStream] = NONE
        self.holds = 0
        self.life = 0
        self.reason: ResetReason = "unknown"
        self._prepared: asyncio.Future[None] | None = None
        self._current = Current(follower.batch)
        self._ahead: Few[FeedStream] = NONE
        self._flushed = 0
        self._reading: dict[Hashable, asyncio.Future[Any]] | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._members = self._new_members()

    # What the follower calls

    async def prepare(self) -> None:
        """Load what a time window holds, once. The channel is handed changes already."""
        members = None
        while members is not self._members and self._members is not None:
            members = self._members
            if self._prepared is None or (self._prepared.done() and self._prepared.exception()):
                self._prepared = asyncio.ensure_future(self._load(members))
            await asyncio.shield(self._prepared)

    def _new_members(self) -> Members | None:
        window = self.source.window
        return None if window is None else Members(window.length, self._left)

    async def _load(self, members: Members) -> None:
        found = await self.source.members()
        if members is self._members:
            members.load(found)
            self.ring.floor_left = members.told

    def take(self, change: Change) -> None:
        """A change that this channel's filter matches; ``flush`` follows."""
        if self._members is None:
            self._append(self.follower.entry(self.feed, change))
            return
        self._members.expire()
        key = change.key or {}
        if change.removed:
            if not self._members.remove(key):
                return
        else:
            known = self._members.has(key)
            if not self._members.update(key, change.moment):
                if not known:
                    return
                change = Change(change.place, change.values, removed=True, key=key)
        place = None if change.place is None else change.place.at(self._members.told)
        data = self.feed.frame_at(change, self.follower.epoch, place)
        self._append(Entry(data, place))

    def flush(self, now: float) -> None:
        """Collect what was taken since the last flush, for the batch to be sent."""
        ring = self.ring
        start, end = self._flushed, ring.end
        if start == end:
            return
        start = max(start, ring.first)
        self._flushed = end
        if end - start == 1:
            self._put(self.follower.shared(ring.last.data), start, 1, now)
        else:
            for piece in pieces(ring.since(start), ROOM):
                data = Shared(b"".join([entry.data for entry in piece]))
                self._put(data, start, len(piece), now)
                start += len(piece)
        if self._ahead:
            self.settle()

    def _put(self, data: Shared, start: int, frames: int, now: float) -> None:
        current, counters = self._current, self.follower.counters
        for stream in current.put(data, now):
            stream.fall_behind(start, self.ring.before(start))
        written = len(current)
        counters.writes += written
        counters.frames += written * frames

    def settle(self) -> None:
        """Move on the streams that are ahead, now that the origin's head may have reached them."""
        ahead, self._ahead = self._ahead, NONE
        for stream in tuple(ahead):
            if not stream.ended:
                self.go_on(stream)

    @property
    def waits(self) -> bool:
        """Whether some stream is ahead of what was handed over."""
        return bool(self._ahead)

    def retire(self, before: Place) -> None:
        """Send a block with nothing but an id to streams whose position would expire.

        WHATWG HTML, 9.2.6: with an empty data buffer the block sets the last event ID and
        dispatches no event.
        """
        late = any(stream.holds and not stream.holds.includes(before) for stream in self._current)
        if late or (self._current and not self.ring.before(self.ring.end).includes(before)):
            place = self.follower.head
            if self._members is not None:
                self._members.expire()
                place = place.at(self._members.told)
            self._append(Entry(self.feed.moved(self.follower.epoch, place), place))
            for stream in self._current:
                stream.holds = None
            self.flush(asyncio.get_running_loop().time())
            self.follower.batch.submit()

    def moved(self, page: Page, holds: Place) -> tuple[bytes, Place | None]:
        """What moves a client on that would hold a place about to expire after this page.

        ``holds`` is its place before the page. Returns the bytes and what it holds then, or None
        for the page's end.
        """
        for change in reversed(page.changes):
            if change.place is not None:
                holds = change.place
                break
        retired = self.follower.retired
        if retired is None or holds.includes(retired):
            return b"", holds
        return self.feed.moved(page.epoch, page.end), None

    def restart(self, reason: ResetReason, head: Place) -> None:
        """The storage is another one, or was trimmed past us: every stream begins anew."""
        self.life += 1
        self.reason = reason
        self.ring.clear(head)
        if self._members is not None:
            self._members.close()
            self._members = self._new_members()
            self._prepared = None
        self._flushed = self.ring.end
        self._reading = None
        self._current.clear()
        self._ahead = NONE
        for stream in tuple(self.streams):
            stream.had = None
            stream.restart(reason)

    def break_off(self) -> None:
        """An item cannot be encoded: end all streams where they are."""
        for stream in tuple(self.streams):
            stream.fail(500)

    def close(self) -> None:
        """Nobody follows any more."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if self._members is not None:
            self._members.close()
            self._members = None

    # What streams call

    async def snapshot(self, limit: int) -> tuple[Page, bytes]:
        """The newest page and its event; streams that ask while it is read share both."""
        return await self._together(limit, lambda: self._read_snapshot(limit))

    async def missed(self, place: Place, limit: int) -> Missed:
        """What a client at ``place`` lacks; streams that resume there at once share it."""
        return await self._together((str(place), limit), lambda: self._read_missed(place, limit))

    async def _read_snapshot(self, limit: int) -> tuple[Page, bytes]:
        page = await self.source.page(limit)
        return page, self.feed.snapshot(page)

    async def _read_missed(self, place: Place, limit: int) -> Missed:
        page = await self.source.page(limit, after=place)
        moved, holds = self.moved(page, place)
        return Missed(page, self.feed.page_frames(page) + moved, holds)

    async def _together(self, name: Hashable, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self._reading is None:
            self._reading = {}
        shared: asyncio.Future[T] | None = self._reading.get(name)
        if shared is None:
            shared = self._reading[name] = asyncio.ensure_future(read())
            shared.add_done_callback(lambda done: self._read_done(name, done))
        return await asyncio.shield(shared)

    def _read_done(self, name: Hashable, done: asyncio.Future[Any]) -> None:
        if self._reading is not None and self._reading.get(name) is done:
            del self._reading[name]
            self._reading = self._reading or None
        if not done.cancelled():
            done.exception()

    def join(self, stream: FeedStream, place: Place, told: datetime | None) -> bool:
        """Go live from ``place``, if the ring reaches back to it.

        Arguments:
            place: what the stream was sent so far.
            told: up to when it was told what left the time window.

        Returns False when the source has to be read first.
        """
        ring = self.ring
        if not place.includes(ring.floor):
            return False
        floor_left = ring.floor_left
        if floor_left is not None and (told is None or told < floor_left):
            return False
        # What left a window is told by the clock: there, each entry is looked at.
        stream.cursor = ring.lacking(place) if self._members is None else ring.first
        stream.had = place
        stream.told = told
        self.go_on(stream)
        return True

    def go_on(self, stream: FeedStream) -> None:
        """Send a stream that is not current what the ring has for it, as far as there is room."""
        ring = self.ring
        counters = self.follower.counters
        while not stream.sender.full and not stream.ended:
            if stream.cursor < ring.first:
                stream.read()
                return
            entries = ring.since(stream.cursor)
            if not entries:
                self._caught_up(stream)
                return
            parts: list[bytes] = []
            size = 0
            for entry, place in with_places(entries):
                stream.cursor += 1
                if not stream.has(entry, place):
                    data = self._since(entry, stream.had)
                    parts.append(data)
                    size += len(data)
                    if size > ROOM:
                        break
            if parts:
                stream.write(b"".join(parts))
                counters.frames += len(parts)
        if not stream.ended:
            sent = ring.before(stream.cursor)
            if stream.had is not None:
                sent = stream.had if stream.had.includes(sent) else sent.since(stream.had)
            stream.fall_behind(stream.cursor, sent)

    def leave(self, stream: FeedStream) -> None:
        """A stream has ended. Idempotent."""
        self._current.discard(stream)
        self._ahead = without(self._ahead, stream)
        self.streams = without(self.streams, stream)
        self.release()

    def release(self) -> None:
        """Let the channel go if nobody is left, after a while in which one may return."""
        if self.streams or self.holds or self._lingering is not None:
            return
        linger = self.follower.origin.linger
        if linger > 0:
            self._lingering = asyncio.get_running_loop().call_later(linger, self._lingered)
        else:
            self.follower.forget(self)

    def _lingered(self) -> None:
        self._lingering = None
        if not self.streams and not self.holds:
            self.follower.forget(self)

    def _caught_up(self, stream: FeedStream) -> None:
        had = stream.had
        if had is not None and not self.follower.head.includes(had):
            stream.state = State.AHEAD
            self._ahead = with_one(self._ahead, stream)
            self.follower.expect(self)
        elif self._flushed != self.ring.end:
            # In the middle of a hand-over: the flush that follows will come by here.
            stream.state = State.AHEAD
            self._ahead = with_one(self._ahead, stream)
        else:
            stream.settled()
            self._current.add(stream)

    def _since(self, entry: Entry, base: Place | None) -> bytes:
        """A frame for a stream that began at ``base``: its id may have to say so."""
        place = entry.place
        if base is None or place is None:
            return entry.data
        moved = place.since(base)
        if moved is place:
            return entry.data
        epoch = self.follower.epoch
        line = f"\nid: {self.feed.position(epoch, place)}\n".encode()
        other = f"\nid: {self.feed.position(epoch, moved)}\n".encode()
        return entry.data.replace(line, other, 1)

    def _left(self, key: Mapping[str, Any], moment: datetime, last: bool) -> None:
        # A place says up to which moment all that left was told, so of several that left at the
        # same one only the last may be resumed from.
        # In the middle of a hand-over the head is older than what was sent of it.
        sent, head = self.ring.before(self.ring.end), self.follower.head
        place = (sent if sent.includes(head) else head).at(moment) if last else None
        token = self.feed.position(self.follower.epoch, place) if place is not None else None
        self._append(Entry(self.feed.removal(key, token), place, moment))
        self.follower.flush_soon(self)

    def _append(self, entry: Entry) -> None:
        self.ring.append(entry)
        self.follower.remember(self, len(entry.data))

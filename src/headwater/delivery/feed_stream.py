"""The stream of a feed: a cursor into its channel's ring."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime

from headwater.delivery.channel import Channel, State
from headwater.delivery.direct import DirectSender
from headwater.delivery.few import with_one
from headwater.delivery.open_streams import OpenStreams
from headwater.delivery.ring import Entry
from headwater.delivery.sender import Sender
from headwater.delivery.stream import Stream
from headwater.errors import PositionError, ResetReason, SourceUnavailableError
from headwater.feeds.feed import MAX_LIMIT, Feed
from headwater.feeds.source import Page, Place, Source
from headwater.protocol import HEARTBEAT

__all__ = ["FeedStream", "Opening", "open_feed"]

logger = logging.getLogger("headwater.delivery")

# Rows of one read while catching up: few enough that memory stays flat and the first ones leave
# soon, enough that a gap of thousands is not thousands of statements.
_READ = 500


@dataclass(frozen=True, slots=True)
class Opening:
    """What a stream of a feed begins with, made before anything is sent.

    Attributes:
        data: the first bytes of the body.
        place: where a client is that was sent them.
        told: up to when it was told what left the time window.
        life: that of the channel when it was read.
        holds: the place that the client itself holds then, if it may be another.
    """

    data: bytes
    place: Place
    told: datetime | None
    life: int
    holds: Place | None = None


async def open_feed(
    channel: Channel,
    *,
    limit: int,
    resume: str | None = None,
    before: Place | None = None,
) -> Opening:
    """Read what a stream begins with: what it missed, or a snapshot.

    Arguments:
        resume: the position that the client holds, as it came; None for a first visit. One that
            cannot be resumed is answered with a ``reset`` and a snapshot.
        before: the snapshot is the page that ends before this place.

    Raises SourceUnavailableError.
    """
    feed, source, life = channel.feed, channel.source, channel.life
    first = feed.opening
    if resume is not None:
        try:
            position = feed.parse(resume)
            place = await source.locate(position.epoch, position.place)
            if place.includes(channel.ring.floor) and channel.ring.floor_left is None:
                return Opening(first, place, None, life)
            missed = await channel.missed(place, _READ)
            page = missed.page
            if page.epoch != position.epoch:
                raise PositionError(resume, "unknown")
            return Opening(first + missed.data, page.end, _told(page), life, missed.holds)
        except PositionError as error:
            channel.follower.counters.resets += 1
            first += feed.reset(error.reason)
    if before is not None:
        page = await source.page(limit, before=before)
        shown = feed.snapshot(page)
    else:
        page, shown = await channel.snapshot(limit)
    return Opening(first + shown, page.end, page.as_of, life)


class FeedStream(Stream):
    """One open stream of a feed.

    Attributes:
        channel: what it follows.
        limit: items of a snapshot, should a reset call for one.
        cursor: the number of the ring's entry that is sent next; meaningless while current.
        had: entries that this place includes were sent already; None when that is past.
        holds: the place that the client resumed from, for as long as no event has moved it on.
        told: the same for items that left the time window.
        state: where its channel has it.
    """

    __slots__ = (
        "_drained",
        "_place",
        "_reader",
        "_restart",
        "channel",
        "cursor",
        "had",
        "holds",
        "limit",
        "state",
        "told",
    )

    def __init__(
        self,
        sender: Sender,
        streams: OpenStreams,
        channel: Channel,
        *,
        limit: int,
        heartbeat: float | None,
    ) -> None:
        super().__init__(sender, streams, heartbeat=heartbeat)
        self.channel = channel
        self.limit = limit
        self.cursor = 0
        self.had: Place | None = None
        self.holds: Place | None = None
        self.told: datetime | None = None
        self.state = State.READING
        self._drained: asyncio.Future[None] | None = None
        self._place: Place | None = None
        self._reader: asyncio.Task[None] | None = None
        self._restart: ResetReason | None = None
        channel.streams = with_one(channel.streams, self)

    @property
    def feed(self) -> Feed:
        return self.channel.feed

    @property
    def source(self) -> Source:
        return self.channel.source

    @property
    def last_written(self) -> float:
        """The loop's time of the last write, also of one to many streams together."""
        sender = self.sender
        ready = sender.ready if isinstance(sender, DirectSender) else None
        return self.written_at if ready is None else max(self.written_at, ready.written_at)

    def begin(self, opening: Opening) -> None:
        """Send what the stream begins with, then go live."""
        self.commit()
        # It comes first: it says what the events that follow are called.
        seen = b"" if self.pulse == HEARTBEAT else self.pulse
        self.write(seen + opening.data)
        self._place = opening.place
        self.holds = opening.holds
        if opening.life != self.channel.life:
            # It was read from what the storage was before.
            self.restart(self.channel.reason)
        elif not self.channel.join(self, opening.place, opening.told):
            self.read()

    def has(self, entry: Entry, place: Place | None) -> bool:
        """Whether this stream was sent the entry, which belongs to ``place``, in a page already."""
        if entry.left is not None:
            return self.told is not None and self.told >= entry.left
        had = self.had
        return had is not None and place is not None and had.has(place)

    def settled(self) -> None:
        """It has been sent everything: what it began from is past."""
        self.state = State.CURRENT
        self.had = self.told = self._place = None

    def fall_behind(self, cursor: int, sent: Place) -> None:
        """The connection is full: go on from here when it has drained."""
        self.state = State.BEHIND
        self.cursor = cursor
        self._place = sent

    def restart(self, reason: ResetReason) -> None:
        """The storage cannot go on: tell it, and begin anew with a snapshot."""
        if not self.ended:
            self._restart = reason
            self.state = State.READING
            self.read()

    def read(self) -> None:
        """Go on from the source: the ring does not reach back far enough."""
        self.state = State.READING
        if self._reader is None and not self.ended:
            self._streams.counters.reread += 1
            self._reader = self._streams.run(self._catch_up(), "catching up a stream")
            self._reader.add_done_callback(self._read_ended)

    def _read_ended(self, _: asyncio.Task[None]) -> None:
        self._reader = None
        if self.state is State.READING and not self.ended:
            # A stream that waits for a reader which is no more would be silent for ever.
            self.fail(500)

    async def _catch_up(self) -> None:
        delay = 0.1
        while not self.ended:
            try:
                if await self._step():
                    return
                delay = 0.1
            except PositionError as error:
                self._restart = error.reason
            except SourceUnavailableError as error:
                # The stream stays open and goes on when the storage is back.
                logger.debug("a stream waits: %s", error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)

    async def _step(self) -> bool:
        """Read one page and send it. Returns whether the stream is live."""
        channel, feed = self.channel, self.channel.feed
        if self._restart is not None:
            life, reason = channel.life, self._restart
            await channel.prepare()
            page, shown = await channel.snapshot(self.limit)
            if life != channel.life:
                return False
            self._restart = self.holds = None
            self._streams.counters.resets += 1
            self.write(feed.reset(reason) + shown)
            told = page.as_of
        else:
            assert self._place is not None
            await self._room()
            if self.ended:
                return True
            page = await self.source.page(_READ, after=self._place)
            if self._restart is not None:
                return False
            told = _told(page)
            moved, self.holds = channel.moved(page, self.holds or self._place)
            if page.changes or moved:
                self._streams.counters.frames += len(page.changes)
                self.write(feed.page_frames(page) + moved)
        self._place = page.end
        return self._restart is None and channel.join(self, page.end, told)

    async def _room(self) -> None:
        """Wait until the connection has drained."""
        if self.sender.full and not self.ended:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def idle(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)
        if self.state is State.BEHIND and not self.ended:
            self.channel.go_on(self)

    def _end(self) -> None:
        super()._end()
        self.channel.leave(self)


def _told(page: Page) -> datetime | None:
    # A page that is not the last one tells only what left up to its own end.
    return None if page.has_more else page.as_of


assert MAX_LIMIT <= _READ

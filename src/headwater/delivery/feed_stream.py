"""The stream of a feed: a cursor into its channel's ring."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime

from headwater.delivery.channel import READ_LIMIT, Channel, ChannelStream
from headwater.delivery.direct_sender import DirectSender
from headwater.delivery.open_streams import OpenStreams
from headwater.delivery.ring import Entry, with_places
from headwater.delivery.sender import ROOM, Sender
from headwater.errors import PositionError, ResetReason, SourceUnavailableError
from headwater.feeds.feed import MAX_LIMIT
from headwater.feeds.source import Page, Place

__all__ = ["FeedStream", "Opening", "open_feed"]

logger = logging.getLogger("headwater.delivery")

# Seconds between two tries to read while the storage is away.
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 2.0


@dataclass(frozen=True, slots=True)
class Opening:
    """What a stream of a feed begins with, made before anything is sent.

    Attributes:
        data: the first bytes of the body.
        place: the place of a client that was sent them.
        removed_until: up to this moment they have the removals of what left the time window.
        life: that of the channel when it was read.
        holds: the place that the client's last id names, if it may be another than ``place``.
    """

    data: bytes
    place: Place
    removed_until: datetime | None
    life: int
    holds: Place | None = None


async def open_feed(
    channel: Channel,
    *,
    limit: int,
    resume: str | None = None,
    before: Place | None = None,
) -> Opening:
    """Read what a stream begins with: what the client missed, or a snapshot.

    Arguments:
        limit: items of a snapshot.
        resume: the position that the client sent; None on a first visit. One that cannot be
            resumed is answered with a ``reset`` and a snapshot.
        before: the snapshot is the page that ends before this place.

    Raises SourceUnavailableError.
    """
    feed, source, life = channel.feed, channel.source, channel.life
    first = feed.opening
    if resume is not None:
        try:
            position = feed.parse(resume)
            place = await source.locate(position.epoch, position.place)
            if channel.reaches(place, None):
                return Opening(first, place, None, life)
            missed = await channel.missed(place, place)
            page = missed.page
            if page.epoch != position.epoch:
                raise PositionError(resume, "unknown")
            return Opening(first + missed.data, page.end, _removed_until(page), life, missed.holds)
        except PositionError as error:
            channel.reader.counters.resets += 1
            first += feed.reset(error.reason)
    if before is not None:
        page = await source.page(limit, before=before)
        shown = feed.snapshot(page)
    else:
        page, shown = await channel.snapshot(limit)
    return Opening(first + shown, page.end, page.as_of, life)


class FeedStream(ChannelStream):
    """One open stream of a feed.

    Arguments:
        limit: items of the snapshot after a reset.

    Attributes:
        channel: what it shows.
    """

    __slots__ = (
        "_behind", "_cursor", "_drained", "_had", "_limit", "_place", "_reading", "_removed_until",
        "_restart_reason", "channel",
    )  # fmt: skip

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
        self.holds: Place | None = None
        self._limit = limit
        # The number of the ring's entry that is sent next; meaningless while up to date.
        self._cursor = 0
        self._behind = False
        self._reading = False
        self._restart_reason: ResetReason | None = None
        self._drained: asyncio.Future[None] | None = None
        # Where the client is, for a read of the source. None while up to date.
        self._place: Place | None = None
        # Entries that this place has were sent in a page, as were removals up to this moment.
        self._had: Place | None = None
        self._removed_until: datetime | None = None
        channel.add(self)

    @property
    def last_written(self) -> float:
        """The loop's time of the last write, also of one to many streams together."""
        sender = self.sender
        group = sender.group if isinstance(sender, DirectSender) else None
        return self.written_at if group is None else max(self.written_at, group.written_at)

    def begin(self, opening: Opening) -> None:
        """Send what the stream begins with, then each new frame."""
        self.commit()
        self.write(opening.data)
        self._place = opening.place
        self.holds = opening.holds
        if opening.life != self.channel.life:
            # It was read from what the storage was before.
            self.restart(self.channel.reason)
        elif not self._join(opening.place, opening.removed_until):
            self._read()

    def go_on(self) -> None:
        if not self._send_from_ring():
            self._read()

    def fall_behind(self, number: int) -> None:
        self._behind = True
        self._cursor = number
        sent, had = self.channel.ring.before(number), self._had
        if had is not None:
            sent = had if had.includes(sent) else sent.since(had)
        self._place = sent

    def restart(self, reason: ResetReason) -> None:
        if not self.ended:
            self._restart_reason = reason
            self._had = None
            self._read()

    def idle(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)
        if self._behind and not self.ended:
            self._behind = False
            self.go_on()

    def _join(self, place: Place, removed_until: datetime | None) -> bool:
        """Go on from the ring after ``place``. Returns False if the source has to be read first."""
        channel = self.channel
        if not channel.reaches(place, removed_until):
            return False
        self._cursor = channel.first_after(place)
        self._had, self._removed_until = place, removed_until
        return self._send_from_ring()

    def _send_from_ring(self) -> bool:
        """Send what the ring has, as far as there is room. False: it does not reach back enough."""
        ring = self.channel.ring
        while not self.sender.full and not self.ended:
            if self._cursor < ring.first:
                return False
            entries = ring.since(self._cursor)
            if not entries:
                if self.channel.caught_up(self, self._had):
                    self._had = self._removed_until = self._place = None
                return True
            parts: list[bytes] = []
            size = 0
            for entry, place in with_places(entries):
                self._cursor += 1
                if not self._was_sent(entry, place):
                    parts.append(self._frame(entry))
                    size += len(parts[-1])
                    if size > ROOM:
                        break
            if parts:
                self.write(b"".join(parts))
                self._streams.counters.frames += len(parts)
        if not self.ended:
            self.fall_behind(self._cursor)
        return True

    def _was_sent(self, entry: Entry, place: Place | None) -> bool:
        """Whether a page that was sent had the entry, which belongs to ``place``."""
        if entry.left is not None:
            return self._removed_until is not None and self._removed_until >= entry.left
        return self._had is not None and place is not None and self._had.has(place)

    def _frame(self, entry: Entry) -> bytes:
        """The entry's frame; its id may have to name what the stream began from."""
        if self._had is None or entry.place is None:
            return entry.data
        place = entry.place.since(self._had)
        if place is entry.place:
            return entry.data
        channel = self.channel
        return channel.feed.replaced(entry.data, channel.reader.epoch, entry.place, place)

    def _read(self) -> None:
        """Read the source until the ring reaches back to what was sent."""
        self._behind = False
        if not self._reading and not self.ended:
            self._reading = True
            self._streams.counters.reread += 1
            self._streams.run(self._catch_up(), "catching up a stream")

    async def _catch_up(self) -> None:
        delay = _FIRST_DELAY
        try:
            while not self.ended:
                try:
                    if await self._send_page():
                        return
                    delay = _FIRST_DELAY
                except PositionError as error:
                    self._restart_reason = error.reason
                except SourceUnavailableError as error:
                    # The stream stays open and goes on when the storage is back.
                    logger.debug("a stream waits: %s", error)
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, _LONGEST_DELAY)
        except Exception:
            # A stream that nobody reads for would be silent for ever.
            self.fail(500)
            raise
        finally:
            self._reading = False

    async def _send_page(self) -> bool:
        """Read one page and send it. Returns whether the stream goes on from the ring."""
        channel = self.channel
        if self._restart_reason is not None:
            life, reason = channel.life, self._restart_reason
            await channel.prepare()
            page, shown = await channel.snapshot(self._limit)
            if life != channel.life:
                return False
            self._restart_reason = self.holds = None
            self._streams.counters.resets += 1
            self.write(channel.feed.reset(reason) + shown)
            removed_until = page.as_of
        else:
            assert self._place is not None
            if self.sender.full:
                self._drained = asyncio.get_running_loop().create_future()
                await self._drained
            if self.ended:
                return True
            missed = await channel.missed(self._place, self.holds or self._place)
            if self._restart_reason is not None:
                return False
            page, self.holds = missed.page, missed.holds
            removed_until = _removed_until(page)
            if missed.data:
                self._streams.counters.frames += len(page.changes)
                self.write(missed.data)
        self._place = page.end
        return self._restart_reason is None and self._join(page.end, removed_until)

    def _end(self) -> None:
        super()._end()
        self.channel.leave(self)


def _removed_until(page: Page) -> datetime | None:
    # A page that is not the last one has removals only up to its own end.
    return None if page.has_more else page.as_of


assert MAX_LIMIT <= READ_LIMIT

"""The stream of a feed: a cursor into its channel's ring."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import datetime

from headwater.delivery._channel import Channel, ChannelStream
from headwater.delivery._direct_sender import DirectSender
from headwater.delivery._open_streams import OpenStreams
from headwater.delivery._reading import READ_LIMIT, Reading, read_after, read_newest
from headwater.delivery._ring import with_places
from headwater.delivery._sender import ROOM, Headers, Sender
from headwater.errors import (
    FeedTooLargeError,
    PositionError,
    ResetReason,
    SourceUnavailableError,
    UnfitItemError,
)
from headwater.feeds._feed import MAX_LIMIT, Frame
from headwater.feeds._source import Place
from headwater.protocol import HEARTBEAT

logger = logging.getLogger("headwater.delivery")

# Seconds between two tries to read while the storage is away.
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 2.0

# If a feed with limit="all" has too many items, its stream ends with an error of this status. An
# EventSource reconnects after so many milliseconds.
TOO_LARGE = 413
TOO_LARGE_RETRY = 60_000


async def open_feed(
    channel: Channel,
    *,
    limit: int,
    resume: str | None = None,
    before: Place | None = None,
) -> Reading:
    """Read the beginning of a stream: the changes that the client missed, or a snapshot.

    Arguments:
        limit: items of a snapshot.
        resume: the position that the client sent; None on a first visit. A position that cannot be
            resumed leads to a ``reset`` and a snapshot.
        before: if given, the snapshot is the page that ends before this place.

    Raises SourceUnavailableError and FeedTooLargeError.
    """
    feed, first = channel.feed, channel.feed.opening
    if resume is not None:
        life = channel.life
        try:
            position = feed.parse(resume)
            place = await channel.source.locate(position.epoch, position.place)
            if channel.reaches(place, None):
                return Reading(first, place, life, position.epoch)
            missed = await read_after(channel, place, place)
            if missed.epoch != position.epoch:
                raise PositionError(resume, "unknown")
            return replace(missed, data=first + missed.data, life=life)
        except PositionError as error:
            if not (channel.source.replaced and error.reason == "expired"):
                channel.reader.counters.resets += 1
                first += feed.reset(error.reason)
    newest = await read_newest(channel, limit, before)
    return replace(newest, data=first + newest.data)


class FeedStream(ChannelStream):
    """One open stream of a feed.

    Arguments:
        limit: items of the snapshot after a reset.

    Attributes:
        channel: the channel that it shows.
    """

    __slots__ = (
        "_behind", "_cursor", "_drained", "_had", "_limit", "_place", "_reading", "_removed_until",
        "_restart_reason", "_restarts", "channel",
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
        # The number of the ring's frame that is sent next. Not used while the stream is up to date.
        self._cursor = 0
        self._behind = False
        self._reading = False
        # It begins anew; for this reason, or since the whole state was replaced.
        self._restarts = False
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

    @property
    def progress(self) -> tuple[Place | None, int | None]:
        """The client's place, and how many events it lacks. None while the source is read."""
        ring = self.channel.ring
        if self._reading:
            return self._place, None
        if self._behind:
            return self._place, ring.end - self._cursor
        return self._had or ring.before(ring.end), 0

    def begin(self, opening: Reading, headers: Headers = ()) -> None:
        """Send the response's head and what the stream begins with, then each new frame."""
        self.commit(headers=headers)
        # It comes first: it says what the events that follow are called.
        seen = b"" if self.pulse == HEARTBEAT else self.pulse
        self.write(seen + opening.data)
        if self.channel.interrupted is not None:
            self.interrupt(self.channel.interrupted)
            return
        if self.channel.held_by is not None:
            # Since the opening was read an item came that cannot be shown.
            self.channel.end_held(self)
            return
        self._place = opening.end
        self.holds = opening.holds
        if opening.life != self.channel.life:
            # It was read from what the storage was before.
            self.restart(self.channel.reason)
        elif not self._join(opening):
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

    def restart(self, reason: ResetReason | None) -> None:
        if not self.ended:
            self._restarts, self._restart_reason = True, reason
            self._had = None
            self._read()

    def idle(self) -> None:
        super().idle()
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)
        if self._behind and not self.ended:
            self._behind = False
            self.go_on()

    def _join(self, sent: Reading) -> bool:
        """Go on from the ring after what was sent. False: the source has to be read first."""
        channel = self.channel
        if not channel.reaches(sent.end, sent.removed_until):
            return False
        self._cursor = channel.first_after(sent.end)
        self._had, self._removed_until = sent.end, sent.removed_until
        return self._send_from_ring()

    def _send_from_ring(self) -> bool:
        """Send what the ring has, as far as there is room. False: it does not reach back enough."""
        ring = self.channel.ring
        while not self.sender.full and not self.ended:
            if self._cursor < ring.first:
                return False
            frames = ring.since(self._cursor)
            if not frames:
                if self.channel.caught_up(self, self._had):
                    self._had = self._removed_until = self._place = None
                return True
            parts: list[bytes] = []
            size = 0
            for frame, place in with_places(frames):
                self._cursor += 1
                if not self._was_sent(frame, place):
                    parts.append(self._data_of(frame))
                    size += len(parts[-1])
                    if size > ROOM:
                        break
            if parts:
                self.write(b"".join(parts))
                self._streams.counters.frames += len(parts)
        if not self.ended:
            self.fall_behind(self._cursor)
        return True

    def _was_sent(self, frame: Frame, place: Place | None) -> bool:
        """Whether a page that was sent had the frame, which belongs to ``place``."""
        if frame.left is not None:
            if self._removed_until is not None and self._removed_until >= frame.left:
                return True
            # The page may have had a later version of the item, whose change is still to come. It
            # is sent again, so that it stands after the removal.
            self._had = None
            return False
        had = self._had is not None and place is not None and self._had.has(place)
        if had and frame.shown_until is not None:
            return self._removed_until is not None and self._removed_until >= frame.shown_until
        return had

    def _data_of(self, frame: Frame) -> bytes:
        """The frame's bytes, with an id that also covers what the stream began from."""
        if self._had is None or frame.place is None:
            return frame.data
        place = frame.place.since(self._had)
        if place is frame.place:
            return frame.data
        channel = self.channel
        return channel.feed.replaced(frame.data, channel.reader.epoch, frame.place, place)

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
                    replaced = self.channel.source.replaced and error.reason == "expired"
                    self._restarts, self._restart_reason = True, None if replaced else error.reason
                except SourceUnavailableError as error:
                    if error.lasting:
                        self.interrupt(error.for_clients)
                        return
                    # The stream stays open and goes on when the storage is back.
                    logger.debug("a stream waits: %s", error)
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, _LONGEST_DELAY)
        except UnfitItemError as error:
            self._streams.counters.invalid_held += 1
            self.fail(500, retry=error.retry)
        except FeedTooLargeError as error:
            self.fail(TOO_LARGE, str(error), retry=TOO_LARGE_RETRY)
        except Exception:
            # Otherwise the stream would stay open and silent.
            self.fail(500)
            raise
        finally:
            self._reading = False

    async def _send_page(self) -> bool:
        """Read one page and send it. Returns whether the stream goes on from the ring."""
        channel, reason = self.channel, self._restart_reason
        anew = self._restarts
        if anew:
            await channel.prepare()
            read = await read_newest(channel, self._limit)
            data = read.data if reason is None else channel.feed.reset(reason) + read.data
        else:
            assert self._place is not None
            if self.sender.full:
                self._drained = asyncio.get_running_loop().create_future()
                await self._drained
            if self.ended:
                return True
            read = await read_after(channel, self._place, self.holds or self._place)
            data = read.data
        if read.life != channel.life:
            return False
        if anew:
            self._restarts = False
            self._streams.counters.resets += reason is not None
        self._streams.counters.frames += read.frames
        self._place, self.holds = read.end, read.holds
        if data:
            self.write(data)
        return self._join(read)

    def _end(self) -> None:
        super()._end()
        self.channel.leave(self)


assert MAX_LIMIT <= READ_LIMIT

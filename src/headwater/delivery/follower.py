"""The one reader of an origin in this process: hands each change to the channels it belongs to."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from headwater.delivery.batch import Batch
from headwater.delivery.channel import Channel
from headwater.delivery.open_streams import Counters
from headwater.delivery.ring import Entry
from headwater.delivery.routing import FilterIndex
from headwater.delivery.sender import Shared
from headwater.errors import ResetReason
from headwater.feeds.feed import Feed
from headwater.feeds.source import Change, Filter, Origin, Place

__all__ = ["Follower", "Tap"]

logger = logging.getLogger("headwater.delivery")

# Bounds of what is kept of one origin for streams that are behind or return soon. A frame of a
# few hundred bytes gives some ten thousand of them; beyond, a stream reads the source again.
RING_ENTRIES = 32_768
RING_BYTES = 16 * 1024 * 1024


class Tap:
    """A callback in this process that is given the live changes of a filter."""

    def __init__(
        self,
        wanted: Filter,
        call: Callable[[Sequence[Change]], None],
        on_reset: Callable[[], None] = lambda: None,
    ) -> None:
        self.filter = wanted
        self.on_reset = on_reset
        self._call = call
        self._taken: list[Change] = []

    def take(self, change: Change) -> None:
        self._taken.append(change)

    def flush(self, _now: float) -> None:
        taken, self._taken = self._taken, []
        try:
            self._call(taken)
        except Exception:
            logger.exception("a subscriber's callback failed")

    def break_off(self) -> None:
        """Taking a change cannot fail here."""


class Follower:
    """Follows one origin while anyone is interested in it.

    Attributes:
        origin: what is followed.
        batch: collects what is written in one tick.
        head: every change up to here was handed to the channels.
        epoch: the storage's epoch, as positions carry it.
        retired: positions that do not include this place expire soon, or have expired.
    """

    head: Place
    epoch: str

    def __init__(
        self, origin: Origin, counters: Counters, batch: Batch, on_unused: Callable[[], None]
    ) -> None:
        self.origin = origin
        self.batch = batch
        self.counters = counters
        self.channels: dict[tuple[object, object], Channel] = {}
        self._index: FilterIndex[Channel | Tap] = FilterIndex()
        self.retired: Place | None = None
        # Of the change that is handed over just now.
        self._entries: dict[Feed, Entry] = {}
        self._shared: Shared | None = None
        self._taps: set[Tap] = set()
        self._recent: deque[tuple[Channel, int]] = deque()
        self._bytes = 0
        self._expecting: set[Channel] = set()
        self._due: dict[Channel | Tap, None] = {}
        self._due_handle: asyncio.Handle | None = None
        self._on_unused = on_unused
        self._renewing: asyncio.Task[None] | None = None
        self._waiting: list[tuple[Sequence[Change], Place]] = []

    async def start(self) -> None:
        """Attach to the origin. Raises SourceUnavailableError."""
        head = await self.origin.attach(self)
        if not hasattr(self, "head"):
            self.head = head
        self.epoch = await self.origin.epoch()

    async def stop(self) -> None:
        """Detach."""
        for channel in tuple(self.channels.values()):
            channel.close()
        if self._due_handle is not None:
            self._due_handle.cancel()
        if self._renewing is not None:
            self._renewing.cancel()
        await self.origin.detach()

    @property
    def unused(self) -> bool:
        return not self.channels and not self._taps

    # What the origin calls

    def deliver(self, changes: Sequence[Change], head: Place) -> None:
        """Hand changes to the channels they belong to.

        They are sent in the next tick of the loop: what is delivered in one tick leaves in one
        write to each stream.
        """
        if self._renewing is not None:
            self._waiting.append((changes, head))
            return
        broken: dict[Channel | Tap, None] = {}
        for change in changes:
            self._entries.clear()
            for target in self._index.match(change.values):
                now = change.values_now
                if now is not None and _filter_of(target).matches(now):
                    continue
                try:
                    target.take(change)
                except Exception:
                    # An item that does not fit its feed's model is not passed over in silence:
                    # the feed's streams end, and begin to work once the model or item is mended.
                    logger.exception("an item of %s cannot be shown", self.origin.name)
                    broken[target] = None
                    continue
                self._due[target] = None
        self._entries.clear()
        self.head = head
        for target in broken:
            self._due.pop(target, None)
            target.break_off()
        if self._due or self._expecting:
            self._soon()

    def failed(self) -> None:
        """Count a reading that failed."""
        self.counters.source_failures += 1

    def retire(self, before: Place) -> None:
        """Move on all streams whose position is about to expire."""
        if self._renewing is None:
            self.retired = before
            for channel in tuple(self.channels.values()):
                channel.retire(before)
            self._evict()

    def reset(self, reason: ResetReason, head: Place) -> None:
        """Start every stream anew, once the storage's epoch is known again."""
        logger.warning("%s cannot go on from where it was (%s)", self.origin.name, reason)
        self._waiting.clear()
        if self._renewing is not None:
            self._renewing.cancel()
        self._renewing = asyncio.get_running_loop().create_task(self._renew(reason, head))

    async def _renew(self, reason: ResetReason, head: Place) -> None:
        delay = 0.05
        while True:
            try:
                self.epoch = await self.origin.epoch()
                break
            except Exception as error:
                logger.warning("%s: its epoch cannot be read: %s", self.origin.name, error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
        self.head = head
        self.retired = None
        self._recent.clear()
        self._bytes = 0
        self._expecting.clear()
        self._renewing = None
        for channel in tuple(self.channels.values()):
            channel.restart(reason, head)
        for tap in tuple(self._taps):
            tap.on_reset()
        waiting, self._waiting = self._waiting, []
        for changes, later in waiting:
            self.deliver(changes, later)

    # What channels and the hub call

    def add(self, channel: Channel) -> None:
        self.channels[channel.feed, channel.source.identity] = channel
        self._index.add(channel.source.filter, channel)

    def forget(self, channel: Channel) -> None:
        """Nobody follows this channel any more."""
        name = (channel.feed, channel.source.identity)
        if self.channels.get(name) is channel:
            del self.channels[name]
            self._index.remove(channel.source.filter, channel)
            self._expecting.discard(channel)
            self._due.pop(channel, None)
            channel.close()
            if self.unused:
                self._on_unused()

    def tap(self, tap: Tap) -> None:
        self._taps.add(tap)
        self._index.add(tap.filter, tap)

    def untap(self, tap: Tap) -> None:
        if tap in self._taps:
            self._taps.remove(tap)
            self._index.remove(tap.filter, tap)
            if self.unused:
                self._on_unused()

    def remember(self, channel: Channel, size: int) -> None:
        """A channel has put a frame of this size into its ring."""
        self._recent.append((channel, size))
        self._bytes += size

    def entry(self, feed: Feed, change: Change) -> Entry:
        """What a feed makes of the change that is handed over, the same for all its channels."""
        entry = self._entries.get(feed)
        if entry is None:
            entry = self._entries[feed] = Entry(feed.frame(change, self.epoch), change.place)
        return entry

    def shared(self, data: bytes) -> Shared:
        """These bytes, framed once if several channels in a row send the same."""
        shared = self._shared
        if shared is None or shared.plain is not data:
            shared = self._shared = Shared(data)
        return shared

    def expect(self, channel: Channel) -> None:
        """Tell this channel when the head moves: one of its streams is ahead of it."""
        self._expecting.add(channel)

    def flush_soon(self, channel: Channel) -> None:
        """Flush a channel in the next tick, for what did not come from the origin."""
        self._due[channel] = None
        self._soon()

    def _soon(self) -> None:
        if self._due_handle is None:
            self._due_handle = asyncio.get_running_loop().call_soon(self._flush_due)

    def _flush_due(self) -> None:
        self._due_handle = None
        due, self._due = self._due, {}
        try:
            now = asyncio.get_running_loop().time()
            for target in due:
                target.flush(now)
        finally:
            self._shared = None
            self.batch.submit()
        self._evict()
        for channel in tuple(self._expecting):
            channel.settle()
            if not channel.waits:
                self._expecting.discard(channel)

    def _evict(self) -> None:
        recent = self._recent
        while recent and (len(recent) > RING_ENTRIES or self._bytes > RING_BYTES):
            channel, size = recent.popleft()
            self._bytes -= size
            channel.ring.drop_first()


def _filter_of(target: Channel | Tap) -> Filter:
    return target.filter if isinstance(target, Tap) else target.source.filter

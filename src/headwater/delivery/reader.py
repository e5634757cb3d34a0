"""The one reader of an origin in this process: delivers each change to the targets it is for."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any

from headwater.delivery.batch import WriteBatch
from headwater.delivery.open_streams import Counters
from headwater.delivery.preparation import Preparation
from headwater.delivery.ring import RingBound
from headwater.delivery.routing import FilterIndex
from headwater.errors import ResetReason, SourceUnavailableError, UnfitItemError
from headwater.feeds.feed import Feed
from headwater.feeds.shared_calls import SharedCalls
from headwater.feeds.source import Change, Filter, Origin, Place

__all__ = ["OriginReader", "Subscription", "Target"]

logger = logging.getLogger("headwater.delivery")

# Seconds between two tries to read the epoch of a storage that began anew.
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 5.0


class Target(ABC):
    """What a reader delivers changes to: a channel, or a callback in this process.

    Attributes:
        reads_pages: after ``restart`` it reads all that was delivered between reset and restart.
    """

    __slots__ = ()

    reads_pages = True
    # Changes come to it once a function has made items of them.
    preparation: Preparation | None = None

    @property
    @abstractmethod
    def name(self) -> Hashable:
        """Equal for targets that are the same to a reader."""

    @property
    @abstractmethod
    def filter(self) -> Filter:
        """The changes that it is for."""

    @abstractmethod
    def deliver(self, change: Change) -> None:
        """Take one change. ``flush`` follows in the next tick of the loop."""

    @abstractmethod
    def flush(self, now: float) -> None:
        """Pass on what was delivered since the last flush, at this time of the loop."""

    def fail(self, error: Exception) -> None:  # noqa: B027 - a callback has no streams to end
        """``deliver`` raised this error."""

    def interrupt(self, why: SourceUnavailableError) -> None:  # noqa: B027 - as above
        """As of a sink: end the streams where they are."""

    def retire(self, before: Place) -> None:  # noqa: B027 - a callback has no position
        """Positions that do not include ``before`` expire soon."""

    @abstractmethod
    def restart(self, reason: ResetReason, head: Place) -> None:
        """The storage is another one, or was trimmed past the reader. It goes on from ``head``."""

    def close(self) -> None:  # noqa: B027 - a callback has nothing to free
        """The reader delivers nothing any more."""


class Subscription(Target):
    """A callback in this process for the live changes of a filter.

    Arguments:
        filter: the changes that it is called with.
        call: is called with those of one tick of the loop. An error is logged.
        on_restart: is called when the storage is another one, was trimmed past the reader, or
            cannot be read until somebody mends it.
    """

    reads_pages = False

    def __init__(
        self,
        filter: Filter,  # noqa: A002 - as every target names it
        call: Callable[[Sequence[Change]], None],
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self._filter = filter
        self._call = call
        self._on_restart = on_restart
        self._changes: list[Change] = []

    @property
    def name(self) -> Hashable:
        return self

    @property
    def filter(self) -> Filter:
        return self._filter

    def deliver(self, change: Change) -> None:
        self._changes.append(change)

    def flush(self, _now: float) -> None:
        changes, self._changes = self._changes, []
        if changes:
            try:
                self._call(changes)
            except Exception:
                logger.exception("a subscriber's callback failed")

    def restart(self, _reason: ResetReason, _head: Place) -> None:
        self._on_restart()

    def interrupt(self, _: SourceUnavailableError) -> None:
        self._on_restart()


class OriginReader:
    """Reads one origin for as long as it has targets. It is the origin's sink.

    What is delivered in one tick of the loop is flushed in the next, so that it leaves in one
    write to each stream.

    Arguments:
        on_unused: is called when the last target was removed.

    Attributes:
        origin: what is read.
        batch: collects what is written in one tick.
        counters: what delivery counts.
        bound: of all rings of the targets.
        targets: by name.
        calls: reads of pages that are under way.
        head: every change up to here was delivered to the targets.
        epoch: the storage's epoch, as positions carry it.
        delivered: the number of changes that were read.
        retired: positions that do not include this place expire soon, or have expired.
    """

    head: Place
    epoch: str

    def __init__(
        self,
        origin: Origin,
        counters: Counters,
        batch: WriteBatch,
        on_unused: Callable[[OriginReader], None],
    ) -> None:
        self.origin = origin
        self.batch = batch
        self.counters = counters
        self.bound = RingBound()
        self.calls = SharedCalls()
        self.delivered = 0
        self.retired: Place | None = None
        self.targets: dict[Hashable, Target] = {}
        self._index: FilterIndex[Target] = FilterIndex()
        self._due: dict[Target, None] = {}
        self._flush_handle: asyncio.Handle | None = None
        self._awaiting_head: set[Target] = set()
        self._on_unused = on_unused
        self._restarting: asyncio.Task[None] | None = None
        self._preparations: dict[Feed, Preparation] = {}

    async def start(self) -> None:
        """Attach to the origin. Raises SourceUnavailableError."""
        head = await self.origin.attach(self)
        if not hasattr(self, "head"):
            self.head = head
        self.epoch = await self.origin.epoch()

    async def stop(self) -> None:
        """Detach from the origin."""
        for preparation in self._preparations.values():
            preparation.close()
        targets, self.targets = self.targets, {}
        for target in targets.values():
            target.close()
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        if self._restarting is not None:
            self._restarting.cancel()
        await self.origin.detach()

    @property
    def unused(self) -> bool:
        return not self.targets

    def add(self, target: Target) -> None:
        self.targets[target.name] = target
        self._index.add(target.filter, target)

    def remove(self, target: Target) -> None:
        """Deliver nothing more to a target. Idempotent."""
        if self.targets.get(target.name) is target:
            del self.targets[target.name]
            self._index.remove(target.filter, target)
            self._awaiting_head.discard(target)
            self._due.pop(target, None)
            target.close()
            if self.unused:
                self._on_unused(self)

    def preparation(self, feed: Feed) -> Preparation:
        """Where the changes of a feed with an item function are prepared."""
        found = self._preparations.get(feed)
        if found is None:
            found = self._preparations[feed] = Preparation(feed, self.head, self._flush_channels)
        return found

    def _flush_channels(self, channels: dict[Any, None]) -> None:
        self._due.update(channels)
        self._schedule()

    def flush_soon(self, target: Target) -> None:
        """Flush a target in the next tick of the loop."""
        self._due[target] = None
        self._schedule()

    def flush_on_next_head(self, target: Target) -> None:
        """Flush a target when the head moves, also if no change is for it."""
        self._awaiting_head.add(target)

    # The origin calls these.

    def deliver(self, changes: Sequence[Change], head: Place) -> None:
        self.delivered += len(changes)
        restarting = self._restarting is not None
        failed: dict[Target, Exception] = {}
        for change in changes:
            for target in self._index.match(change.values):
                if restarting and target.reads_pages:
                    # It begins anew from a page that has this change.
                    continue
                now = change.values_now
                if target in failed or (now is not None and target.filter.matches(now)):
                    continue
                if target.preparation is not None:
                    target.preparation.take(target, change)  # type: ignore[arg-type]
                    continue
                try:
                    target.deliver(change)
                except UnfitItemError as error:
                    failed[target] = error
                except Exception as error:
                    logger.exception("an item of %s cannot be shown", self.origin.name)
                    failed[target] = error
                else:
                    self._due[target] = None
        self.head = head
        for preparation in tuple(self._preparations.values()):
            preparation.reached(head)
        for target, why in failed.items():
            self._due.pop(target, None)
            target.fail(why)
        if not restarting:
            self._due.update(dict.fromkeys(self._awaiting_head))
            self._awaiting_head.clear()
        if self._due:
            self._schedule()

    def wanted(self, names: Collection[str]) -> Mapping[str, frozenset[Hashable]]:
        return self._index.wanted(names)

    def failed(self) -> None:
        self.counters.source_failures += 1

    def interrupt(self, why: SourceUnavailableError) -> None:
        self.counters.source_failures += 1
        for target in tuple(self.targets.values()):
            target.interrupt(why)

    def retire(self, before: Place) -> None:
        if self._restarting is None:
            self.retired = before
            for target in tuple(self.targets.values()):
                target.retire(before)
            # The flush drops the frames that are too many then, but none that was not sent yet.
            self._schedule()

    def reset(self, reason: ResetReason, head: Place) -> None:
        logger.warning("%s cannot go on from where it was (%s)", self.origin.name, reason)
        self.head = head
        for preparation in self._preparations.values():
            preparation.restart(head)
        if self._restarting is not None:
            self._restarting.cancel()
        self._restarting = asyncio.get_running_loop().create_task(self._restart(reason))

    async def _restart(self, reason: ResetReason) -> None:
        """Restart all targets, once the storage's epoch can be read."""
        delay = _FIRST_DELAY
        while True:
            try:
                self.epoch = await self.origin.epoch()
                break
            except Exception as error:
                logger.warning("%s: its epoch cannot be read: %s", self.origin.name, error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY)
        self.retired = None
        self.bound.clear()
        self._awaiting_head.clear()
        self._restarting = None
        for target in tuple(self.targets.values()):
            target.restart(reason, self.head)

    def _schedule(self) -> None:
        if self._flush_handle is None:
            self._flush_handle = asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_handle = None
        due, self._due = self._due, {}
        now = asyncio.get_running_loop().time()
        try:
            for target in due:
                target.flush(now)
        finally:
            self.batch.submit()
        self.bound.enforce()

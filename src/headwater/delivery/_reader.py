"""The reader of an origin in this process. It delivers each change to the targets that match it."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from headwater.delivery._batch import WriteBatch
from headwater.delivery._open_streams import Counters
from headwater.delivery._preparation import Preparation
from headwater.delivery._ring import RingBound
from headwater.delivery._small_set import EMPTY, SmallSet, with_one, without
from headwater.delivery._targets import Target
from headwater.errors import ResetReason, SourceUnavailableError, UnfitItemError
from headwater.feeds._feed import Feed
from headwater.feeds._shared_calls import SharedCalls
from headwater.feeds._source import Change, Compared, Filter, OneOf, Origin, Place

T = TypeVar("T", bound=Hashable)

logger = logging.getLogger("headwater.delivery")

# Seconds between two tries to read the epoch of a storage that began anew.
_FIRST_DELAY = 0.05
_LONGEST_DELAY = 5.0


class OriginReader:
    """Reads one origin for as long as it has targets. It is the origin's sink.

    The changes of one turn of the loop are flushed in the next one, so that each stream gets them
    in one write.

    Arguments:
        on_unused: called when the last target was removed.

    Attributes:
        origin: the origin that is read.
        batch: collects the writes of one turn.
        counters: the counters of delivery.
        bound: the common bound of all rings of the targets.
        targets: the targets by name.
        on_stop: ends the subscriptions to the origins that this one depends on.
        calls: the reads of pages that are running.
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
        self.on_stop: list[Callable[[], None]] = []

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
        self.end_wakes()
        await self.origin.detach()

    def end_wakes(self) -> None:
        """End the subscriptions to what the origin depends on."""
        while self.on_stop:
            self.on_stop.pop()()

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
        """The preparation of a feed with an async item function."""
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

    def replace(self, head: Place) -> None:
        self._begin_anew(None, head)

    def reset(self, reason: ResetReason, head: Place) -> None:
        logger.warning("%s cannot go on from where it was (%s)", self.origin.name, reason)
        self._begin_anew(reason, head)

    def _begin_anew(self, reason: ResetReason | None, head: Place) -> None:
        self.head = head
        for preparation in self._preparations.values():
            preparation.restart(head)
        if self._restarting is not None:
            self._restarting.cancel()
        self._restarting = asyncio.get_running_loop().create_task(self._restart(reason))

    async def _restart(self, reason: ResetReason | None) -> None:
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


class FilterIndex(Generic[T]):
    """Finds the targets for a row's values with one look-up per set of column names."""

    def __init__(self) -> None:
        # By column names, then by values: a tuple of them, or the value if there is one column.
        self._groups: dict[tuple[str, ...], dict[Hashable, SmallSet[T]]] = {}

    def add(self, wanted: Filter, target: T) -> None:
        """Register a target for all rows that a filter matches."""
        for conjunction in wanted.any_of:
            names, values = _split(conjunction)
            group = self._groups.setdefault(names, {})
            group[values] = with_one(group.get(values, EMPTY), target)

    def remove(self, wanted: Filter, target: T) -> None:
        """Undo ``add``."""
        for conjunction in wanted.any_of:
            names, values = _split(conjunction)
            group = self._groups[names]
            left = group[values] = without(group[values], target)
            if not left:
                del group[values]
            if not group:
                del self._groups[names]

    def match(self, values: Mapping[str, Any]) -> Iterable[T]:
        """The targets of a row with these values, each once."""
        if values.__class__ is Compared:
            return self._match_several(values)
        found: SmallSet[T] = EMPTY
        several: set[T] | None = None
        for names, group in self._groups.items():
            try:
                if len(names) == 1:
                    hit = group.get(values.get(names[0]))
                else:
                    hit = group.get(tuple([values.get(name) for name in names]))
            except TypeError:  # a value without a hash equals no value of a filter
                continue
            if hit:
                if several is not None:
                    several.update(hit)
                elif found:
                    several = {*found, *hit}
                else:
                    found = hit
        return several or found

    def _match_several(self, values: Mapping[str, Any]) -> set[T]:
        """As ``match``, for values some of which stand for several."""
        found: set[T] = set()
        for names, group in self._groups.items():
            own = [values.get(name) for name in names]
            choices = [each if isinstance(each, OneOf) else (each,) for each in own]
            for one in itertools.product(*choices):
                try:
                    found.update(group.get(one[0] if len(one) == 1 else one, EMPTY))
                except TypeError:  # a value without a hash equals no value of a filter
                    break
        return found

    def wanted(self, names: Collection[str]) -> dict[str, frozenset[Hashable]]:
        """By name, the values that these names are compared with."""
        found: dict[str, set[Hashable]] = {}
        for columns, group in self._groups.items():
            for at, name in enumerate(columns):
                if name in names:
                    every: Iterable[Any] = group
                    own = every if len(columns) == 1 else [each[at] for each in every]
                    found.setdefault(name, set()).update(own)
        return {name: frozenset(values) for name, values in found.items()}

    def __bool__(self) -> bool:
        return bool(self._groups)


def _split(conjunction: Iterable[tuple[str, Hashable]]) -> tuple[tuple[str, ...], Hashable]:
    names = tuple(name for name, _ in conjunction)
    values = tuple(value for _, value in conjunction)
    return names, values[0] if len(values) == 1 else values

"""Time windows: which items a channel shows now, and when the next one leaves.

Nothing changes in the storage when an item leaves a window, so the channel keeps the moments of
the items in it, and one timer for the earliest.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from headwater.feeds._clock import utc_now

# Seconds added to the timer, which may fire a little early by the wall clock.
_SLACK = 0.005


class Members:
    """The items of one channel with a time window.

    Arguments:
        length: how long after its moment an item leaves.
        left: is called in order of time with an item's key, the moment at which it left, and
            whether it is the last that left at that moment.
        now: the clock.

    Attributes:
        expired_until: ``left`` was called for all that left up to this moment.
        loaded_at: when ``load`` was called; pages are read after it.
    """

    def __init__(
        self,
        length: timedelta,
        left: Callable[[Mapping[str, Any], datetime, bool], None],
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._length = length
        self._left = left
        self._now = now
        self._moments: dict[Hashable, datetime] = {}
        self._heap: list[tuple[datetime, int, Hashable, Mapping[str, Any]]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        # Keys that changed before ``load``; None after it.
        self._touched: set[Hashable] | None = set()
        self.expired_until: datetime | None = None
        self.loaded_at: datetime | None = None

    @property
    def loaded(self) -> bool:
        """Whether ``load`` was called."""
        return self._touched is None

    def load(self, members: Sequence[tuple[Mapping[str, Any], datetime]]) -> None:
        """Add what the storage holds, except for items that changed while it was read."""
        touched, self._touched = self._touched or set(), None
        self.loaded_at = self._now()
        for key, moment in members:
            name = _name(key)
            if name not in touched:
                self._put(name, key, moment)
        self.expire()

    def update(self, key: Mapping[str, Any], moment: datetime | None) -> bool:
        """An item changed. Returns whether it is in the window now."""
        name = _name(key)
        if self._touched is not None:
            self._touched.add(name)
        if moment is None or moment + self._length <= self._now():
            self._moments.pop(name, None)
            return False
        self._put(name, key, moment)
        return True

    def remove(self, key: Mapping[str, Any]) -> bool:
        """An item was removed. Returns whether it was in the window."""
        name = _name(key)
        if self._touched is not None:
            self._touched.add(name)
            return True
        return self._moments.pop(name, None) is not None

    def has(self, key: Mapping[str, Any]) -> bool:
        """Whether the item is in the window; True before ``load``."""
        return self._touched is not None or _name(key) in self._moments

    def was_on_a_page(self, moment: datetime | None) -> bool:
        """Whether an item that is not in the window may have been since ``load``.

        A page is read ahead of the changes that are delivered: it may have shown such an item.
        """
        leaves = self.leaves(moment)
        return leaves is not None and self.loaded_at is not None and leaves > self.loaded_at

    def leaves(self, moment: datetime | None) -> datetime | None:
        """When an item with this moment leaves the window."""
        return None if moment is None else moment + self._length

    def expire(self) -> None:
        """Call ``left`` for all items that left by now, and set the timer for the next."""
        now = self._now()
        self.expired_until = now
        gone: list[tuple[Mapping[str, Any], datetime]] = []
        while self._heap and self._heap[0][0] <= now:
            leaves, _, name, key = heapq.heappop(self._heap)
            if self._moments.get(name) == leaves - self._length:
                del self._moments[name]
                gone.append((key, leaves))
        for at, (key, leaves) in enumerate(gone, 1):
            self._left(key, leaves, at == len(gone) or gone[at][1] != leaves)
        self._set_timer()

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def __len__(self) -> int:
        return len(self._moments)

    def _put(self, name: Hashable, key: Mapping[str, Any], moment: datetime) -> None:
        if self._moments.get(name) == moment:
            return
        self._moments[name] = moment
        heapq.heappush(self._heap, (moment + self._length, next(self._order), name, key))
        # An item that changes often leaves its earlier moments in the heap. They are removed before
        # they are three quarters of it.
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._moments):
            self._heap = [
                entry
                for entry in self._heap
                if self._moments.get(entry[2]) == entry[0] - self._length
            ]
            heapq.heapify(self._heap)
        if self._touched is None:
            self._set_timer()

    def _set_timer(self) -> None:
        if not self._heap:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + max(0.0, (self._heap[0][0] - self._now()).total_seconds()) + _SLACK
        if self._timer is not None:
            if self._timer.when() <= due and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer = loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.expire()


def _name(key: Mapping[str, Any]) -> Hashable:
    return tuple(key.values()) if len(key) != 1 else next(iter(key.values()))

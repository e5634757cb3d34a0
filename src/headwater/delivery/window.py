"""Time windows: which items a channel shows now, and when the next one leaves.

Nothing in the storage changes when an item's moment slips out of its feed's window, so the channel
keeps the moments of its members and one timer at the earliest of them.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

__all__ = ["Members"]

# A timer may fire a little early by the wall clock; one that is late only delays a removal.
_SLACK = 0.005


class Members:
    """The items of one channel with a time window.

    Arguments:
        length: how long after its moment an item leaves.
        left: called with an item's key, the moment it left and whether it is the last of that
            very moment, in order.
        now: the clock.
    """

    def __init__(
        self,
        length: timedelta,
        left: Callable[[Mapping[str, Any], datetime, bool], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._length = length
        self._left = left
        self._now = now
        self._moments: dict[Hashable, datetime] = {}
        self._heap: list[tuple[datetime, int, Hashable, Mapping[str, Any]]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._touched: set[Hashable] | None = set()
        self.told: datetime | None = None

    def load(self, members: Sequence[tuple[Mapping[str, Any], datetime]]) -> None:
        """Take over what the storage says, but for what has changed since it was asked."""
        touched, self._touched = self._touched or set(), None
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
        """Whether the item is in the window; True while that is not known yet."""
        return self._touched is not None or _name(key) in self._moments

    def expire(self) -> None:
        """Tell everything that has left by now, then wait for the next."""
        now = self._now()
        self.told = now
        gone: list[tuple[Mapping[str, Any], datetime]] = []
        while self._heap and self._heap[0][0] <= now:
            leaves, _, name, key = heapq.heappop(self._heap)
            if self._moments.get(name) == leaves - self._length:
                del self._moments[name]
                gone.append((key, leaves))
        for at, (key, leaves) in enumerate(gone, 1):
            self._left(key, leaves, at == len(gone) or gone[at][1] != leaves)
        self._arm()

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
        # An item that changes often leaves its earlier moments in the heap; sweep them out
        # before they outnumber what is alive.
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._moments):
            self._heap = [
                entry
                for entry in self._heap
                if self._moments.get(entry[2]) == entry[0] - self._length
            ]
            heapq.heapify(self._heap)
        if self._touched is None:
            self._arm()

    def _arm(self) -> None:
        if not self._heap:
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + max(0.0, (self._heap[0][0] - self._now()).total_seconds()) + _SLACK
        if self._timer is not None:
            if self._timer.when() <= due and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer = loop.call_at(due, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self.expire()


def _name(key: Mapping[str, Any]) -> Hashable:
    return tuple(key.values()) if len(key) != 1 else next(iter(key.values()))

"""Token buckets: how often something may be tried."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["Throttle", "network_of", "whole_seconds"]


class Throttle:
    """A bucket of ``burst`` tries for each key, which fills up again within ``period`` seconds.

    Memory is bounded: beyond ``max_keys`` the key that was used least recently is forgotten. An
    attacker would need that many tries at other keys first, and has a bucket by address too.
    Each process counts for itself.
    """

    def __init__(
        self,
        burst: int,
        period: float = 60.0,
        *,
        max_keys: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst = float(burst)
        self._rate = burst / period
        self._max_keys = max_keys
        self._clock = clock
        # The tries that were left, and when that was.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Use a try up. Returns 0, or the seconds to wait when none is left."""
        now = self._clock()
        left = self._left(key, now)
        if left < 1:
            return max((1 - left) / self._rate, 0.001)
        self._buckets[key] = (left - 1, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        return 0.0

    def give_back(self, key: str) -> None:
        """Take a try back: it was a right one."""
        now = self._clock()
        left = min(self._left(key, now) + 1, self._burst)
        if left >= self._burst:
            self._buckets.pop(key, None)
        else:
            self._buckets[key] = (left, now)

    def _left(self, key: str, now: float) -> float:
        left, since = self._buckets.get(key, (self._burst, now))
        return min(left + (now - since) * self._rate, self._burst)

    def __len__(self) -> int:
        return len(self._buckets)


def network_of(address: str | None) -> str:
    """The network in which a client can easily change its address: a /64 for IPv6."""
    if not address:
        return "unknown"
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def whole_seconds(wait: float) -> str:
    """A wait as ``Retry-After`` says it."""
    return str(max(1, math.ceil(wait)))

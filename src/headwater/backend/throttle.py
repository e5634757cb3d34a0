"""Token buckets of one process: how often something may be done."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from headwater.backend.problems import too_many

__all__ = ["Throttle", "Writes", "whole_seconds"]


class Throttle:
    """A bucket of ``burst`` tries for each key, which fills up again within ``period`` seconds.

    Memory is bounded: beyond ``max_keys`` the key that was used least recently is forgotten.
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

    def _left(self, key: str, now: float) -> float:
        left, since = self._buckets.get(key, (self._burst, now))
        return min(left + (now - since) * self._rate, self._burst)

    def __len__(self) -> int:
        return len(self._buckets)


class Writes:
    """How often one caller may change something, in this process.

    Attributes:
        refused: requests above that, for ``/metrics``.
    """

    def __init__(self, per_second: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._throttle = Throttle(2 * per_second, period=2.0, clock=clock)
        self._per_second = per_second
        self.refused = 0

    def check(self, caller: str) -> None:
        """Count a request. Raises 429."""
        wait = self._throttle.take(caller)
        if wait:
            self.refused += 1
            raise too_many(
                f"More than {self._per_second} requests a second that change something; send more "
                "in each, or fewer.",
                whole_seconds(wait),
            )


def whole_seconds(wait: float) -> str:
    """A wait as ``Retry-After`` says it."""
    return str(max(1, math.ceil(wait)))

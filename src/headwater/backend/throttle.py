"""How often one caller may change something, in this process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from headwater.backend.problems import too_many

# So many bytes of a body count like a request.
_UNIT = 64 * 1024


class Writes:
    """Limits the requests that change something, with a token bucket for each caller.

    A full bucket holds the requests of two seconds. Beyond ``max_callers`` buckets, that of the
    caller that came least recently is forgotten.

    Arguments:
        largest: bytes of the largest body, which counts like the requests of a second at most.

    Attributes:
        refused: requests that found their bucket empty, for ``/metrics``.
    """

    def __init__(
        self,
        per_second: int,
        *,
        largest: int = 0,
        max_callers: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_second = per_second
        self._unit = max(_UNIT, -(-largest // per_second))
        self._max_callers = max_callers
        self._clock = clock
        # The requests that were left, and when that was.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.refused = 0

    def check(self, caller: str) -> None:
        """Count a request. Raises 429."""
        self._take(
            caller,
            1,
            f"You send more than {self._per_second} requests a second that change something; "
            "put more into each, or send fewer.",
        )

    def check_body(self, caller: str, before: int, now: int) -> None:
        """Count what came of a body: so many bytes before, and so many now. Raises 429."""
        many = now // self._unit - before // self._unit
        if many:
            self._take(
                caller,
                many,
                f"You send more than {self._per_second * self._unit} bytes a second; send fewer.",
            )

    def _take(self, caller: str, many: int, detail: str) -> None:
        now, full = self._clock(), 2.0 * self._per_second
        left, since = self._buckets.get(caller, (full, now))
        left = min(left + (now - since) * self._per_second, full)
        if left < many:
            self.refused += 1
            raise too_many(detail, (many - left) / self._per_second)
        self._buckets[caller] = (left - many, now)
        self._buckets.move_to_end(caller)
        if len(self._buckets) > self._max_callers:
            self._buckets.popitem(last=False)

    def __len__(self) -> int:
        return len(self._buckets)

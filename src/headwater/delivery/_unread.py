"""A common bound of the bytes that wait for slow clients.

Above the bound, the caller for whom most bytes wait loses a client: the one that took nothing for
the longest time. So nobody is dropped for what another one leaves unread.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

# Enough for a thousand slow clients, or for a hundred that take nothing of a long page.
UNREAD_BYTES = 128 * 1024 * 1024
# Looks at each client within the time for which it may take nothing. To ask the kernel for each of
# thousands at once would hold everybody else up.
_LOOKS = 8


class Unread(Generic[T]):
    """The writers with bytes that wait for their clients, and the sum of these bytes.

    A client that reads makes its size smaller. So the sizes are measured again in ``look``, a part
    of them each time, and all of them whenever the sum is above the bound.

    Arguments:
        most: the bound of the sum, in bytes.
        size_of: returns the bytes that wait in one writer.
        taken_of: returns a number that changes when its client takes bytes; None where only the
            bytes that wait show it.
        caller_of: returns on whose behalf a writer is.
        time: returns the present, in seconds.
        drop: ends one writer. The second argument says whether its client took nothing for too
            long; otherwise the bound is reached.

    Attributes:
        waiting: for each writer its bytes and ``taken_of`` at the last look, the time since when
            its client has taken nothing, and the time of that look.
    """

    def __init__(
        self,
        most: int,
        size_of: Callable[[T], int],
        taken_of: Callable[[T], int | None],
        caller_of: Callable[[T], Hashable],
        time: Callable[[], float],
        drop: Callable[[T, bool], None],
    ) -> None:
        self._most = most
        self._size_of = size_of
        self._taken_of = taken_of
        self._caller_of = caller_of
        self._time = time
        self._drop = drop
        self.waiting: dict[T, tuple[int, int | None, float, float]] = {}
        self._bytes = 0

    def add(self, one: T) -> None:
        """Add a writer that begins to wait, or update one that has more bytes than before."""
        now = self._time()
        size, known = self._size_of(one), self.waiting.get(one)
        before, taken, since, looked = known or (0, self._taken_of(one), now, now)
        self.waiting[one] = (size, taken, since, looked)
        self._bytes += size - before
        if self._bytes > self._most:
            self._look(now)

    def discard(self, one: T) -> None:
        """Remove a writer whose client took everything, or is gone. Idempotent."""
        size, *_ = self.waiting.pop(one, (0,))
        self._bytes -= size

    def look(self, longest: float | None = None) -> None:
        """Drop writers whose clients took nothing for ``longest`` seconds. Enforce the bound."""
        self._look(self._time(), longest)

    def _look(self, now: float, longest: float | None = None) -> None:
        # In ``add`` it is the same moment, so that the latest writer is not the first to end.
        for one, (before, taken_before, last, looked) in tuple(self.waiting.items()):
            if longest is not None and now - looked < longest / _LOOKS:
                continue
            size, taken = self._size_of(one), self._taken_of(one)
            since = now if size < before or taken != taken_before else last
            self._bytes += size - before
            self.waiting[one] = (size, taken, since, now)
            if not size:
                self.discard(one)
            elif longest is not None and now - since >= longest:
                self._end(one, stalled=True)
        if self._bytes > self._most:
            self._make_room()

    def _make_room(self) -> None:
        by_caller: dict[Hashable, list[T]] = {}
        for one, _ in sorted(self.waiting.items(), key=lambda each: each[1][2]):
            by_caller.setdefault(self._caller_of(one), []).append(one)
        sizes = {
            caller: sum(self.waiting[one][0] for one in theirs)
            for caller, theirs in by_caller.items()
        }
        while self._bytes > self._most:
            greediest = max(sizes, key=sizes.__getitem__)
            one = by_caller[greediest].pop(0)
            sizes[greediest] -= self.waiting[one][0]
            self._end(one, stalled=False)

    def _end(self, one: T, *, stalled: bool) -> None:
        self.discard(one)
        self._drop(one, stalled)

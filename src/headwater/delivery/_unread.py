"""What clients have not taken, in all: above a bound the one that took nothing for longest goes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["UNREAD_BYTES", "Unread"]

T = TypeVar("T")

# A thousand clients that are slow, or a hundred that take nothing of a long page.
UNREAD_BYTES = 128 * 1024 * 1024


class Unread(Generic[T]):
    """Bytes that wait for their clients, in all.

    Sizes are looked at when something begins to wait, above the bound, and at ``look``: a client
    that reads makes its own smaller meanwhile.

    Arguments:
        most: bytes of all.
        size_of: the bytes of one.
        time: the present, in seconds.
        drop: ends one.

    Attributes:
        waiting: by each that waits, its bytes at the last look, and since when its client takes
            nothing.
    """

    def __init__(
        self,
        most: int,
        size_of: Callable[[T], int],
        time: Callable[[], float],
        drop: Callable[[T], None],
    ) -> None:
        self._most = most
        self._size_of = size_of
        self._time = time
        self._drop = drop
        self.waiting: dict[T, tuple[int, float]] = {}
        self._bytes = 0

    def add(self, one: T) -> None:
        """It waits for its client from now on, or with more bytes than before."""
        now = self._time()
        size, (before, since) = self._size_of(one), self.waiting.get(one, (0, now))
        self.waiting[one] = (size, since)
        self._bytes += size - before
        if self._bytes > self._most:
            self.look()

    def discard(self, one: T) -> None:
        """Its client took all of it, or is gone. Idempotent."""
        size, _ = self.waiting.pop(one, (0, 0.0))
        self._bytes -= size

    def look(self, longest: float | None = None) -> None:
        """Drop those whose clients took nothing for ``longest`` seconds, and enforce the bound."""
        now = self._time()
        for one, (before, last) in tuple(self.waiting.items()):
            size = self._size_of(one)
            since = now if size < before else last
            self._bytes += size - before
            self.waiting[one] = (size, since)
            if longest is not None and now - since >= longest:
                self._end(one)
        if self._bytes > self._most:
            for one, _ in sorted(self.waiting.items(), key=lambda each: each[1][1]):
                if self._bytes <= self._most:
                    break
                self._end(one)

    def _end(self, one: T) -> None:
        self.discard(one)
        self._drop(one)

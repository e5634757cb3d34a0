"""How many items one read of a feed asks for: those of a page, and a few more."""

from __future__ import annotations

# Items differ in length. A read that asks for a quarter more seldom has to be repeated.
_MORE = 1.25


class ReadSize:
    """Learns the length of a feed's items from the pages that were read.

    A read of 100 long items would otherwise fetch many times the bytes that a page may have.
    """

    __slots__ = ("_mean",)

    def __init__(self) -> None:
        self._mean = 0.0  # bytes of JSON

    def items(self, limit: int, most: int) -> int:
        """The number to ask for, if ``limit`` items are wanted in at most ``most`` bytes."""
        return min(limit, 1 + int(_MORE * most / self._mean)) if self._mean else limit

    def learn(self, items: int, size: int) -> None:
        """Remember a page of ``items`` items and ``size`` bytes."""
        if items:
            self._mean = size / items

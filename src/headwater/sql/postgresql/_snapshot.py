"""Snapshots of transactions: PostgreSQL's, and those whose changes a client has.

A snapshot of PostgreSQL is its ``xmax`` and the transactions below it that were still running; all
others below it are over. A client's place has the same two parts. Its text is short: the running
transactions are written as gaps, in an exponential Golomb code, six bits to a character.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from headwater.sql._place_text import base36


@dataclass(frozen=True, slots=True)
class TransactionSnapshot:
    """The transactions below ``xmax`` except those that are ``running``.

    Attributes:
        xmax: the first transaction that is not in it, nor is any later one.
        running: further ones that are not in it, ascending, all below ``xmax``.
    """

    xmax: int
    running: tuple[int, ...] = ()
    _running: frozenset[int] = field(init=False, repr=False, compare=False)
    _text: list[str] = field(init=False, repr=False, compare=False, default_factory=list)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_running", frozenset(self.running))

    def has(self, xid: int) -> bool:
        """Whether the transaction is in it."""
        return xid < self.xmax and xid not in self._running

    def covers(self, other: TransactionSnapshot) -> bool:
        """Whether every transaction of the other is in this one."""
        if other.xmax > self.xmax:
            beyond = sum(1 for xid in other.running if xid >= self.xmax)
            if beyond != other.xmax - self.xmax:
                return False
        return all(xid >= other.xmax or xid in other._running for xid in self.running)

    def cut(self, xmax: int) -> TransactionSnapshot:
        """The part of it below ``xmax``."""
        if xmax >= self.xmax:
            return self
        return TransactionSnapshot(xmax, tuple(xid for xid in self.running if xid < xmax))

    def union(self, other: TransactionSnapshot) -> TransactionSnapshot:
        """The transactions of both."""
        low, high = (self, other) if self.xmax <= other.xmax else (other, self)
        running = tuple(xid for xid in high.running if not low.has(xid))
        return (
            high if len(running) == len(high.running) else TransactionSnapshot(high.xmax, running)
        )

    def __str__(self) -> str:
        if not self._text:
            gaps, last = [], self.xmax
            for xid in reversed(self.running):
                gaps.append(last - xid - 1)
                last = xid
            self._text.append(base36(self.xmax) + (":" + _pack(gaps) if gaps else ""))
        return self._text[0]

    @classmethod
    def parse(cls, xmax: str, running: str | None) -> TransactionSnapshot:
        """Read the two parts of ``str()``. Raises ValueError."""
        last = top = int(xmax, 36)
        found: list[int] = []
        for gap in _unpack(running) if running is not None else ():
            last -= gap + 1
            found.append(last)
        if last < 0:
            raise ValueError("a transaction below zero")
        return cls(top, tuple(reversed(found)))

    @classmethod
    def from_postgres(cls, text: str) -> TransactionSnapshot:
        """Read ``pg_current_snapshot()::text``."""
        _, xmax, running = text.split(":")
        return cls(int(xmax), tuple(map(int, running.split(","))) if running else ())

    def for_postgres(self) -> str:
        """As a literal of type ``pg_snapshot``, which has no empty one."""
        xmax = max(self.xmax, 1)
        xmin = self.running[0] if self.running else xmax
        return f"{xmin}:{xmax}:{','.join(map(str, self.running))}"


# Not even the rows that were there before their table was tracked: those are of transaction 0.
NOTHING = TransactionSnapshot(0)


def _pack(gaps: list[int]) -> str:
    mean = (sum(gaps) // len(gaps)).bit_length()
    median = sorted(gaps)[len(gaps) // 2].bit_length()
    orders = {max(0, order + off) for order in (mean, median) for off in (-2, -1)}
    bits = min((_bits(gaps, order) for order in orders), key=len)
    # An unfinished code is no code: ones fill up the last byte.
    bits += "1" * (-len(bits) % 8)
    return urlsafe_b64encode(int(bits, 2).to_bytes(len(bits) // 8, "big")).decode().rstrip("=")


def _bits(gaps: list[int], order: int) -> str:
    return f"{order:06b}" + "".join([_code(gap, order) for gap in gaps])


@lru_cache(4096)
def _code(gap: int, order: int) -> str:
    high = f"{(gap >> order) + 1:b}"
    low = f"{gap & ((1 << order) - 1):0{order}b}" if order else ""
    return "1" * (len(high) - 1) + "0" + high[1:] + low


def _unpack(text: str) -> Iterable[int]:
    data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    bits = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}"
    order, at = int(bits[:6], 2), 6
    while True:
        zero = bits.find("0", at)
        middle = zero + 1 + zero - at
        end = middle + order
        if zero < 0 or end > len(bits):
            return
        high = int("1" + bits[zero + 1 : middle], 2) - 1
        yield (high << order) + (int(bits[middle:end], 2) if order else 0)
        at = end

"""A place in a PostgreSQL table's changes: the transactions a client has, and parts of others.

Changes are sent transaction by transaction: ascending by transaction id, the removals of each
before its rows, those by their order number. So a client has all transactions of a snapshot, and of
one more transaction (rarely of several) the changes up to some point.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Literal

from headwater.errors import PositionError, UsageError
from headwater.sql.postgresql.snapshot import TransactionSnapshot, base36

# The two kinds of changes, in the order in which a transaction's are sent.
GONE, ROW = 0, 1

# Characters of a snapshot's text: with it a place stays within the 1900 that a position allows.
MAX_SNAPSHOT = 1700

_B = "(?:0|[1-9a-z][0-9a-z]{0,12})"
_PART = f"{_B}[GR]{_B}(?::[0-9A-Za-z_-]+)?"
_TEXT = re.compile(
    rf"(?P<xmax>{_B})(?::(?P<running>[0-9A-Za-z_-]+))?(?P<parts>(?:,{_PART}){{0,8}})"
    rf"(?:,W(?P<began>{_B}))?(?P<past>,P)?"
    rf"(?:~(?P<told>{_B})(?:~(?P<among>{_PART}))?)?"
)
_AT = re.compile(rf"(?P<xid>{_B})(?P<kind>[GR])(?P<number>{_B})(?::(?P<key>[0-9A-Za-z_-]+))?")
_LARGEST = 2**63 - 1
# Where a client began that has nothing yet: beyond every transaction.
NEWEST = _LARGEST
_START = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, order=True)
class At:
    """Where one change is.

    Attributes:
        xid: the transaction that made it; 0 for rows that are older than their table's tracking.
        kind: GONE or ROW.
        number: its number within the transaction; 0 for those older rows.
        key: of those older rows the primary key as JSON, which distinguishes them. Not ordered.
    """

    xid: int
    kind: Literal[0, 1]
    number: int
    key: str = field(default="", compare=False)

    def __str__(self) -> str:
        text = f"{base36(self.xid)}{'R' if self.kind else 'G'}{base36(self.number)}"
        if self.key:
            text += ":" + urlsafe_b64encode(self.key.encode()).decode().rstrip("=")
            if len(text) > MAX_SNAPSHOT:
                raise UsageError("a primary key of more than 1,200 bytes does not fit a position")
        return text

    @property
    def keys(self) -> list[str]:
        """The columns of the key as text."""
        found: list[str] = json.loads(self.key)
        return found

    def up_to(self, other: At) -> bool:
        """Whether it is the other or before it. Older rows are ordered by the database alone."""
        return self <= other and (self < other or self.key == other.key)

    @classmethod
    def parse(cls, text: str) -> At:
        """Read ``str()``. Raises ValueError."""
        found = _AT.fullmatch(text)
        if found is None:
            raise ValueError(text)
        key = ""
        if found["key"] is not None:
            key = urlsafe_b64decode(found["key"] + "=" * (-len(found["key"]) % 4)).decode()
            values = json.loads(key)
            if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
                raise ValueError(key)
        number = int(found["number"], 36)
        xid = int(found["xid"], 36)
        if max(number, xid) > _LARGEST:
            raise ValueError(text)
        return cls(xid, 1 if found["kind"] == "R" else 0, number, key)


@dataclass(frozen=True, slots=True)
class SnapshotPlace:
    """What a client has.

    Attributes:
        snapshot: all changes of its transactions.
        parts: of some further transactions, each not in the snapshot, the changes up to these.
        told: of a feed with a time window: the client was sent all that left it up to this moment.
            None: nothing had left.
        among: of the rows that left at the very moment ``told``, the client was sent those up to
            this one; None for all of them.
        past: as the start of a page: the page before it ends with this change, not before it.
        last: the change that the client was sent last, where it is known; not in the text.
        began: of a client that is sent all items from the oldest on: a transaction below which all
            were over when it had none. It lacks no removal of these.
    """

    snapshot: TransactionSnapshot
    parts: tuple[At, ...] = ()
    told: datetime | None = None
    among: At | None = None
    past: bool = False
    last: At | None = field(default=None, compare=False)
    began: int | None = None

    def includes(self, other: SnapshotPlace, /) -> bool:
        return self.snapshot.covers(other.snapshot) and all(map(self.has_change, other.parts))

    def has(self, other: SnapshotPlace, /) -> bool:
        return self.includes(other) if other.last is None else self.has_change(other.last)

    def has_change(self, at: At) -> bool:
        """Whether the client has this very change."""
        if self.snapshot.has(at.xid):
            return True
        return any(at.xid == part.xid and at.up_to(part) for part in self.parts)

    def since(self, base: SnapshotPlace, /) -> SnapshotPlace:
        if self.includes(base):
            return self
        snapshot = self.snapshot.union(base.snapshot)
        furthest: dict[int, At] = {}
        for part in (*self.parts, *base.parts):
            known = furthest.get(part.xid)
            if not snapshot.has(part.xid) and (known is None or known <= part):
                furthest[part.xid] = part
        return replace(self, snapshot=snapshot, parts=tuple(sorted(furthest.values())))

    def at(self, told: datetime | None, /) -> SnapshotPlace:
        return replace(self, told=told, among=None)

    @property
    def below(self) -> At | None:
        """A page that ends just before this place ends before this change, or with it if ``past``.

        None: it ends with what is below the snapshot's xmax.
        """
        return self.parts[-1] if self.parts else None

    def __str__(self) -> str:
        text = str(self.snapshot) + "".join(f",{part}" for part in self.parts)
        if self.began is not None:
            text += f",W{base36(self.began)}"
        if self.past:
            text += ",P"
        if self.told is not None:
            text += "~" + base36(max(0, (self.told - _START) // _TICK))
            if self.among is not None:
                text += f"~{self.among}"
        return text

    @classmethod
    def parse(cls, text: str) -> SnapshotPlace:
        """Read what ``str()`` gave. Raises PositionError for anything else."""
        found = _TEXT.fullmatch(text)
        try:
            if found is None:
                raise ValueError(text)
            snapshot = TransactionSnapshot.parse(found["xmax"], found["running"])
            parts = tuple(map(At.parse, found["parts"].split(",")[1:]))
            told = None if found["told"] is None else _START + int(found["told"], 36) * _TICK
            among = None if found["among"] is None else At.parse(found["among"])
            began = None if found["began"] is None else min(int(found["began"], 36), _LARGEST)
            place = cls(snapshot, parts, told, among, found["past"] is not None, began=began)
            if snapshot.xmax > _LARGEST or str(place) != text or not place._sound():
                raise ValueError(text)
        except (ValueError, OverflowError) as error:
            raise PositionError(text, "unknown", "it is not a place in a table") from error
        return place

    def _sound(self) -> bool:
        """Whether each part is of another transaction that the snapshot lacks, none beyond it."""
        xids = [part.xid for part in self.parts]
        return all(
            xid <= self.snapshot.xmax and not self.snapshot.has(xid) for xid in xids
        ) and xids == sorted(set(xids))


class Walk:
    """The places of a client that begins at one and is sent, in order, what a snapshot has."""

    def __init__(
        self,
        start: SnapshotPlace,
        now: TransactionSnapshot,
        told: datetime | None,
        began: int | None = None,
    ) -> None:
        self._start = start
        self._now = now
        self._told = told
        self._began = began
        self._xid = -1
        self._snapshot = start.snapshot
        self._others: tuple[At, ...] = ()

    def to(self, at: At) -> SnapshotPlace:
        """Where it is once it was sent a change; changes come in order."""
        if at.xid != self._xid:
            start, self._xid = self._start, at.xid
            self._snapshot = start.snapshot.union(self._now.cut(at.xid))
            self._others = tuple(
                part
                for part in start.parts
                if part.xid != at.xid and not self._snapshot.has(part.xid)
            )
        parts = tuple(sorted((*self._others, at))) if self._others else (at,)
        return SnapshotPlace(self._snapshot, parts, self._told, last=at, began=self._began)

    def end(self, now: TransactionSnapshot) -> SnapshotPlace:
        """Where it is once it was sent all that ``now`` has."""
        snapshot = self._start.snapshot.union(now)
        parts = tuple(part for part in self._start.parts if not snapshot.has(part.xid))
        return SnapshotPlace(snapshot, parts, self._told)

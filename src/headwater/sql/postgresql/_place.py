"""A place in a PostgreSQL table's changes: the transactions a client has, and parts of others.

Changes are sent transaction by transaction: ascending by transaction id, the removals of each
before its rows, those by their order number. So a client has all transactions of a snapshot, and of
one more transaction (rarely of several) the changes up to some point.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from headwater.errors import PositionError, UsageError
from headwater.sql._place_text import (
    LARGEST,
    base36,
    key_at,
    key_base64,
    moment_at,
    moment_base36,
)
from headwater.sql.postgresql._snapshot import TransactionSnapshot

# The two kinds of changes, in the order in which a transaction's are sent.
GONE, ROW = 0, 1

# Characters of a snapshot's text: with it a place stays within the 1900 that a position allows.
MAX_SNAPSHOT = 1700

_B = "(?:0|[1-9a-z][0-9a-z]{0,12})"
_PART = f"{_B}[GR]{_B}(?::[0-9A-Za-z_-]+)?"
_TEXT = re.compile(
    rf"(?P<xmax>{_B})(?::(?P<running>[0-9A-Za-z_-]+))?(?P<parts>(?:,{_PART}){{0,8}})"
    rf"(?:,W(?P<began>{_B}))?(?P<past>,P)?"
    rf"(?:~(?P<until>{_B})(?:~(?P<among>{_PART}))?(?:,(?P<as_of>{_B}))?)?"
)
_AT = re.compile(rf"(?P<xid>{_B})(?P<kind>[GR])(?P<number>{_B})(?::(?P<key>[0-9A-Za-z_-]+))?")


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
            text += ":" + key_base64(self.key)
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
        key = "" if found["key"] is None else key_at(found["key"])
        number = int(found["number"], 36)
        xid = int(found["xid"], 36)
        if max(number, xid) > LARGEST:
            raise ValueError(text)
        return cls(xid, 1 if found["kind"] == "R" else 0, number, key)


@dataclass(frozen=True, slots=True)
class SnapshotPlace:
    """What a client has.

    Attributes:
        snapshot: all changes of its transactions.
        parts: of some further transactions, each not in the snapshot, the changes up to these.
        removed_until: of a feed with a time window: the client was sent the removals of what left
            it up to this moment. None: nothing had left.
        among: of the rows that left at that very moment, it was sent those up to this one; None for
            all of them.
        past: as the start of a page: the page before it ends with this change, not before it.
        as_of: the first transaction that was not seen when what left was read, if there are changes
            below it that the client does not have: a row that was gone by then was not among those
            that left.
        last: the change that the client was sent last, where it is known; not in the text.
        began: of a client that is sent all items from the oldest on: a transaction below which all
            were over when it had none. It lacks no removal of these.
    """

    snapshot: TransactionSnapshot
    parts: tuple[At, ...] = ()
    removed_until: datetime | None = None
    among: At | None = None
    past: bool = False
    as_of: int | None = None
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
        both = replace(self, snapshot=snapshot, parts=tuple(sorted(furthest.values())))
        until, earlier = self.removed_until, base.removed_until
        if until is not None and (earlier is None or earlier < until):
            # What the base has beyond this place may have left since.
            both = replace(both, removed_until=earlier, among=base.among, as_of=base.as_of)
        return both

    def at(self, moment: datetime | None, /) -> SnapshotPlace:
        return replace(self, removed_until=moment, among=None, as_of=None)

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
        if self.removed_until is not None:
            text += "~" + moment_base36(self.removed_until)
            if self.among is not None:
                text += f"~{self.among}"
            if self.as_of is not None:
                text += f",{base36(self.as_of)}"
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
            until = moment_at(found["until"])
            among = None if found["among"] is None else At.parse(found["among"])
            as_of = None if found["as_of"] is None else int(found["as_of"], 36)
            began = None if found["began"] is None else int(found["began"], 36)
            past = found["past"] is not None
            place = cls(snapshot, parts, until, among, past, as_of, began=began)
            if (
                max(snapshot.xmax, as_of or 0, began or 0) > LARGEST
                or str(place) != text
                or not place._sound()
            ):
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


@dataclass(slots=True, eq=False)
class Walk:
    """The places of a client that begins at one and is sent, in order, what a snapshot has.

    Attributes:
        start: where it begins.
        now: the snapshot.
        removed_until: of a feed with a time window: removals of what left it up to this moment are
            sent first.
        as_of: the first transaction that was not seen when they were read.
        whole: what the snapshot has is all that was seen.
        began: as a place has it.
    """

    start: SnapshotPlace
    now: TransactionSnapshot
    removed_until: datetime | None
    as_of: int | None = None
    whole: bool = True
    began: int | None = None
    _xid: int = field(init=False, default=-1)
    _snapshot: TransactionSnapshot = field(init=False)
    _others: tuple[At, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        if self.removed_until is None:
            self.as_of = None

    def to(self, at: At) -> SnapshotPlace:
        """Where it is once it was sent a change; changes come in order."""
        if at.xid != self._xid:
            start, self._xid = self.start, at.xid
            self._snapshot = start.snapshot.union(self.now.cut(at.xid))
            self._others = tuple(
                part
                for part in start.parts
                if part.xid != at.xid and not self._snapshot.has(part.xid)
            )
        parts = tuple(sorted((*self._others, at))) if self._others else (at,)
        until, as_of, began = self.removed_until, self.as_of, self.began
        return SnapshotPlace(self._snapshot, parts, until, as_of=as_of, last=at, began=began)

    def left(self, at: At, moment: datetime | None) -> SnapshotPlace:
        """Where it is once it was sent the removal of a row that left the window."""
        start, as_of, began = self.start, self.as_of, self.began
        return SnapshotPlace(start.snapshot, start.parts, moment, at, as_of=as_of, began=began)

    def end(self, now: TransactionSnapshot) -> SnapshotPlace:
        """Where it is once it was sent all that ``now`` has."""
        snapshot = self.start.snapshot.union(now)
        parts = tuple(part for part in self.start.parts if not snapshot.has(part.xid))
        as_of = None if self.whole else self.as_of
        return SnapshotPlace(snapshot, parts, self.removed_until, as_of=as_of)

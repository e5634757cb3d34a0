"""A place in a live query: for each range of keys, the snapshot that the client has seen.

Events go out in ascending order of the key. A client that stopped in the middle of a batch has the
keys up to one as they are in the later snapshot, and the others as they were in the earlier one. So
a place is a run of segments: up to key k1 it is at snapshot S1, up to k2 at S2, the rest at S0.
None of them is ever taken for an older snapshot than it is: a removal would be missed.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from headwater.errors import PositionError
from headwater.sql._place_text import base36
from headwater.sql.postgresql._snapshot import TransactionSnapshot

# The values of the key's columns, in an order that Python and the database share.
Key = tuple[Any, ...]

# A place with more segments, or a longer text, is not given out: the client resumes a little
# further back. Six segments were the most in long runs with pages of one item.
MAX_SEGMENTS = 12
MAX_TEXT = 1800

_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Counters:
    """A snapshot on SQLite: for each table of the query the number of its latest change."""

    numbers: tuple[int, ...]

    def covers(self, other: Counters) -> bool:
        """Whether it was taken later than the other, or shows the same."""
        return all(map(int.__ge__, self.numbers, other.numbers))

    def __str__(self) -> str:
        return ":".join(map(base36, self.numbers))


@dataclass(frozen=True, slots=True)
class Segment:
    """What was seen of the keys up to ``bound``; None for all that follow.

    ``seen`` is a TransactionSnapshot or Counters: those of one database are a chain.
    """

    bound: Key | None
    seen: Any


@dataclass(frozen=True, slots=True)
class QueryPlace:
    """What a client has.

    Attributes:
        segments: ascending; the last one has no bound.
        last: the key of the change that the client was sent last, where it is known; not in the
            text.
        start: for the start of a page, its first key: the page before ends just before it.
        aligned: the tail of this process was at each of its snapshots, so that what the tail
            delivered goes on from here. Not in the text.
    """

    segments: tuple[Segment, ...]
    last: Key | None = field(default=None, compare=False)
    start: Key | None = None
    aligned: bool = field(default=True, compare=False)

    @classmethod
    def at_once(cls, seen: Any, start: Key | None = None) -> QueryPlace:
        """The place of a client that has all of one snapshot."""
        return cls((Segment(None, seen),), start=start)

    @property
    def oldest(self) -> Any:
        """The oldest of its snapshots."""
        found = self.segments[0].seen
        for segment in self.segments:
            if found.covers(segment.seen):
                found = segment.seen
        return found

    def seen(self, key: Key | None) -> Any:
        """What was seen of a key; None for the last keys."""
        for segment in self.segments:
            if segment.bound is None or (key is not None and key <= segment.bound):
                return segment.seen
        raise AssertionError("the last segment has no bound")

    def includes(self, other: QueryPlace, /) -> bool:
        # What came and went between two reads of the tail, the tail never delivers. A client that
        # is at a snapshot between them reads on by itself.
        return self.aligned and all(
            self.seen(key).covers(other.seen(key)) for key in self._bounds(other)
        )

    def has(self, other: QueryPlace, /) -> bool:
        if other.last is None:
            return self.includes(other)
        return bool(self.seen(other.last).covers(other.seen(other.last)))

    def since(self, base: QueryPlace, /) -> QueryPlace:
        if self.includes(base):
            return self
        segments = []
        for key in self._bounds(base):
            one, two = self.seen(key), base.seen(key)
            segments.append(Segment(key, one if one.covers(two) else two))
        return QueryPlace(_merged(segments), self.last)

    def at(self, told: datetime | None, /) -> QueryPlace:  # there are no windows
        return self

    def after(self, key: Key, seen: Any) -> QueryPlace:
        """Where it is once it was sent the keys up to this one as they are in a later snapshot."""
        later = [one for one in self.segments if one.bound is None or one.bound > key]
        return QueryPlace(_merged([Segment(key, seen), *later]), key, aligned=self.aligned)

    def _bounds(self, other: QueryPlace) -> list[Key | None]:
        bounds = {one.bound for one in (*self.segments, *other.segments) if one.bound is not None}
        return [*sorted(bounds), None]

    @property
    def speakable(self) -> bool:
        """Whether it may be given to a client."""
        return len(self.segments) <= MAX_SEGMENTS and len(str(self)) <= MAX_TEXT

    def __str__(self) -> str:
        parts = []
        for segment in self.segments:
            bound = "" if segment.bound is None else "," + _packed(segment.bound)
            parts.append(f"{segment.seen}{bound}")
        if self.start is not None:
            parts.append("," + _packed(self.start))
        return "~".join(parts)

    @classmethod
    def parse(cls, text: str, key: tuple[type[Any], ...], tables: int | None) -> QueryPlace:
        """Read what ``str()`` gave. Raises PositionError for anything else.

        Arguments:
            key: the types of the key's values.
            tables: how many counters a snapshot has, on SQLite.
        """
        try:
            segments: list[Segment] = []
            start: Key | None = None
            for part in text.split("~"):
                seen, _, bound = part.partition(",")
                if not seen:
                    start = _unpacked(bound, key)
                    continue
                if start is not None or len(segments) == MAX_SEGMENTS:
                    raise ValueError(text)
                found = _snapshot(seen) if tables is None else _counters(seen, tables)
                segments.append(Segment(_unpacked(bound, key) if bound else None, found))
            place = cls(tuple(segments), start=start)
            if not segments or segments[-1].bound is not None or str(place) != text:
                raise ValueError(text)
            bounds = [one.bound for one in segments if one.bound is not None]
            if len(bounds) != len(segments) - 1 or bounds != sorted(set(bounds)):
                raise ValueError(text)
        except (ValueError, TypeError, OverflowError) as error:
            raise PositionError(text, "unknown", "it is not a place in this query") from error
        return place


def _merged(segments: list[Segment]) -> tuple[Segment, ...]:
    found: list[Segment] = []
    for segment in segments:
        if found and found[-1].seen == segment.seen:
            found.pop()
        found.append(segment)
    return tuple(found)


def _packed(key: Key) -> str:
    values = [one if isinstance(one, (int, str)) else one.isoformat() for one in key]
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"))
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _unpacked(text: str, kinds: tuple[type[Any], ...]) -> Key:
    values = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode())
    if not isinstance(values, list) or len(values) != len(kinds):
        raise ValueError(text)
    found = []
    for value, kind in zip(values, kinds, strict=True):
        if kind in (int, str):
            if type(value) is not kind or (kind is int and abs(value) > _LARGEST):
                raise ValueError(text)
            found.append(value)
        else:
            found.append(kind.fromisoformat(value))
    return tuple(found)


def _snapshot(text: str) -> TransactionSnapshot:
    xmax, colon, running = text.partition(":")
    found = TransactionSnapshot.parse(xmax, running if colon else None)
    if found.xmax > _LARGEST:
        raise ValueError(text)
    return found


def _counters(text: str, tables: int) -> Counters:
    numbers = tuple(int(one, 36) for one in text.split(":"))
    if len(numbers) != tables or max(numbers) > _LARGEST:
        raise ValueError(text)
    return Counters(numbers)

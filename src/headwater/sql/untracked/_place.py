"""A place in an untracked table: a moment, and the rows after it that the client has already."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from headwater.errors import PositionError, UsageError
from headwater.sql._place_text import key_at, key_base64

# Rows that a place can name. Beyond, the stretch that is read again is shortened.
MOST = 250

_MARK = 6
_LONGEST_KEY = 1400
_TEXT = re.compile(
    r"(?P<until>[1-9][0-9]{0,18}|0)(?::(?P<marks>(?:[0-9A-Za-z_-]{6})*))?"
    r"(?:,(?P<moment>[1-9][0-9]{0,18}|0):(?P<key>[0-9A-Za-z_-]+))?(?P<past>,P)?"
)
_FIRST = datetime(1, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class RowAt:
    """Where a row is in the order: its moment, then its key as a JSON list of texts."""

    moment: datetime
    key: str

    @property
    def mark(self) -> str:
        return mark_of(self.key)

    @property
    def keys(self) -> list[str]:
        found: list[str] = json.loads(self.key)
        return found


@dataclass(frozen=True, slots=True)
class KeysetPlace:
    """What a client has: all rows up to a moment, and some after it.

    Attributes:
        until: rows up to this moment are not read again.
        seen: the marks of later rows that it has, with their moments where those are known.
        after: instead, as in pages of the past: it has the rows up to this one in the order.
        past: as the start of a page: the page before it ends with ``after``, not before it.
        last: the row that the client was sent last, where it is known; not in the text.
    """

    until: datetime
    seen: Mapping[str, datetime | None] = field(default_factory=dict)
    after: RowAt | None = None
    past: bool = False
    last: RowAt | None = field(default=None, compare=False)

    def includes(self, other: KeysetPlace, /) -> bool:
        if self.after is not None or other.after is not None or other.until > self.until:
            return str(self) == str(other)
        return all(
            mark in self.seen or (moment is not None and moment <= self.until)
            for mark, moment in other.seen.items()
        )

    def has(self, other: KeysetPlace, /) -> bool:
        row = other.last
        if row is None:
            return self.includes(other)
        return row.moment <= self.until or row.mark in self.seen

    def since(self, base: KeysetPlace, /) -> KeysetPlace:
        if self.includes(base):
            return self
        until = max(self.until, base.until)
        both = {**base.seen, **self.seen}
        return KeysetPlace(until, _later(both, until), last=self.last)

    def at(self, told: datetime | None, /) -> KeysetPlace:  # no windows
        return self

    def __str__(self) -> str:
        text = str((self.until - _FIRST) // _TICK)
        if self.seen:
            text += ":" + "".join(sorted(self.seen))
        if self.after is not None:
            key = key_base64(self.after.key)
            if len(key) > _LONGEST_KEY:
                raise UsageError("a primary key of more than 1,000 bytes does not fit a position")
            text += f",{(self.after.moment - _FIRST) // _TICK}:{key}"
        return text + (",P" if self.past else "")

    @classmethod
    def parse(cls, text: str) -> KeysetPlace:
        """Read what ``str()`` gave. Raises PositionError for anything else."""
        found = _TEXT.fullmatch(text)
        try:
            if found is None:
                raise ValueError(text)
            marks = found["marks"] or ""
            seen = {marks[at : at + _MARK]: None for at in range(0, len(marks), _MARK)}
            after = None
            if found["key"] is not None:
                after = RowAt(_FIRST + int(found["moment"]) * _TICK, key_at(found["key"]))
            until = _FIRST + int(found["until"]) * _TICK
            place = cls(until, seen, after, found["past"] is not None)
            if str(place) != text:
                raise ValueError(text)
        except (ValueError, OverflowError) as error:
            raise PositionError(text, "unknown", "it is not a place in a table") from error
        return place


class Sent:
    """Places of a client that begins at one and is sent row after row.

    Arguments:
        known: the moments of rows that it has, by their marks.
        reread: how long a row may come late.
    """

    def __init__(
        self, start: KeysetPlace, known: Mapping[str, datetime | None], reread: timedelta
    ) -> None:
        self._reread = reread
        self._until = start.until
        self._seen = {**start.seen, **known}

    def to(self, row: RowAt) -> KeysetPlace:
        """Where it is once it was sent a row."""
        self._seen[row.mark] = row.moment
        return KeysetPlace(*self._place(row.moment), last=row)

    def end(self) -> KeysetPlace:
        """Where it is."""
        return KeysetPlace(*self._place(None))

    def _place(self, newest: datetime | None) -> tuple[datetime, dict[str, datetime | None]]:
        if newest is not None and newest - _FIRST > self._reread:
            self._until = max(self._until, newest - self._reread)
        self._seen = _later(self._seen, self._until)
        if len(self._seen) > MOST:
            moments = sorted(moment for moment in self._seen.values() if moment is not None)
            if moments:
                self._until = max(self._until, moments[-min(MOST, len(moments))])
                self._seen = _later(self._seen, self._until)
        return self._until, dict(self._seen)


def mark_of(key: str) -> str:
    """Six characters that distinguish a row from some hundred others."""
    digest = hashlib.blake2s(key.encode(), digest_size=5).digest()
    return urlsafe_b64encode(digest).decode()[:_MARK]


def _later(seen: Mapping[str, datetime | None], until: datetime) -> dict[str, datetime | None]:
    return {mark: at for mark, at in seen.items() if at is None or at > until}

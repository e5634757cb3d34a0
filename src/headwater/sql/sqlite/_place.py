"""Places in a SQLite table's order of changes, and date-times as its text in UTC."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from headwater.errors import PositionError
from headwater.feeds._source import OrderedPlace
from headwater.sql._model import LAST, as_utc
from headwater.sql._place_text import LARGEST, base36, moment_at, moment_base36

_TEXT = re.compile(
    r"(?P<number>0|[1-9a-z][0-9a-z]{0,12})(?:W(?P<began>0|[1-9a-z][0-9a-z]{0,12}))?(?P<past>-?)"
    r"(?:~(?P<until>0|[1-9a-z][0-9a-z]{0,12})(?:~(?P<among>0|[1-9a-z][0-9a-z]{0,12}))?"
    r"(?:,(?P<as_of>0|[1-9a-z][0-9a-z]{0,12}))?)?"
)


@dataclass(slots=True, unsafe_hash=True)
class RowPlace(OrderedPlace):
    """Just after the change with this number. Treat it as immutable; each row gets one.

    Attributes:
        number: the number of a change, or 0 for before all of them.
        removed_until: of a feed with a time window: the client was sent the removals of what left
            it up to this moment. None: nothing had left.
        among: of the rows that left at that very moment, it was sent those with a number up to
            this one; None for all of them.
        past: as the start of a page: the page before it ends with this change, not before it.
        as_of: the number of the latest change when what left was read, if it is beyond ``number``:
            a row that was gone by then was not among those that left.
        began: of a client that is sent all items from the oldest on: the table's latest number when
            it had none. It lacks no removal up to there.
    """

    number: int
    removed_until: datetime | None = None
    among: int | None = None
    past: bool = False
    as_of: int | None = None
    began: int | None = None

    def includes(self, other: RowPlace, /) -> bool:
        return self.number >= other.number

    def at(self, moment: datetime | None, /) -> RowPlace:
        return RowPlace(self.number, moment, past=self.past, began=self.began)

    @property
    def removals_from(self) -> int:
        """The client lacks no removal up to this number."""
        return self.number if self.began is None else max(self.number, self.began)

    @property
    def below(self) -> int:
        """A page that ends just before this place has numbers below this one."""
        return self.number + 1 if self.past else self.number

    def __str__(self) -> str:
        text = base36(self.number)
        if self.began is not None:
            text += "W" + base36(self.began)
        if self.past:
            text += "-"
        if self.removed_until is not None:
            text += "~" + moment_base36(self.removed_until)
            if self.among is not None:
                text += "~" + base36(self.among)
            if self.as_of is not None:
                text += "," + base36(self.as_of)
        return text

    @classmethod
    def parse(cls, text: str) -> RowPlace:
        """Read what ``str()`` gave. Raises PositionError for anything else."""
        found = _TEXT.fullmatch(text)
        number = int(found["number"], 36) if found else 0
        if found is None or number > LARGEST:
            raise PositionError(text, "unknown", "it is not a place in a table")
        try:
            until = moment_at(found["until"])
        except OverflowError as error:
            raise PositionError(text, "unknown", "its moment is out of range") from error
        among, as_of, began = (
            None if found[name] is None else min(int(found[name], 36), LARGEST)
            for name in ("among", "as_of", "began")
        )
        return cls(number, until, among, bool(found["past"]), as_of, began)


def moment_text(moment: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    """A date-time's text as ``text_of`` writes it; NULL for no date-time.

    Other programs write it with fewer digits, a ``T``, a ``Z`` or another zone.
    """
    length, seconds = sa.func.length(moment), len("2026-01-01 00:00:00")
    zeros = sa.case((length > seconds, "000000"), else_=".000000")
    plain = sa.and_(
        length >= seconds,
        sa.not_(moment.bool_op("GLOB")("*[^-0-9 :.]*")),
        sa.not_(moment.bool_op("GLOB")("*:*-*")),
    )
    other = sa.func.strftime("%Y-%m-%d %H:%M:%f", moment).op("||")("000")
    padded = sa.func.substr(moment.op("||")(zeros), 1, 26)
    return sa.type_coerce(sa.case((plain, padded), else_=other), sa.Text)


def text_of(moment: datetime) -> str:
    """A date-time in UTC as SQLAlchemy stores it on SQLite."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}".rjust(26, "0")


def moment_of(text: object) -> datetime | None:
    """A date-time from what ``text_of`` and other programs write, as UTC; None for no date-time."""
    try:
        return min(as_utc(datetime.fromisoformat(str(text))), LAST)
    except (ValueError, OverflowError):
        return None

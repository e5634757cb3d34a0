"""Date-times: aware and in UTC in Python, text that sorts in SQLite."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, Text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator


class Now(FunctionElement[datetime]):
    """The present moment, as a server default. In SQLite in the form that Moment writes."""

    inherit_cache = True
    type = DateTime(timezone=True)


@compiles(Now)
def _now(_element: Now, _compiler: Any, **_: Any) -> str:
    return "CURRENT_TIMESTAMP"


@compiles(Now, "sqlite")
def _now_in_sqlite(_element: Now, _compiler: Any, **_: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f', 'now')"


def utc_now() -> datetime:
    """The present moment, aware."""
    return datetime.now(UTC)


def moment_check(column: str) -> str:
    """A CHECK that refuses values which cannot be read back.

    For SQLite, which takes more for a date than Python does: February 31st, 24 o'clock, numbers.
    """
    return (
        f"typeof({column}) = 'text' AND {column} BETWEEN '1000' AND '9999~' "
        f"AND date(substr({column}, 1, 10), '+0 days') IS substr({column}, 1, 10) "
        f"AND datetime({column}) IS NOT NULL AND substr({column}, 11, 1) IN ('', ' ', 'T') "
        f"AND substr({column}, 12, 2) < '24' "
        f"AND substr({column}, 12) NOT GLOB '*[ z]*'"
    )


def sorted_moment_check(column: str) -> str:
    """The same for columns that are compared: only the form of ``CURRENT_TIMESTAMP`` is allowed."""
    return (
        f"{moment_check(column)} AND {column} GLOB '????-??-?? ??:??:??*' "
        f"AND (length({column}) = 19 OR (length({column}) BETWEEN 21 AND 26 "
        f"AND substr({column}, 20, 1) = '.' AND substr({column}, 21) NOT GLOB '*[^0-9]*'))"
    )


class Moment(TypeDecorator[datetime]):
    """A moment in UTC.

    SQLite has no type for it: ``YYYY-MM-DD HH:MM:SS.ffffff`` is written, which sorts as time does.
    What other programs wrote with ``CURRENT_TIMESTAMP``, with ``T`` and with ``Z`` is read too.
    """

    impl = DateTime(timezone=True).with_variant(Text(), "sqlite")
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone: a Moment is aware")
        value = value.astimezone(UTC)
        if dialect.name != "sqlite":
            return value
        return value.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds")

    def result_processor(self, _dialect: Dialect, _coltype: object) -> Any:
        # One call for a value instead of three, because this runs for every row that is sent.
        return _aware


def _aware(value: Any) -> datetime | None:
    if value is None:
        return None
    found = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)

"""Values of PostgreSQL that its drivers do not read, or not alike, as types of SQLAlchemy."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.base import ischema_names


class XID8(sa.types.UserDefinedType[int]):
    """``xid8``, an int in Python. It never wraps around, unlike ``xid``."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "xid8"

    def bind_processor(self, _dialect: sa.Dialect) -> Callable[[int | None], str | None]:
        return lambda value: None if value is None else str(value)

    def result_processor(
        self, _dialect: sa.Dialect, _coltype: object
    ) -> Callable[[Any], int | None]:
        return lambda value: None if value is None else int(value)


class PgSnapshot(sa.types.UserDefinedType[str]):
    """``pg_snapshot``, a str in Python."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "pg_snapshot"


class KeyDate(sa.types.TypeDecorator[date]):
    """A date or date-time of a key. An infinite one is the last or first that Python has.

    asyncpg reads it so by itself, and psycopg does not read it at all.
    """

    impl = sa.Date
    cache_ok = True

    def __init__(self, kind: sa.Date | sa.DateTime) -> None:
        super().__init__()
        self.kind = kind
        last: Any = self.python_type.max
        first: Any = self.python_type.min
        if isinstance(kind, sa.DateTime) and kind.timezone:
            last, first = last.replace(tzinfo=UTC), first.replace(tzinfo=UTC)
        self._ends = {"infinity": last, "-infinity": first}

    def load_dialect_impl(self, _dialect: sa.Dialect) -> sa.Date | sa.DateTime:
        return self.kind

    @property
    def python_type(self) -> type[date]:
        found: type[date] = self.kind.python_type
        return found

    def column_expression(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        # JSON has dates in ISO form, whatever the session's settings are.
        return sa.type_coerce(sa.func.to_jsonb(column).op("#>>")(sa.text("'{}'")), self)

    def process_bind_param(self, value: date | None, dialect: sa.Dialect) -> Any:
        if dialect.driver == "psycopg":
            return next((text for text, end in self._ends.items() if end == value), value)
        return value

    def process_result_value(self, value: Any, _dialect: sa.Dialect) -> date | None:
        if value is None:
            return None
        return self._ends.get(value) or self.python_type.fromisoformat(value)


def as_xid(text: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """A text as an ``xid8``: there is no cast from bigint."""
    return sa.cast(text, XID8())


# So that reflection, as of Alembic, knows the column.
ischema_names.setdefault("xid8", XID8)

"""The 64-bit transaction id of PostgreSQL as a type of SQLAlchemy."""

from __future__ import annotations

from collections.abc import Callable
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


def as_xid(text: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """A text as an ``xid8``: there is no cast from bigint."""
    return sa.cast(text, XID8())


# So that reflection, as of Alembic, knows the column.
ischema_names.setdefault("xid8", XID8)

"""Reads rows of a live query, also with values that the driver or a column's type cannot read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from headwater.sql._unreadable import Unreadable, cannot_be_read, raw
from headwater.sql._values import stored_type

# PostgreSQL's values of these types can be read, whatever they are.
_READABLE = (
    *(sa.String, sa.Integer, sa.Numeric, sa.Boolean, sa.Uuid, sa.LargeBinary),
    sa.types.NullType,
)


def read_rows(connection: sa.Connection, query: Any, values: Mapping[str, Any]) -> Sequence[Any]:
    """The rows of a statement. A value that cannot be read is an ``Unreadable``.

    If any value cannot be read, the statement is repeated for values as the database has them.
    Each of these is then read by itself.
    """
    try:
        return connection.execute(query, values).all()
    except Exception as error:
        if not cannot_be_read(error):
            raise
    dialect = connection.dialect.name
    columns = list(query.subquery("headwater_read").c)
    doubtful = [dialect == "sqlite" or not _is_readable(column.type) for column in columns]
    stored = sa.select(
        *(
            (raw(column, dialect) if doubt else column).label(f"headwater_{at}")
            for at, (column, doubt) in enumerate(zip(columns, doubtful, strict=True))
        )
    )
    known: dict[tuple[int, Any], Any] = {}

    def value(at: int, found: Any) -> Any:
        if found is None or not doubtful[at]:
            return found
        if (at, found) not in known:
            known[at, found] = _value(connection, found, columns[at].type)
        return known[at, found]

    rows = connection.execute(stored, values).all()
    return [tuple(value(at, found) for at, found in enumerate(row)) for row in rows]


def _is_readable(kind: Any) -> bool:
    return isinstance(kind, _READABLE) and not isinstance(kind, sa.Enum)


def _value(connection: sa.Connection, found: Any, kind: Any) -> Any:
    dialect = connection.dialect
    try:
        if dialect.name == "postgresql" and not isinstance(stored_type(kind), sa.String):
            return connection.scalar(sa.select(sa.cast(sa.literal(found, sa.Text), kind)))
        process = kind.dialect_impl(dialect).result_processor(dialect, None)
        return found if process is None else process(found)
    except Exception as error:
        if not cannot_be_read(error):
            raise
        return Unreadable(found)

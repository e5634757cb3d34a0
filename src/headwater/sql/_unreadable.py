"""Rows with values that the driver or the column's type cannot read, such as an enum's unknown one.

One such row must not stop the reading of its table. So a read that fails is repeated without
values; then those of each row are read one after another. An item with a value that cannot be read
does not fit its model, and is treated as every other that does not. Its key is then the text that
the database has for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.errors import HeadwaterError
from headwater.sql._filters import Asked
from headwater.sql._statements import RAW, Statements

Row = Sequence[Any]

# A row may be deleted between the two reads. Then both are repeated.
_TRIES = 5


class Unreadable:
    """Stands for a value that cannot be read. It equals nothing else and is no JSON.

    Attributes:
        raw: the value as the database has it, of a key: a text on PostgreSQL.
    """

    __slots__ = ("raw",)

    def __init__(self, raw: Any = None) -> None:
        self.raw = raw

    def __repr__(self) -> str:
        return "a value that cannot be read"


def with_key(values: Mapping[str, Any], key: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The values of an item, which cannot be shown if its key holds NULL.

    SQLite lets NULL into a key, in as many rows as there are. To a client they are all one item.
    """
    if key is None or None not in key.values():
        return values
    return {**values, **{name: Unreadable() for name in key if key[name] is None}}


def cannot_be_read(error: Exception) -> bool:
    """Whether a read failed at a value, in the driver or in the column's type."""
    if isinstance(error, sa.exc.DBAPIError):
        # One of the server has a state, and SQLite's have other classes.
        own = isinstance(error, sa.exc.DataError)
        return own and getattr(error.orig, "sqlstate", None) is None
    return not isinstance(error, (HeadwaterError, sa.exc.SQLAlchemyError, OSError))


async def read_rows(
    connection: AsyncConnection, statements: Statements, asked: Asked
) -> Sequence[Row]:
    """The rows of a statement that has no values, with the values of each.

    ``asked``: one of these statements, which are made with ``keys_only=True``.
    """
    rows: Sequence[Row] = ()
    for _ in range(_TRIES):
        result = await connection.execute(*asked)
        names = list(result.keys())
        raw = [at for at, name in enumerate(names) if name.startswith(RAW)]
        first = names.index("headwater_0") if "headwater_0" in names else len(names)
        rows = [await _filled(connection, statements, row, raw, first) for row in result.all()]
        if all(rows):
            break
    return rows


async def _filled(
    connection: AsyncConnection, statements: Statements, row: Row, raw: Sequence[int], first: int
) -> Row:
    """The row with its values; empty if it was deleted."""
    model, filled = statements.model, list(row)
    for at, name in zip(raw, (*model.key, *model.kept), strict=False):
        if row[at] is not None:
            query = sa.select(statements.from_raw(row[at], name))
            filled[at] = await _value(connection, query, row[at])
    own = dict(zip(model.columns, row[first:], strict=False))
    key = {name: own.get(name) for name in model.key}
    if None in key.values():
        return filled
    same = [model.columns[name] == statements.from_raw(key[name], name) for name in model.key]
    columns = model.columns
    found: Sequence[Any] | None
    try:
        found = (await connection.execute(sa.select(*columns.values()).where(*same))).first()
    except Exception as error:
        if not cannot_be_read(error):
            raise
        found = [
            await _value(connection, sa.select(column).where(*same), own[name])
            for name, column in columns.items()
        ]
    return () if found is None else (*filled[:first], *found, *row[first + len(columns) :])


async def _value(connection: AsyncConnection, query: sa.Select[Any], raw: Any) -> Any:
    try:
        return await connection.scalar(query)
    except Exception as error:
        if not cannot_be_read(error):
            raise
        return Unreadable(raw)

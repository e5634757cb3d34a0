"""Rows with values that the driver or the column's type cannot read, such as an enum's unknown one.

One such row must not stop the reading of its table. So a read that fails is repeated without
values; then those of each row are read one after another. An item with a value that cannot be read
does not fit its model, and is treated as every other that does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.errors import HeadwaterError
from headwater.sql._filters import Asked
from headwater.sql._model import TableModel

Row = Sequence[Any]

# A row may be deleted between the two reads. Then both are repeated.
_TRIES = 5


class Unreadable:
    """Stands for a value that cannot be read. It equals nothing else and is no JSON."""

    __slots__ = ()

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


async def read_rows(connection: AsyncConnection, model: TableModel, asked: Asked) -> Sequence[Row]:
    """The rows of a statement that has no values, with the values of each.

    ``asked``: a statement of ``Statements(keys_only=True)``.
    """
    rows: Sequence[Row] = ()
    for _ in range(_TRIES):
        result = await connection.execute(*asked)
        first = list(result.keys()).index("headwater_0")
        rows = [await _filled(connection, model, row, first) for row in result.all()]
        if all(rows):
            break
    return rows


async def _filled(connection: AsyncConnection, model: TableModel, row: Row, first: int) -> Row:
    """The row with its values; empty if it was deleted."""
    own = dict(zip(model.columns, row[first:], strict=False))
    key = {name: own[name] for name in model.key}
    if None in key.values():
        return tuple(row)
    values = await _values(connection, model, key)
    return () if values is None else (*row[:first], *values, *row[first + len(values) :])


async def _values(
    connection: AsyncConnection, model: TableModel, key: Mapping[str, Any]
) -> Sequence[Any] | None:
    same = [model.columns[name] == value for name, value in key.items()]
    try:
        found = await connection.execute(sa.select(*model.columns.values()).where(*same))
        return found.first()
    except Exception as error:
        if not cannot_be_read(error):
            raise
    values: list[Any] = []
    for column in model.columns.values():
        try:
            values.append(await connection.scalar(sa.select(column).where(*same)))
        except Exception as error:
            if not cannot_be_read(error):
                raise
            values.append(Unreadable())
    return values

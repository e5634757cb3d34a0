"""Rows with values that the driver or the column's type cannot read, such as an enum's unknown one.

One such row must not stop the reading of its table. So a read that fails is repeated without
values; then those of each row are read one after another. An item with a value that cannot be read
does not fit its model, and is treated as every other that does not. Its key is then the text that
the database has for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.errors import HeadwaterError
from headwater.sql._expressions import Column
from headwater.sql._filters import Asked
from headwater.sql._model import TableModel

Row = Sequence[Any]

# How the names begin of raw columns that are not a row's own: of what removals keep, for example.
RAW = "headwater_raw_"

# PostgreSQL's settings, as psycopg needs them.
STYLES = {"datestyle": "ISO", "intervalstyle": "postgres"}

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


def cannot_be_read(error: Exception) -> bool:
    """Whether a read failed at a value, in the driver or in the column's type."""
    if isinstance(error, sa.exc.DBAPIError):
        # One of the server has a state, and SQLite's have other classes.
        own = isinstance(error, sa.exc.DataError)
        return own and getattr(error.orig, "sqlstate", None) is None
    return not isinstance(error, (HeadwaterError, sa.exc.SQLAlchemyError, OSError))


def raw(column: Column, dialect: str) -> Column:
    """A column in a form that the driver reads, whatever it holds."""
    if dialect == "sqlite":
        return sa.type_coerce(column, sa.types.NullType())
    return sa.cast(column, sa.Text)


def raw_keys(model: TableModel, dialect: str) -> list[Column]:
    """The model's columns, those of the key raw and without all other values."""
    return [
        raw(column, dialect) if name in model.key else sa.null()
        for name, column in model.columns.items()
    ]


def _from_raw(value: Any, model: TableModel, name: str, dialect: str) -> Column:
    """The value of a column, by attribute, of which this is the raw form."""
    if dialect == "sqlite":
        stored = sa.literal(value, sa.types.NullType())
        return sa.type_coerce(stored, model.columns[name].type)
    return model.cast(sa.literal(value, sa.Text), name)


async def read_rows(connection: AsyncConnection, model: TableModel, asked: Asked) -> Sequence[Row]:
    """The rows of a statement that has raw keys and no other values, with the values of each.

    Its columns from ``headwater_0`` on are those of the model. Some may be ``RAW``: of the key, and
    of what removals keep.
    """
    rows: Sequence[Row] = ()
    async with _readable_dates(connection):
        for _ in range(_TRIES):
            result = await connection.execute(*asked)
            names = list(result.keys())
            stored = [at for at, name in enumerate(names) if name.startswith(RAW)]
            first = names.index("headwater_0") if "headwater_0" in names else len(names)
            rows = [await _filled(connection, model, row, stored, first) for row in result.all()]
            if all(rows):
                break
    return rows


@asynccontextmanager
async def _readable_dates(connection: AsyncConnection) -> AsyncIterator[None]:
    """The forms of dates and intervals that psycopg reads: the application may have set others."""
    if connection.dialect.name != "postgresql":
        yield
        return
    both = sa.select(*(sa.func.current_setting(name) for name in STYLES))
    before = (await connection.execute(both)).one()
    try:
        await _set_styles(connection, STYLES.values())
        yield
    except BaseException:
        # It may be broken, and must not go back to the pool with these settings.
        await connection.invalidate()
        raise
    await _set_styles(connection, before)


async def _set_styles(connection: AsyncConnection, values: Iterable[str]) -> None:
    pairs = zip(STYLES, values, strict=True)
    await connection.execute(sa.select(*(sa.func.set_config(*pair, False) for pair in pairs)))


async def _filled(
    connection: AsyncConnection, model: TableModel, row: Row, stored: Sequence[int], first: int
) -> Row:
    """The row with its values; empty if it was deleted."""
    dialect, filled = connection.dialect.name, list(row)
    for at, name in zip(stored, (*model.key, *model.kept), strict=False):
        if row[at] is not None:
            query = sa.select(_from_raw(row[at], model, name, dialect))
            filled[at] = await _value(connection, query, row[at])
    own = dict(zip(model.columns, row[first:], strict=False))
    key = {name: own.get(name) for name in model.key}
    if None in key.values():
        return filled
    same = [
        model.columns[name] == _from_raw(value, model, name, dialect) for name, value in key.items()
    ]
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

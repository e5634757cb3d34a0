"""Which values are equal: of some columns the database judges it, of some it cannot."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import CITEXT

from headwater.errors import DeclarationError
from headwater.sql._expressions import Column, Expression
from headwater.sql._values import stored_type

# Collations by which no two texts are equal.
_EXACT = frozenset(["binary", "c", "posix", "ucs_basic"])
# Types whose values Python compares as the database does, if they have no collation. It takes 0.1
# for the nearest REAL, 10.0.0.1 for another text than 10.0.0.1/32, and 12:00+02 for 10:00+00.
_COMPARED = (
    *(sa.String, sa.Integer, sa.Numeric, sa.Boolean, sa.Uuid, sa.Date, sa.DateTime, sa.Time),
    *(sa.Interval, sa.LargeBinary, sa.BINARY, sa.VARBINARY),
)
# PostgreSQL's types that DISTINCT and UNION cannot compare.
_UNEQUAL = frozenset(["json", "xml", "point", "line", "lseg", "box", "path", "polygon", "circle"])


def check_equality(columns: Mapping[str, Any], dialect: sa.Dialect) -> None:
    """Raises DeclarationError for a column whose values the database cannot compare."""
    if dialect.name != "postgresql":
        return
    for name, column in columns.items():
        try:
            kind = stored_type(column.type).compile(dialect=dialect)
        except sa.exc.CompileError:
            continue  # a type that SQLAlchemy does not know
        if kind.lower() in _UNEQUAL:
            raise DeclarationError(
                f"the column {name!r} is of type {kind}, for which PostgreSQL has no equality: "
                "where= and DISTINCT need a column of another type, such as JSONB, or one with the "
                "part that you want"
            )


def is_blind(column: sa.Column[Any]) -> bool:
    """Whether Python cannot compare the values of a column as the database does."""
    kind = stored_type(column.type)
    if isinstance(kind, (sa.CHAR, sa.NCHAR, CITEXT, sa.Float)) or _is_collated(column):
        return True
    return not isinstance(kind, _COMPARED) or (isinstance(kind, sa.Time) and kind.timezone)


def _is_collated(column: sa.Column[Any]) -> bool:
    kind = stored_type(column.type)
    named = kind.collation if isinstance(kind, sa.String) else None
    return named is not None and named.lower() not in _EXACT


def as_read(column: sa.Column[Any], value: Hashable, dialect: sa.Dialect) -> Hashable:
    """The value that a row has where the column was compared with this one.

    An application's own type may store another value, and SQLite has date-times without a zone.
    """
    kind = column.type.dialect_impl(dialect)
    if not isinstance(kind, (sa.types.TypeDecorator, sa.DateTime)):
        return value
    bind: Any = kind.bind_processor(dialect)
    result = kind.result_processor(dialect, None)
    stored = value if bind is None else bind(value)
    found: Hashable = stored if result is None else result(stored)
    return found


def check_shown(name: str, column: sa.Column[Any]) -> None:
    """Raises DeclarationError for a key of groups, or with DISTINCT, whose texts may be equal."""
    if _is_collated(column):
        raise DeclarationError(
            f"key= names {name!r} of type {column.type!r}, for which different texts are equal: a "
            "group shows any one of them, so use a column whose texts are equal when they are the "
            "same, such as one of the text in small letters"
        )


def check_exact(name: str, column: sa.Column[Any]) -> None:
    """Raises DeclarationError for a filter of a query with LIMIT that Python cannot compare."""
    if is_blind(column):
        raise DeclarationError(
            f"where= names {name!r} of type {column.type!r}, for which different texts are equal "
            "or only the database compares values: with LIMIT each value has rows of its own, so "
            "use a column whose values are equal when they are the same, such as one of the text "
            "in small letters"
        )


def judged_equality(
    columns: Mapping[str, sa.Column[Any]],
    wanted: Mapping[str, Iterable[Hashable]],
    dialect: sa.Dialect,
) -> Expression | None:
    """The condition that each of these columns has one of its values; None for no column."""
    every = []
    for name, values in wanted.items():
        kind = columns[name].type
        column: Column = sa.column(name, kind)
        same = [column == sa.bindparam(None, value, type_=kind) for value in values]
        every.append(sa.or_(sa.false(), *same))
    return Expression(sa.and_(*every), dialect) if every else None

"""Equality of columns for which different texts are equal: the database judges it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import CITEXT

from headwater.errors import DeclarationError
from headwater.sql._expressions import Column, Expression
from headwater.sql._values import stored_type


def is_blind(column: sa.Column[Any]) -> bool:
    """Whether different texts may be equal in a column, so that Python cannot compare them."""
    kind = stored_type(column.type)
    collated = isinstance(kind, sa.String) and kind.collation is not None
    return collated or isinstance(kind, (sa.CHAR, sa.NCHAR, CITEXT))


def check_exact(name: str, column: sa.Column[Any]) -> None:
    """Raises DeclarationError for a filter of a query with LIMIT whose texts may be equal."""
    if is_blind(column):
        raise DeclarationError(
            f"where= names {name!r} of type {column.type!r}, for which different texts are equal: "
            "with LIMIT each value has rows of its own, so use a column whose texts are equal when "
            "they are the same, such as one of the text in small letters"
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

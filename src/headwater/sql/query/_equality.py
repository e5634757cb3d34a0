"""Which columns a live query can be filtered by: those whose equality is that of Python."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import CITEXT

from headwater.errors import DeclarationError

__all__ = ["check_equality"]


def check_equality(name: str, column: sa.Column[Any]) -> None:
    """Raises DeclarationError for a column whose different texts are equal to the database.

    Pages select by the equality of the database, and streams by that of Python.
    """
    kind = column.type
    collated = isinstance(kind, sa.String) and kind.collation is not None
    if collated or isinstance(kind, (sa.CHAR, sa.NCHAR, CITEXT)):
        raise DeclarationError(
            f"where= names {name!r} of type {kind!r}, for which different texts are equal: a live "
            "query's streams could not compare it; use a column whose texts are equal when they "
            "are the same, such as one of the same text in small letters"
        )

"""A SELECT without the ORM: what it reads and returns is in its own clauses, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import InspectionAttr

from headwater.errors import DeclarationError
from headwater.sql._tracking import CHANGE, ORDER, SINCE
from headwater.sql.query._functions import check_element


def plain(select: sa.Select[Any]) -> sa.Select[Any]:
    """The same SELECT as Core writes it, each column labelled with its name.

    The ORM adds conditions to a SELECT when it is compiled, such as the class of a row or those of
    ``with_loader_criteria``. It also adds and leaves out columns, as its loading options say: these
    count for objects, not for rows.

    Raises DeclarationError for a column without a name, and for two with the same one.
    """
    try:
        return _plain(select.with_only_columns(*_without_entities(select)))
    except sa.exc.SQLAlchemyError as error:
        raise DeclarationError(f"SQLAlchemy cannot write the query: {error}") from error


def _plain(select: sa.Select[Any]) -> sa.Select[Any]:
    columns = select.selected_columns.items()
    keys = [key for key, _ in columns]
    labelled = [
        column.label(_name_of(key, column, keys))
        for key, column in columns
        if key not in (CHANGE, ORDER, SINCE)
    ]
    compiled = select.with_only_columns(*labelled).compile(
        dialect=sa.make_url("postgresql+psycopg://").get_dialect()()
    )
    if re.search(r"\bSELECT DISTINCT ON \(", str(compiled)):
        raise DeclarationError(
            "DISTINCT ON cannot be derived: for the first row of each, select from the table that "
            "has one row for each, with a correlated scalar sub-query with order_by() and limit(1)"
        )
    found: Any = compiled.compile_state
    written: sa.Select[Any] = found.statement
    return written


def _without_entities(select: sa.Select[Any]) -> list[Any]:
    """The columns of a SELECT, of an entity all its attributes."""
    found: list[Any] = []
    for each in select.column_descriptions:
        check_element(each["expr"])
        known: Any = sa.inspect(each["expr"], raiseerr=False)
        entity = isinstance(known, InspectionAttr) and (known.is_mapper or known.is_aliased_class)
        if entity:
            found += [getattr(each["expr"], one.key) for one in known.mapper.column_attrs]
        else:
            found.append(each["expr"])
    return found


def _name_of(key: str, column: Any, keys: Collection[str]) -> str:
    """The name of a column as an item has it.

    ``key``: that among the selected columns; of a second column of one name it ends in a number.
    """
    if key.startswith(("%", "_no_label")):
        raise DeclarationError(f"{column} has no name: give it one with .label()")
    first = re.sub(r"_\d+$", "", key)
    if key != first and first in keys and getattr(column, "key", None) in (None, first):
        raise DeclarationError(
            f"two columns of the query are called {first!r}: give one another name with .label()"
        )
    return key

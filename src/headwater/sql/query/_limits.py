"""The LIMIT of a query, and which parts of a SELECT are its own."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from headwater.errors import DeclarationError

# Rows that a query with LIMIT may keep for each value of its filters. They are read at each change.
MOST_LIMITED = 1000


def difference(select: sa.Select[Any], less: sa.Select[Any]) -> list[Any]:
    """The parts of a SELECT that another one, made from it, has no more."""
    left = [id(child) for child in less.get_children()]
    found = []
    for child in select.get_children():
        if id(child) in left:
            left.remove(id(child))
        else:
            found.append(child)
    return found


def limit_of(select: sa.Select[Any]) -> int | None:
    """The LIMIT of a SELECT. Raises DeclarationError for one that cannot be derived."""
    if difference(select, select.offset(None)):
        raise DeclarationError("OFFSET cannot be derived: leave it out, clients page by themselves")
    found = difference(select, select.limit(None))
    if not found:
        return None
    limit = getattr(found[0], "value", None)
    if not isinstance(limit, int) or not 1 <= limit <= MOST_LIMITED:
        raise DeclarationError(f"LIMIT {limit!r} must be a number of 1 to {MOST_LIMITED}")
    if not difference(select, select.order_by(None)):
        raise DeclarationError(
            "LIMIT without order_by() cannot be derived: say which rows are the first ones"
        )
    if not select.compare(select.limit(limit)):
        raise DeclarationError(f"FETCH FIRST cannot be derived: write limit({limit})")
    return limit

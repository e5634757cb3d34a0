"""Filters of live queries as SQL: equal forms share their statements, whatever the values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from headwater.feeds.source import Filter

__all__ = ["Form", "condition_of", "form_of"]

# The names that each conjunction of a filter has, without the values.
Form = tuple[tuple[str, ...], ...]


def form_of(wanted: Filter) -> tuple[Form, dict[str, Any]]:
    """The form of a filter, and its values as parameters."""
    values = {
        f"where_{at}_{n}": value
        for at, conjunction in enumerate(wanted.any_of)
        for n, (_, value) in enumerate(conjunction)
    }
    return tuple(tuple(name for name, _ in each) for each in wanted.any_of), values


def condition_of(form: Form, columns: Mapping[str, Any]) -> sa.ColumnElement[bool]:
    if form == ((),):
        return sa.true()
    every = []
    for at, names in enumerate(form):
        each = [
            columns[name] == sa.bindparam(f"where_{at}_{n}", type_=columns[name].type)
            for n, name in enumerate(names)
        ]
        every.append(sa.and_(sa.true(), *each))
    return sa.or_(sa.false(), *every)

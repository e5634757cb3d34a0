"""Filters of live queries as SQL: equal forms share their statements, whatever the values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from headwater.feeds._source import Filter
from headwater.sql._expressions import Expression, Shape
from headwater.sql._filters import ShapeSlot

__all__ = ["Form", "condition_of", "form_of"]

# The names that each conjunction of a filter has, and the shape of its condition, without values.
Form = tuple[tuple[str | Shape, ...], ...]


def form_of(wanted: Filter) -> tuple[Form, dict[str, Any]]:
    """The form of a filter, and its values as parameters."""
    values: dict[str, Any] = {}
    form: list[tuple[str | Shape, ...]] = []
    for at, conjunction in enumerate(wanted.any_of):
        names: list[str | Shape] = []
        for n, (name, value) in enumerate(conjunction):
            if isinstance(value, Expression):
                values |= value.parameters(f"where_{at}_{n}")
                names.append(value.shape)
            else:
                values[f"where_{at}_{n}"] = value
                names.append(name)
        form.append(tuple(names))
    return tuple(form), values


def condition_of(form: Form, columns: Mapping[str, Any]) -> sa.ColumnElement[bool]:
    if form == ((),):
        return sa.true()
    every = []
    for at, names in enumerate(form):
        each = [_condition(name, f"where_{at}_{n}", columns) for n, name in enumerate(names)]
        every.append(sa.and_(sa.true(), *each))
    return sa.or_(sa.false(), *every)


def _condition(
    name: str | Shape, parameter: str, columns: Mapping[str, Any]
) -> sa.ColumnElement[bool]:
    if isinstance(name, Shape):
        return ShapeSlot(parameter, name).over(columns)
    same: sa.ColumnElement[bool] = columns[name] == sa.bindparam(
        parameter, type_=columns[name].type
    )
    return same

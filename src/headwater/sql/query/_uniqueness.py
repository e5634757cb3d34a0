"""Proves by functional dependencies that a key identifies each row of a query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import operators

from headwater.sql.query._pieces import Condition, Occurrence, Scope
from headwater.sql.query._scopes import Scopes

# An occurrence of a table and the name of a column in the database.
Column = tuple[Occurrence, str]


def closure(scopes: Scopes, columns: Iterable[Column]) -> set[Column]:
    """The columns of the FROM clause that have one value for each value of these."""
    known = set(columns)
    top = list(scopes.names.found.values())
    equal = [(scope, pair) for scope in scopes.every for pair in _equalities(scope)]
    fixed = [(scope, column) for scope in scopes.every for column in _constants(scope)]
    before = -1
    while len(known) != before:
        before = len(known)
        for occurrence in top:
            if determined(occurrence, known):
                known |= {(occurrence, column.name) for column in occurrence.table.columns}
        for scope, (one, other) in equal:
            # The condition of an outer join holds only for the tables of that join.
            for this, that in ((one, other), (other, one)):
                if this in known and that[0].scope is scope and that[0] in top:
                    known.add(that)
        for scope, column in fixed:
            if column[0].scope is scope and column[0] in top:
                known.add(column)
    return known


def determined(occurrence: Occurrence, known: set[Column]) -> bool:
    """Whether at most one row of it belongs to what is known."""
    table = occurrence.table
    uniques: list[list[str]] = [[column.name for column in table.primary_key.columns]]
    uniques += [
        [column.name for column in constraint.columns]
        for constraint in table.constraints
        if isinstance(constraint, sa.UniqueConstraint)
    ]
    for index in table.indexes:
        partial = any(
            name.endswith("_where") and value is not None
            for name, value in index.dialect_kwargs.items()
        )
        plain = all(isinstance(part, sa.Column) for part in index.expressions)
        if index.unique and plain and not partial:
            uniques.append([str(column.name) for column in index.columns])
    return any(unique and all((occurrence, name) in known for name in unique) for unique in uniques)


def _equalities(scope: Scope) -> Iterator[tuple[Column, Column]]:
    for condition in scope.conditions:
        if _sides(condition) and len(condition.columns) == 2:
            one, other = condition.columns
            yield one, other


def _constants(scope: Scope) -> Iterator[Column]:
    for condition in scope.conditions:
        if any(isinstance(side, sa.BindParameter) for side in _sides(condition)):
            yield from condition.columns


def _sides(condition: Condition) -> Sequence[Any]:
    """Both sides of a condition that a column equals a column or a value; else nothing."""
    expression = condition.expression
    if not isinstance(expression, sa.BinaryExpression) or expression.operator is not operators.eq:
        return ()
    sides = (expression.left, expression.right)
    plain = (sa.ColumnClause, sa.BindParameter)
    return sides if all(isinstance(side, plain) for side in sides) else ()

"""The pieces of a query: mentions of tables, conditions, scopes and names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import operators, visitors

from headwater.errors import DeclarationError
from headwater.sql._expressions import bare
from headwater.sql._tracking import CHANGE, NUMBER, SINCE

# Operators that are never true when an operand is NULL.
_STRICT = frozenset(
    {operators.eq, operators.ne, operators.lt, operators.le, operators.gt, operators.ge}
    | {operators.like_op, operators.in_op}
)


@dataclass(eq=False, slots=True)
class Occurrence:
    """One mention of a table in the query; a table that is joined to itself has two.

    Attributes:
        label: its alias in the statements that are derived, such as ``t0``.
        table: the table.
        alias: the alias to select from. It also has the columns that tracking adds.
        scope: the scope that the occurrence belongs to.
    """

    label: str
    table: sa.Table
    scope: Scope
    alias: sa.FromClause = field(init=False)

    def __post_init__(self) -> None:
        columns = [
            sa.column(column.name, column.type)
            for column in self.table.columns
            if column.name not in (CHANGE, SINCE)
        ]
        own = [sa.column(CHANGE, NUMBER), sa.column(SINCE, NUMBER)]
        plain = sa.table(self.table.name, *columns, *own, schema=self.table.schema)
        self.alias = plain.alias(self.label)

    def column(self, name: str) -> sa.ColumnElement[Any]:
        """The alias's column of this name in the database."""
        found: sa.ColumnElement[Any] = self.alias.c[name]
        return found


@dataclass(eq=False, slots=True)
class Condition:
    """One condition of a conjunction (AND).

    Attributes:
        expression: the condition over the aliases' columns; None if it has a sub-query.
        columns: the columns that it names.
        strict: occurrences whose columns, if all NULL, keep it from being true.
        original: the condition as the query has it.
    """

    expression: sa.ColumnElement[bool] | None
    columns: frozenset[tuple[Occurrence, str]]
    strict: frozenset[Occurrence]
    original: sa.ColumnElement[Any]

    @property
    def occurrences(self) -> frozenset[Occurrence]:
        return frozenset(occurrence for occurrence, _ in self.columns)


@dataclass(eq=False, slots=True)
class Scope:
    """Tables whose rows exist together.

    Attributes:
        clause: its description for error messages, such as ``the query's FROM``.
        outer: whether it is the right side of an outer join.
        needs: the scopes that must have rows for this scope to have any.
    """

    clause: str
    outer: bool = False
    needs: set[Scope] = field(default_factory=set)
    occurrences: list[Occurrence] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)

    def closure(self) -> set[Scope]:
        """This scope and all that it needs."""
        found, left = {self}, [self]
        while left:
            for scope in left.pop().needs - found:
                found.add(scope)
                left.append(scope)
        return found


@dataclass(eq=False, slots=True)
class Names:
    """The FROM elements of one SELECT, and of those around it."""

    outer: Names | None
    found: dict[Any, Occurrence] = field(default_factory=dict)

    def enclosing(self) -> Iterator[Any]:
        """All elements that a sub-query may refer to."""
        if self.outer is not None:
            yield from self.outer.enclosing()
        yield from self.found

    def occurrence(self, column: sa.ColumnClause[Any]) -> Occurrence:
        names: Names | None = self
        while names is not None:
            found = names.found.get(column.table)
            if found is not None:
                return found
            names = names.outer
        raise DeclarationError(
            f"the column {column} is of no table that the query reads; write it as an attribute "
            "of a mapped class or a column of a Table"
        )


def renamed(expression: Any, names: Names) -> Any:
    """The expression over the columns of the aliases."""
    return with_columns(
        expression,
        lambda column: (
            None if column.table is None else names.occurrence(column).column(column.name)
        ),
    )


def with_columns(expression: Any, other: Callable[[sa.ColumnClause[Any]], Any]) -> Any:
    """The expression with other columns; ``other`` returns None for one that stays."""

    def put(element: Any) -> Any:
        return other(element) if isinstance(element, sa.ColumnClause) else None

    # replacement_traverse() would leave out the criterion of a relationship's any() and has().
    return visitors.cloned_traverse(expression, {"replace": put}, {})


def strict_in(clause: Any, names: Names) -> frozenset[Occurrence]:
    """The occurrences whose columns, if NULL, keep a condition from being true."""
    clause = bare(clause)
    if isinstance(clause, sa.sql.elements.BooleanClauseList):
        each = [strict_in(one, names) for one in clause.clauses]
        if clause.operator is operators.and_:
            return frozenset().union(*each)
        return frozenset.intersection(*each) if each else frozenset()
    if isinstance(clause, sa.BinaryExpression) and clause.operator in _STRICT:
        return strict_operand(clause.left, names) | strict_operand(clause.right, names)
    return frozenset()


def strict_operand(operand: Any, names: Names) -> frozenset[Occurrence]:
    return frozenset({names.occurrence(bare(operand))} if is_plain(operand) else ())


def is_plain(operand: Any) -> bool:
    """Whether it is a column of a table."""
    operand = bare(operand)
    return isinstance(operand, sa.ColumnClause) and operand.table is not None

"""The scopes of a SELECT: the tables that it reads, their scopes, and the conditions between them.

A scope is a part of the query whose rows exist together: the inner-joined tables at the top, the
right side of an outer join, or a sub-query. A row of a table reaches the rows of the query through
the conditions of its own scope and of those that the scope needs.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql import operators

from headwater.errors import DeclarationError
from headwater.sql._expressions import bare, clauses_of, shown
from headwater.sql.query._functions import check_element
from headwater.sql.query._limits import difference
from headwater.sql.query._pieces import (
    Condition,
    Names,
    Occurrence,
    Scope,
    is_plain,
    renamed,
    strict_in,
    strict_operand,
)


class Scopes:
    """Reads a SELECT.

    Attributes:
        root: the scope of the inner-joined tables at the top.
        every: all scopes, the root first.
        names: the FROM elements at the top.

    Raises DeclarationError for a clause that cannot be derived.
    """

    def __init__(self, select: sa.Select[Any]) -> None:
        self.root = Scope("the query's FROM")
        self.every = [self.root]
        self._seen: set[sa.Select[Any]] = set()
        self.names = Names(None)
        self._select(select, self.root, self.names)
        self._settle()

    @property
    def occurrences(self) -> list[Occurrence]:
        return [one for scope in self.every for one in scope.occurrences]

    def column(self, element: Any) -> tuple[Occurrence, str] | None:
        """The occurrence and name of a plain column of the top SELECT."""
        element = bare(element)
        if not isinstance(element, sa.ColumnClause) or element.table is None:
            return None
        return self.names.occurrence(element), element.name

    # Reading

    def _select(self, select: sa.Select[Any], scope: Scope, names: Names) -> None:
        enclosing = list(names.enclosing())
        try:
            froms = select.get_final_froms()
        except sa.exc.SQLAlchemyError as error:
            raise DeclarationError(f"SQLAlchemy cannot write the query: {error}") from error
        for element in froms:
            if element not in enclosing:
                self._from(element, scope, names)
        if enclosing:
            self._check_correlation(select, enclosing)
        where = select.whereclause
        if where is not None:
            for clause in clauses_of(where):
                self._condition(clause, scope, names)
        for child in select.get_children():
            # The children include the ORM's join targets, whose columns may have no alias.
            if isinstance(child, sa.ColumnElement) or not isinstance(child, sa.FromClause):
                self._expression(child, scope, names, named=False)

    def _from(self, element: Any, scope: Scope, names: Names) -> None:
        if isinstance(element, sa.Join):
            if element.full:
                raise DeclarationError(
                    "FULL JOIN cannot be derived: write two live queries, one from each side"
                )
            self._from(element.left, scope, names)
            inner = scope
            if element.isouter:
                inner = Scope(f"the outer join of {shown(element.right)}", True, {scope})
                self.every.append(inner)
            self._from(element.right, inner, names)
            if element.onclause is not None:
                for clause in clauses_of(element.onclause):
                    self._condition(clause, inner, names)
            return
        if isinstance(element, sa.sql.selectable.FromGrouping):
            self._from(element.element, scope, names)
            return
        table = element.element if isinstance(element, sa.Alias) else element
        if not isinstance(table, sa.Table):
            raise DeclarationError(_refused_from(element))
        occurrence = Occurrence(f"t{len(self.occurrences)}", _plain(table), scope)
        names.found[element] = occurrence
        scope.occurrences.append(occurrence)

    def _check_correlation(self, select: sa.Select[Any], enclosing: list[Any]) -> None:
        """A sub-query must read from no table of the query around it by its own FROM."""
        try:
            around = sa.select(sa.literal(1)).select_from(*enclosing)
            explicit = select.correlate(*enclosing)
            same = str(around.where(sa.exists(select))) == str(around.where(sa.exists(explicit)))
        except sa.exc.InvalidRequestError:
            same = True  # it has no FROM of its own
        if not same:
            raise DeclarationError(
                f"the sub-query {shown(select)} reads a table of the query around it by itself, "
                "because of correlate(): use an alias of that table in the sub-query"
            )

    def _condition(self, clause: Any, scope: Scope, names: Names) -> None:
        columns, nested = self._expression(clause, scope, names)
        expression = None if nested else renamed(clause, names)
        strict = frozenset() if nested else strict_in(clause, names)
        scope.conditions.append(Condition(expression, frozenset(columns), strict, clause))

    def _expression(
        self, element: Any, scope: Scope, names: Names, *, named: bool = True
    ) -> tuple[set[tuple[Occurrence, str]], bool]:
        """Its columns, if ``named``, and whether it holds a sub-query; those become scopes."""
        columns: set[tuple[Occurrence, str]] = set()
        nested = False
        left = [element]
        while left:
            one = left.pop()
            if isinstance(one, sa.Select):
                nested = True
                self._nested(one, scope, names, None)
                continue
            check_element(one)
            if isinstance(one, sa.ColumnClause):
                if one.table is not None and named:
                    columns.add((names.occurrence(one), one.name))
                continue
            if isinstance(one, sa.BinaryExpression) and one.operator in (
                operators.in_op,
                operators.not_in_op,
            ):
                inner = _select_in(one.right)
                if inner is not None:
                    nested = True
                    if inner not in self._seen:
                        if one is not element or one.operator is not operators.in_op:
                            self._check_nulls(one, inner, scope, names)
                        self._nested(inner, scope, names, one.left)
                    left.append(one.left)
                    continue
            left += one.get_children()
        return columns, nested

    def _nested(self, select: sa.Select[Any], scope: Scope, names: Names, compared: Any) -> None:
        if select in self._seen:
            return
        self._seen.add(select)
        inner = Scope(f"the sub-query {shown(select)}", False, {scope})
        self.every.append(inner)
        own = Names(names)
        self._select(select, inner, own)
        if compared is not None:
            # x IN (SELECT y …) is a sub-query with the condition x = y.
            every = bare(compared).clauses if isinstance(bare(compared), sa.Tuple) else [compared]
            for one, other in zip(every, select.selected_columns, strict=False):
                columns, nested = self._expression(one, scope, names)
                more, deeper = self._expression(other, inner, own)
                if not nested and not deeper and is_plain(other) and _decides(other, select):
                    equal = renamed(one, names) == renamed(other, own)
                    strict = strict_operand(one, names) | strict_operand(other, own)
                    found = Condition(equal, frozenset(columns | more), strict, one)
                    inner.conditions.append(found)

    def _check_nulls(self, one: Any, select: sa.Select[Any], scope: Scope, names: Names) -> None:
        """With a NULL on either side, rows that no condition leads to decide what NOT IN is."""
        selected = bare(next(iter(select.selected_columns)))
        if not isinstance(selected, sa.Column) or selected.nullable:
            raise DeclarationError(
                f"NOT IN over {selected}, which may be NULL, cannot be derived, because one NULL "
                "changes every row: use ~exists() with a condition, or a column that is not null"
            )
        left = bare(one.left)
        known = isinstance(left, sa.Column) and not left.nullable
        if not known or names.occurrence(left).scope not in scope.closure():
            raise DeclarationError(
                f"NOT IN of {left}, which may be NULL, cannot be derived, because a NULL is in no "
                "empty sub-query either: use ~exists() with a condition, or a column that is not "
                "null of an inner-joined table"
            )

    # Which scopes need which

    def _settle(self) -> None:
        """Find outer joins whose rows must be there, and what scopes need beside their own."""
        changed = True
        while changed:
            changed = False
            for scope in self.every:
                for condition in scope.conditions:
                    for occurrence in condition.strict:
                        changed = changed or self._require(scope, occurrence.scope)

    def _require(self, scope: Scope, other: Scope) -> bool:
        if other in scope.closure():
            return False
        if scope in other.closure() and other.outer:
            # A condition further up refuses its NULLs: the outer join is an inner one.
            self._merge(other, scope)
        elif other.outer:
            scope.needs.add(other)
        else:
            return False
        return True

    def _merge(self, scope: Scope, into: Scope) -> None:
        for between in scope.closure() - into.closure():
            for occurrence in between.occurrences:
                occurrence.scope = into
            into.occurrences += between.occurrences
            into.conditions += between.conditions
            self.every.remove(between)
            for other in self.every:
                if between in other.needs:
                    other.needs.discard(between)
                    if other is not into:
                        other.needs.add(into)


def _decides(column: Any, select: sa.Select[Any]) -> bool:
    """Whether a value is selected because of rows with this value alone."""
    grouped = difference(select, select.group_by(None))
    limited = difference(select, select.limit(None).offset(None))
    return not limited and (not grouped or any(bare(column).compare(bare(g)) for g in grouped))


def _select_in(right: Any) -> sa.Select[Any] | None:
    while not isinstance(right, sa.Select):
        if not isinstance(right, (sa.sql.elements.Grouping, sa.ScalarSelect)):
            return None
        right = right.element
    return right


def _plain(table: Any) -> sa.Table:
    """The Table itself, without what the ORM notes beside it."""
    found: sa.Table = table.metadata.tables[table.key]
    return found


def _refused_from(element: Any) -> str:
    if isinstance(element, sa.CTE):
        return (
            f"the CTE {element.name!r} cannot be derived: join its tables in the query itself, or "
            "use a correlated sub-query"
        )
    if isinstance(element, sa.Subquery):
        return (
            "a sub-query in FROM cannot be derived: join its tables in the query itself, or use a "
            "correlated scalar sub-query"
        )
    return (
        f"{shown(element)} in FROM cannot be derived: join tables, or use a correlated scalar "
        "sub-query"
    )

"""Derives from a SELECT what a live query needs: tables, links, ways, and a proof of the key."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import CITEXT, HSTORE

from headwater.errors import DeclarationError
from headwater.sql._values import stored_type
from headwater.sql.query._equality import check_exact, check_shown
from headwater.sql.query._functions import has_aggregate
from headwater.sql.query._limits import difference, limit_of
from headwater.sql.query._pieces import Condition, Occurrence, Scope, renamed, with_columns
from headwater.sql.query._plain_select import plain
from headwater.sql.query._scopes import Scopes
from headwater.sql.query._uniqueness import Column, closure, determined

# Types whose values Python and both databases put in the same order.
_ORDERED = (sa.Integer, sa.String, sa.Uuid, sa.Date, sa.DateTime)


@dataclass(frozen=True, slots=True)
class Way:
    """How a changed row of one table leads to the keys of the query.

    Attributes:
        occurrences: the occurrences that are inner-joined, with that of the changed row.
        conditions: the conditions that join them.
    """

    occurrences: tuple[Occurrence, ...]
    conditions: tuple[sa.ColumnElement[bool], ...]


@dataclass(frozen=True, slots=True)
class Ordered:
    """One element of ORDER BY: a column, perhaps descending.

    Attributes:
        element: the element, over the column of the occurrence's alias.
        original: the element as the query has it.
    """

    occurrence: Occurrence
    name: str
    element: Any
    original: Any

    def over(self, column: Any) -> Any:
        """The element over another column."""
        own = self.occurrence.column(self.name)
        return with_columns(self.element, lambda each: column if each is own else None)


class Derivation:
    """The properties that are derived from a SELECT.

    Arguments:
        select: the query.
        key: names of its columns that identify a row.
        where: names of its columns that ``where()`` may use.
        affects: tables without a condition that leads from their rows to rows of the query. Any
            change of one of them may affect every row.

    Attributes:
        select: the query without the ORM, its order and its limit.
        names: the names of its columns.
        key, filters: the columns with these names, as occurrence and column name.
        core: the inner-joined tables, which every row of the query has.
        ways: one way from each occurrence of a table.
        tables: each table once.
        links: for each table the columns whose change may add, remove or move rows of the query.
        certain: whether the links alone decide which rows exist. If not, as with NOT EXISTS or
            HAVING, a client may be sent a removal of a row that it never had.
        limit: how many first rows the query keeps for each value of the filters; None for all.
        order: the columns of the core that order these rows. The key orders rows that are equal.

    Raises DeclarationError.
    """

    def __init__(
        self,
        select: sa.Select[*tuple[Any, ...]],
        key: Sequence[str],
        where: Sequence[str] = (),
        affects: Collection[sa.Table] = (),
    ) -> None:
        for argument, names in {"key": key, "where": where}.items():
            if isinstance(names, str):
                raise DeclarationError(
                    f"{argument}={names!r} is one name; give a list: [{names!r}]"
                )
        if not isinstance(select, sa.Select):
            raise DeclarationError(
                f"a live query takes a select(), not {type(select).__name__}; of a UNION declare "
                "one live query for each SELECT"
            )
        if not key:
            raise DeclarationError("key= must name at least one column of the query")
        self.limit = limit_of(select)
        ordered = difference(select, select.order_by(None)) if self.limit is not None else []
        self.select = plain(select.order_by(None).limit(None))
        self._distinct = self.select.compare(self.select.distinct())
        self.names = self.select.selected_columns.keys()
        self._scopes = Scopes(self.select)
        self.key = {name: self._plain(name, "key") for name in dict.fromkeys(key)}
        self.filters = {name: self._plain(name, "where") for name in dict.fromkeys(where)}
        for name, column in self.key.items():
            _check_key(name, column)
        self._check_grouping()
        self._check_unique()
        self._affects = frozenset(affects)
        self.core = self._way(self._scopes.root)
        self.ways = {one: self._way(one.scope) for one in self._scopes.occurrences}
        self.tables = list(dict.fromkeys(one.table for one in self._scopes.occurrences))
        unread = self._affects - set(self.tables)
        if unread:
            raise DeclarationError(
                f"affects= names {', '.join(sorted(t.name for t in unread))}, which the query does "
                "not read"
            )
        self.order = [self._ordered(element) for element in ordered]
        self.links = self._links()
        root = self._scopes.root
        unusable = [each for each in root.conditions if not self._usable(each, root)]
        self.certain = not self._group and not unusable
        if self.limit is not None:
            self._check_limited(unusable)

    def _plain(self, name: str, argument: str) -> Column:
        if name not in self.names:
            raise DeclarationError(
                f"{argument}= names {name!r}, which the query does not select; "
                f"it selects {', '.join(self.names)}"
            )
        found = self._scopes.column(self.select.selected_columns[name])
        if found is None:
            raise DeclarationError(
                f"{argument}= names {name!r}, which is an expression: use a column of a table, and "
                "select it too"
            )
        occurrence, _ = found
        if occurrence.scope is not self._scopes.root:
            raise DeclarationError(
                f"{argument}= names {name!r}, a column of {occurrence.table.name!r}, which is in "
                f"{occurrence.scope.clause} and may be missing: use a column of an inner-joined "
                "table"
            )
        return found

    @property
    def compared(self) -> dict[str, Any]:
        """The columns, by name, whose values the database compares with one another."""
        selected = self.select.selected_columns
        return {n: selected[n] for n in (self.names if self._distinct else self.filters)}

    def filter_of(self, column: Any) -> str:
        """The name of a column in ``where=``. Raises DeclarationError if it is not there."""
        found = self._scopes.column(column)
        for name, known in self.filters.items():
            if known == found:
                return name
        raise DeclarationError(
            f"{column} is not among the columns that the live query can be filtered by: name it "
            f"in where=; there is {', '.join(self.filters) or 'none'}"
        )

    # The key is unique

    def _check_grouping(self) -> None:
        grouped: set[Column] = set()
        for element in difference(self.select, self.select.group_by(None)):
            column = self._scopes.column(element) if isinstance(element, sa.ColumnElement) else None
            if column is None:
                raise DeclarationError(
                    f"group_by({element}) cannot be derived: group by columns of tables"
                )
            grouped.add(column)
        self._group = grouped
        if not grouped:
            for element in self.select.selected_columns:
                if has_aggregate(element):
                    raise DeclarationError(
                        f"{element} is an aggregate without group_by(): group by the key"
                    )
            return
        follow = closure(self._scopes, grouped)
        for name, column in {**self.key, **self.filters}.items():
            if column not in follow:
                raise DeclarationError(
                    f"{name!r} is not grouped by: add it to group_by(), so that it is the same for "
                    "all rows of a group"
                )
        for name, column in self.key.items():
            if column not in grouped:
                raise DeclarationError(f"the key {name!r} is not grouped by: add it to group_by()")

    def _check_unique(self) -> None:
        known = closure(self._scopes, self.key.values())
        if self._group or self._distinct:
            for name, (occurrence, real) in self.key.items():
                check_shown(name, column_of(occurrence.table, real))
        names = ", ".join(self.key)
        if self._group:
            for occurrence, name in self._group - known:
                raise DeclarationError(
                    f"the key {names} is not unique: rows are grouped by "
                    f"{occurrence.table.name}.{name} too; add it to key="
                )
            return
        if self._distinct:
            for name, element in self.select.selected_columns.items():
                column = self._scopes.column(element)
                if column is None or column not in known:
                    raise DeclarationError(
                        f"the key {names} is not unique: DISTINCT keeps a row for each value of "
                        f"{name!r}; add it to key="
                    )
            return
        for occurrence in self._scopes.names.found.values():
            if not determined(occurrence, known):
                raise DeclarationError(
                    f"the key {names} is not unique: it may be joined with several rows of "
                    f"{occurrence.table.name!r}; add that table's primary key to key=, or group_by "
                    "the key"
                )

    # Ways

    def _way(self, scope: Scope) -> Way:
        scopes = scope.closure() | {self._scopes.root}
        inside = [one for one in self._scopes.occurrences if one.scope in scopes]
        used = [
            condition
            for one in self._scopes.every
            if one in scopes
            for condition in one.conditions
            if self._usable(condition, one)
        ]
        self._check_joined(inside, used)
        expressions = [one.expression for one in used if one.expression is not None]
        return Way(tuple(inside), tuple(expressions))

    def _usable(self, condition: Condition, scope: Scope) -> bool:
        """Whether a condition of a scope leads from row to row: it has no sub-query."""
        within = scope.closure()
        return condition.expression is not None and all(
            occurrence.scope in within for occurrence in condition.occurrences
        )

    def _check_joined(self, inside: list[Occurrence], used: list[Condition]) -> None:
        """Raises for a table that no condition leads to, unless ``affects`` says what that means.

        Without a condition any change of it is taken to affect every row.
        """
        groups: list[set[Occurrence]] = [{one} for one in inside]
        for condition in used:
            met = [group for group in groups if group & condition.occurrences]
            if len(met) > 1:
                groups = [group for group in groups if group not in met]
                groups.append(set().union(*met))
        anchors = {occurrence for occurrence, _ in self.key.values()}
        for group in groups:
            if group & anchors or any(one.table in self._affects for one in group):
                continue
            first = min(group, key=lambda one: one.label)
            raise DeclarationError(
                f"no condition leads from {first.table.name!r} in {first.scope.clause} to the key: "
                "join it by a condition, or, if any change of it may affect every row, say so with "
                f"affects=[{first.table.name}]"
            )
        if sum(1 for group in groups if group & anchors) > 1 and not any(
            one.table in self._affects for one in inside
        ):
            names = ", ".join(sorted({one.table.name for one in inside}))
            raise DeclarationError(
                f"{names} are joined without a condition: join them by one, or name one of them in "
                "affects="
            )

    def _ordered(self, element: Any) -> Ordered:
        base = element
        while isinstance(base, (sa.UnaryExpression, sa.sql.elements.Grouping)):
            base = base.element
        column = self._scopes.column(base)
        if column is None or column[0].scope is not self._scopes.root:
            raise DeclarationError(
                f"with LIMIT a query is ordered by plain columns of inner-joined tables, not by "
                f"{element}: store it in a column, or use one that is there"
            )
        return Ordered(*column, renamed(element, self._scopes.names), element)

    def _check_limited(self, unusable: list[Condition]) -> None:
        if self._group or self._distinct:
            raise DeclarationError(
                "LIMIT with group_by() or distinct() cannot be derived: use a correlated scalar "
                "sub-query for each aggregate"
            )
        for name, (occurrence, real) in self.filters.items():
            check_exact(name, column_of(occurrence.table, real))
        for condition in unusable:
            raise DeclarationError(
                f"LIMIT with the condition {condition.original} cannot be derived: use conditions "
                "on plain columns of inner-joined tables"
            )

    def _links(self) -> dict[sa.Table, tuple[str, ...]]:
        found: dict[sa.Table, set[str]] = {table: set() for table in self.tables}
        for scope in self._scopes.every:
            for condition in scope.conditions:
                if self._usable(condition, scope):
                    for occurrence, name in condition.columns:
                        found[occurrence.table].add(name)
        sorted_by = [(one.occurrence, one.name) for one in self.order]
        for occurrence, name in (*self.key.values(), *self.filters.values(), *sorted_by):
            found[occurrence.table].add(name)
        for table, names in found.items():
            if not names:  # any change of it affects every row
                names.update(column.name for column in table.primary_key)
            for name in sorted(names):
                _check_link(table, name)
        return {table: tuple(sorted(names)) for table, names in found.items()}


def _check_key(name: str, column: Column) -> None:
    occurrence, real = column
    found = column_of(occurrence.table, real)
    if found.nullable:
        raise DeclarationError(
            f"key= names {name!r}, a column that may be NULL: use one that is not, such as the "
            "primary key of the table that it refers to, which is joined"
        )
    kind = stored_type(found.type)
    if not isinstance(kind, _ORDERED) or isinstance(kind, CITEXT):
        raise DeclarationError(
            f"key= names {name!r} of type {found.type!r}: a key is of integers, texts, enums, "
            "UUIDs, dates or date-times; store it as one of these too, such as a text"
        )


def _check_link(table: sa.Table, name: str) -> None:
    column = column_of(table, name)
    if column.computed is not None:
        raise DeclarationError(
            f"{table.name}.{name} is a generated column, which a trigger cannot see: use the "
            "columns that it is computed from"
        )
    if isinstance(stored_type(column.type), HSTORE):
        raise DeclarationError(
            f"{table.name}.{name} is an HSTORE, whose former values cannot be kept: use JSONB, or "
            "a column of its own for the part that is wanted"
        )


def column_of(table: sa.Table, name: str) -> sa.Column[Any]:
    """The column of this name in the database."""
    for column in table.columns:
        if column.name == name:
            return column
    raise DeclarationError(f"table {table.name!r} has no column {name!r}")

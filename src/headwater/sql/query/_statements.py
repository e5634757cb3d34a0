"""The statements that follow a live query, made from its derivation."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, TypeAlias

import sqlalchemy as sa

from headwater.feeds._source import EVERYTHING, Filter
from headwater.sql._expressions import Column, Condition, Shape, bare, unbounded
from headwater.sql._filters import Filters
from headwater.sql._judging import Question, shape_column
from headwater.sql._statements import COUNT
from headwater.sql._tracking import CHANGE, SINCE
from headwater.sql._values import stored_type
from headwater.sql.query._derivation import Derivation, Way, column_of
from headwater.sql.query._moments import Moments
from headwater.sql.query._pieces import Occurrence, with_columns

Query: TypeAlias = "sa.Select[Any]"
Columns: TypeAlias = "Mapping[Occurrence, Any]"
Questioned: TypeAlias = "tuple[Question, ...]"
# What is selected of a way over these columns.
Pick: TypeAlias = "Callable[[Way, Columns], Query]"

# Keys that are looked up at once: a change that reaches a hundred thousand is read in parts.
KEYS = 20_000
# With more branches, each table is read as it was by one sub-query with both kinds of rows.
_MOST_BRANCHES = 48
_KEPT = 256


class Statements:
    """Writes the statements of one query. Those of one form are made once.

    Attributes:
        kinds: how each column of the key is read.
    """

    def __init__(
        self, derivation: Derivation, moments: Moments, names: dict[sa.Table, str]
    ) -> None:
        self._derivation = derivation
        self._moments = moments
        self._names = names
        self._key = list(derivation.key.values())
        self.kinds = [
            moments.raw(stored_type(column_of(one.table, name).type)) for one, name in self._key
        ]
        self.affected = lru_cache(_KEPT)(self._affected)
        self.holders = lru_cache(_KEPT)(self._holders)
        self.rows = lru_cache(_KEPT)(self._rows)
        self.newest = lru_cache(_KEPT)(self._newest)
        self.oldest = lru_cache(_KEPT)(self._oldest)
        self.beyond_count = lru_cache(_KEPT)(self._beyond_count)
        self.touched = lru_cache(_KEPT)(self._touched)
        self.first = lru_cache(_KEPT)(self._first)
        self.first_held = lru_cache(_KEPT)(self._first_held)

    # What may have changed

    def _affected(
        self,
        changed: frozenset[sa.Table],
        gone: frozenset[sa.Table],
        form: Filter = EVERYTHING,
        low: bool = False,
        high: bool = False,
        among: bool = False,
    ) -> sa.Select[Any]:
        """The keys, ascending, that a change since the snapshot leads to.

        Arguments:
            changed: the tables with rows that changed.
            gone: those with rows that are gone.
            form: only keys that match such a filter then or now.
            low, high: only keys above ``low_0``… and up to ``high_0``….
            among: only keys of ``keys``.
        """
        pick = partial(self._keys, form=form, low=low, high=high, among=among)
        branches = [*self._now(changed, pick), *self._then(gone, pick)]
        if len(branches) == 1:
            # DISTINCT would make SQLite go through the query's tables in the order of the keys.
            nothing = [
                sa.cast(sa.null(), kind).label(f"key_{at}") for at, kind in enumerate(self.kinds)
            ]
            branches.append(sa.select(*nothing).where(sa.false()))
        every = sa.union(*branches).subquery("affected")
        keys = [every.c[f"key_{at}"] for at in range(len(self._key))]
        return sa.select(*keys).order_by(*map(self._sorted, keys)).limit(KEYS)

    def _touched(
        self, changed: frozenset[sa.Table], gone: frozenset[sa.Table]
    ) -> sa.CompoundSelect[Any]:
        """The values of the filters of keys that a change leads to, then or now."""
        branches = [*self._now(changed, self._filters), *self._then(gone, self._filters)]
        if len(branches) == 1:
            branches *= 2
        return sa.union(*branches)

    def _now(self, changed: frozenset[sa.Table], pick: Pick) -> list[Query]:
        return [
            pick(way, self._past(way, ())).where(
                self._moments.lacks(start.column(CHANGE), self._names[start.table])
            )
            for start, way in self._derivation.ways.items()
            if start.table in changed
        ]

    def _then(self, gone: frozenset[sa.Table], pick: Pick) -> list[Query]:
        wanted: dict[tuple[frozenset[Occurrence], frozenset[Occurrence]], Way] = {}
        for start, way in self._derivation.ways.items():
            if start.table in gone:
                others = [o for o in way.occurrences if o.table in gone and o is not start]
                if 2 ** len(others) > _MOST_BRANCHES:
                    return self._then_at_once(gone, pick)
                for some in _subsets(others):
                    wanted[frozenset(way.occurrences), frozenset({start, *some})] = way
        if len(wanted) > _MOST_BRANCHES:
            return self._then_at_once(gone, pick)
        return [
            pick(way, self._past(way, some)).where(*self._had(way, some))
            for (_, some), way in wanted.items()
        ]

    def _then_at_once(self, gone: frozenset[sa.Table], pick: Pick) -> list[Query]:
        return [
            pick(
                way,
                {
                    one: self._gone(one) if one is start else self._either(one, gone)
                    for one in way.occurrences
                },
            )
            for start, way in self._derivation.ways.items()
            if start.table in gone
        ]

    def _filters(self, way: Way, columns: Columns) -> Query:
        return self._joined(way, columns).with_only_columns(*self._labelled_filters(columns))

    def _keys(
        self, way: Way, columns: Columns, *, form: Filter, low: bool, high: bool, among: bool
    ) -> Query:
        keys = self._keys_over(columns)
        # In a UNION a collation may take two keys for equal.
        apart = [self._sorted(key).label(f"key_{at}") for at, key in enumerate(keys)]
        matches = Filters(self._filters_over(columns)).matches(form)
        query = self._joined(way, columns).with_only_columns(*apart)
        query = query.where(matches, *self._between(keys, low, high))
        return query.where(self._among(keys)) if among else query

    # Clients that may have had it

    def _holders(
        self, gone: frozenset[sa.Table], asked: Questioned = ()
    ) -> sa.CompoundSelect[Any] | Query:
        """Keys of ``keys``, each with the values of the filters that it had in the snapshot.

        ``asked``: what the database shall judge of these values.
        """
        found = [self._held(columns, asked=asked).where(*had) for columns, had in self._cores(gone)]
        return sa.union(*found) if len(found) > 1 else found[0].distinct()

    def _cores(self, gone: frozenset[sa.Table]) -> Iterator[tuple[Columns, list[Condition]]]:
        """The core as a client had it: with the rows that are gone, of some of its tables."""
        way = self._derivation.core
        among = [one for one in way.occurrences if one.table in gone]
        if 2 ** len(among) > _MOST_BRANCHES:
            yield {one: self._either(one, gone) for one in way.occurrences}, []
            return
        for some in _subsets(among):
            yield self._past(way, some), self._had(way, set(some))

    def _held(self, columns: Columns, *, among: bool = True, asked: Questioned = ()) -> Query:
        keys = self._keys_over(columns)
        apart = map(self._sorted, keys) if among else keys
        typed = [columns[one].c[name] for one, name in self._key]
        every = (
            *(key.label(f"key_{at}") for at, key in enumerate(apart)),
            *(key.label(f"held_{at}") for at, key in enumerate(typed)),
            *self._labelled_filters(columns),
            *self._answers(asked, self._filters_over(columns)),
        )
        query: Query = self._joined(self._derivation.core, columns).with_only_columns(*every)
        return query.where(self._among(keys)) if among else query

    # The rows as they are

    def _rows(self, form: Filter = EVERYTHING, asked: Questioned = ()) -> Query:
        """The query's rows with keys of ``keys``, each before its raw key.

        ``asked``: what the database shall judge of each; the answers stand before the key.
        """
        return self._own(form, asked).where(self._among(self._own_keys()))

    def _newest(self, form: Filter = EVERYTHING, below: bool = False) -> Query:
        """The last rows by key, descending, or those below ``low_0``…."""
        keys = self._own_keys()
        query = self._own(form)
        if below:
            query = query.where(self._compared(keys, operator.lt, "low"))
        return query.order_by(*(self._sorted(key).desc() for key in keys)).limit(COUNT)

    def _oldest(self, form: Filter, low: bool, high: bool, asked: Questioned = ()) -> Query:
        """The first rows by key, ascending, above ``low_0``… and up to ``high_0``…."""
        keys = self._own_keys()
        query = self._own(form, asked).where(*self._between(keys, low, high))
        return query.order_by(*map(self._sorted, keys)).limit(COUNT)

    def _beyond_count(self, form: Filter) -> Query:
        """A row if there are more than ``count``."""
        # Of a SELECT with DISTINCT or groups, the rows are what it selects.
        rows = self._own(form).offset(COUNT).limit(1)
        return sa.select(sa.literal(1)).select_from(rows.subquery("beyond"))

    # The first rows of a query with LIMIT

    def _first(self, form: Filter) -> Query:
        """The first rows, in order."""
        order = [one.original for one in self._derivation.order]
        query = self._own(form).order_by(*order, *self._own_keys())
        return query.limit(self._derivation.limit)

    def _first_held(self, gone: frozenset[sa.Table], form: Filter) -> Query:
        """The keys of the first rows in the snapshot, with their values by name and filters."""
        derivation, branches = self._derivation, []
        for columns, had in self._cores(gone):
            ordered = [columns[each.occurrence].c[each.name] for each in derivation.order]
            query = self._held(columns, among=False).add_columns(
                *(column.label(f"order_{at}") for at, column in enumerate(ordered))
            )
            order = [o.over(column) for o, column in zip(derivation.order, ordered, strict=True)]
            matches = Filters(self._filters_over(columns)).matches(form)
            query = query.where(*had, matches).order_by(*order, *self._keys_over(columns))
            branches.append(sa.select(query.limit(derivation.limit).subquery()))
        every = sa.union_all(*branches).subquery("held")
        order = [each.over(every.c[f"order_{at}"]) for at, each in enumerate(derivation.order)]
        keys = [every.c[f"key_{at}"] for at in range(len(self._key))]
        shown = [column for column in every.c if not column.name.startswith("order_")]
        return sa.select(*shown).order_by(*order, *keys).limit(derivation.limit)

    def _own(self, form: Filter, asked: Questioned = ()) -> Query:
        derivation = self._derivation
        selected = derivation.select.selected_columns
        filters = {name: _unbounded(bare(selected[name])) for name in derivation.filters}
        keys = map(self._sorted, self._own_keys())  # with DISTINCT what is ordered by is selected
        raw = [key.label(f"headwater_key_{at}") for at, key in enumerate(keys)]
        answers = self._answers(asked, filters)
        own = derivation.select.add_columns(*answers, *raw)
        return own.where(Filters(filters).matches(form))

    def _answers(self, asked: Questioned, columns: Mapping[str, Any]) -> list[Any]:
        """What the database judges of these values of the filters."""
        every, known = self._derivation.filters.values(), self._moments.types
        types = {
            column_of(one.table, name).type: known.get(self._names[one.table], {}).get(name)
            for one, name in every
        }
        return [
            shape_column(at, shape, Filters(columns).is_value, types).label(f"asked_{at}")
            for at, (_, shape) in enumerate(asked)
            if isinstance(shape, Shape)
        ]

    def _own_keys(self) -> list[Column]:
        selected = self._derivation.select.selected_columns
        return self._raw(bare(selected[name]) for name in self._derivation.key)

    # Pieces

    def _joined(self, way: Way, columns: Columns) -> Query:
        there = {one.alias: other for one, other in columns.items()}

        def moved(column: sa.ColumnClause[Any]) -> Any:
            return there[column.table].c[column.name] if column.table in there else None

        conditions = [with_columns(each, moved) for each in way.conditions]
        first, *others = (columns[one] for one in way.occurrences)
        joined: Any = first
        for other in others:
            # The conditions are in WHERE; with affects= there may be none.
            joined = sa.join(joined, other, sa.true())
        return sa.select(sa.literal(1)).select_from(joined).where(*conditions)

    def _past(self, way: Way, gone: Any) -> dict[Occurrence, Any]:
        """The occurrences, of these the rows that are gone."""
        return {one: self._gone(one) if one in gone else one.alias for one in way.occurrences}

    def _had(self, way: Way, gone: Any) -> list[Condition]:
        """Of the others the rows with the links of now."""
        return [
            self._moments.had(one.column(SINCE), self._names[one.table])
            for one in way.occurrences
            if one not in gone
        ]

    def _gone(self, one: Occurrence) -> sa.FromClause:
        return self._former(one.table).subquery(f"f{one.label}")

    def _either(self, one: Occurrence, gone: frozenset[sa.Table]) -> sa.FromClause:
        """All rows of a table with the links that the client had."""
        here = sa.select(*map(one.column, self._derivation.links[one.table])).where(
            self._moments.had(one.column(SINCE), self._names[one.table])
        )
        every = sa.union_all(here, self._former(one.table)) if one.table in gone else here
        return every.subquery(f"p{one.label}")

    def _former(self, table: sa.Table) -> Query:
        links = {name: column_of(table, name).type for name in self._derivation.links[table]}
        return self._moments.former(self._names[table], links)

    def _filters_over(self, columns: Columns) -> dict[str, Any]:
        filters = self._derivation.filters
        return {name: _unbounded(columns[one].c[column]) for name, (one, column) in filters.items()}

    def _labelled_filters(self, columns: Columns) -> list[Any]:
        filters = self._filters_over(columns).values()
        return [column.label(f"filter_{at}") for at, column in enumerate(filters)]

    def _keys_over(self, columns: Columns) -> list[Column]:
        return self._raw(columns[one].c[name] for one, name in self._key)

    def _raw(self, keys: Iterable[Any]) -> list[Column]:
        return [self._moments.plain(*pair) for pair in zip(keys, self.kinds, strict=True)]

    def _sorted(self, column: Column) -> Column:
        return self._moments.ordered(column) if isinstance(column.type, sa.String) else column

    def _between(self, keys: Sequence[Column], low: bool, high: bool) -> list[Condition]:
        """The conditions that keys are above ``low_0``… and up to ``high_0``…."""
        above = [self._compared(keys, operator.gt, "low")] if low else []
        return [*above, self._compared(keys, operator.le, "high")] if high else above

    def _compared(self, keys: Sequence[Column], compare: Any, name: str) -> Condition:
        bounds = (sa.bindparam(f"{name}_{at}", type_=kind) for at, kind in enumerate(self.kinds))
        compared: Condition = compare(sa.tuple_(*map(self._sorted, keys)), sa.tuple_(*bounds))
        return compared

    def _among(self, keys: Sequence[Column]) -> Condition:
        if len(keys) == 1:
            return keys[0].in_(sa.bindparam("keys", expanding=True, type_=self.kinds[0]))
        return sa.tuple_(*keys, types=self.kinds).in_(sa.bindparam("keys", expanding=True))


def _unbounded(column: Column) -> Column:
    """The column, for a comparison with a value that is sent as it is."""
    return sa.type_coerce(column, unbounded(column.type))


def _subsets(every: Sequence[Occurrence]) -> Iterator[tuple[Occurrence, ...]]:
    for size in range(len(every) + 1):
        yield from itertools.combinations(every, size)

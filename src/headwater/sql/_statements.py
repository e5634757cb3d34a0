"""The form of the statements that read a tracked table. Each page is one statement: one snapshot.

``picked`` finds the wanted changes, from indexes alone. The table's row of ``headwater_tables`` is
joined to it: epoch, head and floor are of the same snapshot, and come even when nothing is picked.
Then rows and removals are fetched. Each kind of database has its own order of changes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from headwater.feeds._source import EVERYTHING, Filter, Window
from headwater.sql._expressions import Column, Condition
from headwater.sql._filters import (
    CACHED,
    Asked,
    Filters,
    Query,
    ShapeSlot,
    form_of,
)
from headwater.sql._judging import NO_QUESTIONS, Questions, question_columns
from headwater.sql._model import TableModel
from headwater.sql._tracking import REMOVALS
from headwater.sql._unreadable import RAW, raw, raw_keys
from headwater.sql._wanted import Lack, Selection, Wanted

# The kinds of changes: a row that left the window by time, a removal, a row.
LEFT, GONE, ROW = -1, 0, 1

COUNT = sa.bindparam("count", type_=sa.Integer)


class Statements(ABC):
    """Writes the statements of one table.

    Attributes:
        order: the columns of a row that order its change.
        old_order: those of the change of the row that a removal removed.
        complete: the condition for rows whose changes are sent.
        removal_order, removal_complete: the same of removals.
        since_began: the condition for rows that changed since a client, which is sent all items,
            had none.
        removed_later: the condition for removals from after the read of what left the window.
        values: what is shown of a row.

    Arguments:
        judged: the attributes that the database compares in its own way.
        keys_only: show keys and what removals keep as they are stored, and no other values: one of
            them cannot be read.
    """

    dialect: str
    order: Sequence[Column]
    old_order: Sequence[Column]
    complete: Condition
    removal_order: Sequence[Column]
    removal_complete: Condition
    since_began: Condition
    removed_later: Condition

    def __init__(
        self, model: TableModel, judged: Collection[str], *, keys_only: bool = False
    ) -> None:
        self.model = model
        self._keys_only = keys_only
        self.values = raw_keys(model, self.dialect) if keys_only else [*model.columns.values()]
        self._judged = judged
        self.filters = Filters(model.columns)
        self.keys = [model.columns[name] for name in model.key]
        # Filters of one form share their statements, whatever their values.
        self._newest = lru_cache(CACHED)(self._build_newest)
        self._after = lru_cache(CACHED)(self.build_after)

    def newest(self, wanted: Wanted, count: int, before: Any) -> Asked:
        """The newest rows, or the newest before a place."""
        form, known = self._form_of(wanted)
        kind, values = self.before(before)
        selected = Selection(form, wanted.column, self.model.window)
        return self._newest(selected, kind), {"count": count, **known, **values}

    def after(
        self, wanted: Wanted, count: int, place: Any, questions: Questions = NO_QUESTIONS
    ) -> Asked:
        """What a client at a place lacks, in the order in which it is sent."""
        form, known = self._form_of(wanted)
        lack, values = self.lacking(place, wanted.window)
        selected = Selection(form, wanted.column, self.model.window, questions.form)
        known |= {"count": count, **questions.parameters}
        return self._after(selected, lack), {**known, **values}

    def members(self, wanted: Wanted, column: str) -> Asked:
        """The key columns and the moment of each row in the window over this column."""
        form, known = self._form_of(wanted)
        keys = self.raw_columns(self.keys)
        query = sa.select(*keys, self.shown_moment(self.moment(column))).where(
            self.filters.matches(form), self.complete, *self._inside(column)
        )
        return query, known

    def shown(self, column: Column) -> Column:
        """A column as it is read."""
        return raw(column, self.dialect) if self._keys_only else column

    def raw_columns(self, columns: Sequence[Column]) -> list[Column]:
        """Columns as they are read, which are raw with ``keys_only``."""
        return [self.shown(each).label(f"{RAW}{at}") for at, each in enumerate(columns)]

    def shown_moment(self, moment: Column) -> Column:
        """A moment as it is read."""
        return moment

    def beyond_count(self, wanted: Wanted, count: int) -> Asked:
        """A row if there are more than so many."""
        form, known = self._form_of(wanted)
        query = sa.select(sa.literal(1)).select_from(self.model.table)
        inside = self._inside(wanted.column)
        query = query.where(self.filters.matches(form), self.complete, *inside)
        return query.offset(COUNT).limit(1), {"count": count, **known}

    def build_after(self, selected: Selection, lack: Lack) -> Query:
        """As ``after``, without its parameters."""
        above, column = self.above(lack), selected.column
        if lack.walks and column is not None:
            # Of what left the window before, such a client has nothing.
            above = sa.and_(above, sa.or_(*self._inside(column), self.since_began))
        parts = [self._rows(selected.form, above, more=self.of_running(lack))]
        if self.model.tracking.keyed:
            parts += self.removals(self._removal(selected, lack), lack)
        if column is not None:
            parts.append(self._leavers(selected.form, column, lack))
        return self.whole(self._merged(parts), selected, self.model.tracking.keyed)

    @abstractmethod
    def before(self, place: Any) -> tuple[str, dict[str, Any]]:
        """The kind of a page that ends before a place, "" for the newest page; its parameters."""

    @abstractmethod
    def below(self, kind: str) -> Condition:
        """The condition for the rows of a page of this kind."""

    @abstractmethod
    def lacking(self, place: Any, window: Window | None) -> tuple[Lack, dict[str, Any]]:
        """How the changes after a place are found, and the parameters."""

    @abstractmethod
    def above(self, lack: Lack) -> Condition:
        """The condition for the rows after the place, in one range."""

    def of_running(self, lack: Lack) -> Callable[[Query], Sequence[Query]]:
        """Returns a function from a subquery of rows to those that find further rows."""
        return lambda _: ()

    @abstractmethod
    def removals(self, base: Query, lack: Lack) -> list[Query]:
        """The subqueries of the removals after the place, made from that of all removals."""

    @abstractmethod
    def has(self, order: Sequence[Column]) -> Condition:
        """Whether the client has the change with this order."""

    @abstractmethod
    def beyond(self, among: str, order: Sequence[Column], keys: Sequence[Column]) -> Condition:
        """Whether a row comes after those of the same moment that the client was sent."""

    @abstractmethod
    def row(self, kind: int, left: Column | None = None) -> Query:
        """The columns of each subquery: of a row, or of a removal."""

    @abstractmethod
    def sorting(self, every: sa.Subquery) -> list[Column]:
        """The columns by which changes are sent; what left a window comes first."""

    @abstractmethod
    def whole(self, picked: sa.Subquery, selected: Selection, removals: bool) -> Query:
        """Fetch what was picked, with the facts of the same moment."""

    @abstractmethod
    def moment(self, name: str) -> Column:
        """A date-time column as it is stored, whatever the model makes of it."""

    @abstractmethod
    def old(self, name: str) -> Column:
        """A column of a row that was removed, of the column's type."""

    @abstractmethod
    def old_moment(self, name: str) -> Column:
        """A date-time column of a row that was removed."""

    @abstractmethod
    def old_key(self, name: str) -> Column:
        """A column of the key of a row that was removed."""

    @abstractmethod
    def parameter(self, name: str, column: str) -> Column:
        """A moment to compare a column with."""

    def age(self, column: str | None) -> Column:
        """The date-time by which a table is trimmed; None stands for that of removals."""
        return REMOVALS.c.at if column is None else self.moment(column)

    @abstractmethod
    def stored(self, column: str | None, moment: datetime) -> Any:
        """A moment as the column stores it."""

    def last_left(self, selected: Selection) -> Column:
        """The moment of the last row of a selection that left its window."""
        if selected.column is None:
            return sa.null()
        moment = self.moment(selected.column)
        left = moment <= self.parameter("cutoff", selected.column)
        latest = self.shown_moment(sa.func.max(moment))
        query = sa.select(latest).where(self.filters.matches(selected.form), left)
        return query.scalar_subquery()

    def _build_newest(self, selected: Selection, kind: str) -> Query:
        complete = sa.and_(self.complete, self.below(kind), *self._inside(selected.column))
        rows = self._rows(selected.form, complete, descending=True)
        return self.whole(rows.subquery("headwater_picked"), selected, False)

    def _rows(
        self,
        form: Filter,
        condition: Condition,
        *,
        more: Callable[[Query], Sequence[Query]] | None = None,
        descending: bool = False,
    ) -> Query:
        order = [part.desc() if descending else part for part in self.order]
        rows = [self.row(ROW).where(*each) for each in self.filters.conjunctions(form)]
        found = [one.where(condition).order_by(*order).limit(COUNT) for one in rows]
        if more is not None:
            found += [further for one in rows for further in more(one)]
        if len(found) == 1:
            return found[0]
        # A row may match several conjunctions: UNION removes equal rows.
        union = sa.union if len(rows) > 1 else sa.union_all
        every = union(*(sa.select(one.subquery()) for one in found)).subquery()
        sorting = [part.desc() if descending else part for part in self.sorting(every)]
        return sa.select(every).order_by(*sorting).limit(COUNT)

    def _merged(self, parts: Sequence[Query]) -> sa.Subquery:
        if len(parts) == 1:
            return parts[0].subquery("headwater_picked")
        every = sa.union_all(*(sa.select(part.subquery()) for part in parts)).subquery()
        return (
            sa.select(every)
            .order_by(*self.sorting(every))
            .limit(COUNT)
            .subquery("headwater_picked")
        )

    def _removal(self, selected: Selection, lack: Lack) -> Query:
        mine = REMOVALS.c.table_name == self.model.tracking.name
        matches = self.filters.matches_by(selected.form, self.old_is)
        found = self.row(GONE).where(mine, matches)
        column = selected.column
        if column is None or not lack.left:
            return found
        # The row may have left the client's window before it was removed.
        moment, edge = self.old_moment(column), self.parameter("edge", column)
        same: Condition = moment == edge
        if lack.among:
            keys = [self.old_key(name) for name in self.model.key]
            same = sa.and_(same, sa.not_(self.beyond(lack.among, self.old_order, keys)))
        left = sa.and_(self.has(self.old_order), sa.or_(moment < edge, same))
        if lack.as_of:
            # One that was removed before what left was read was not among it.
            left = sa.and_(left, self.removed_later)
        return found.where(sa.not_(sa.func.coalesce(left, sa.false())))

    def _leavers(self, form: Filter, column: str, lack: Lack) -> Query:
        """The rows that a client has, and that left its window after those it was sent."""
        moment, edge = self.moment(column), self.parameter("edge", column)
        found = self.row(LEFT, moment).where(
            self.filters.matches(form),
            self.has(self.order),
            moment <= self.parameter("cutoff", column),
        )
        if lack.left:
            later: Condition = moment > edge
            if lack.among:
                beyond = self.beyond(lack.among, self.order, self.keys)
                later = sa.or_(later, sa.and_(moment == edge, beyond))
            found = found.where(later)
        return found.order_by(moment, *self.order).limit(COUNT)

    def answers(self, selected: Selection, *, old: bool = False) -> list[Column]:
        """What the database compared with a row, or with the ``old`` row of a removal."""
        is_value = self.old_is if old else self.filters.is_value
        return question_columns(selected.questions, self.model, is_value, self.dialect)

    def old_is(self, name: str, slot: Any) -> Condition:
        """The condition that a row that was removed had a value."""
        if isinstance(slot, ShapeSlot):
            return self._over_old(slot.shape.names, slot.over)
        old, value = self.old(name), self.filters.value(name, slot)
        if slot is None:
            return old.is_(None)
        if name not in self._judged:
            return sa.and_(old == value)
        return self._over_old([name], lambda columns: columns[name] == value)

    def _over_old(
        self, names: Collection[str], condition: Callable[[Mapping[str, Column]], Condition]
    ) -> Condition:
        """A condition over columns of a row that was removed, as the table would compare them."""
        if not names:
            return condition({})
        # A column of a union compares as its first part does: with its collation, as its type.
        kinds, names = self.model.table.alias("headwater_kind").c, sorted(names)
        as_stored = sa.union_all(
            sa.select(
                *(kinds[self.model.columns[each].key].label(f"old_{each}") for each in names)
            ).where(sa.false()),
            sa.select(*(self.old(each).label(f"old_{each}") for each in names)).correlate(REMOVALS),
        ).subquery("headwater_as_stored")
        columns = {each: as_stored.c[f"old_{each}"] for each in names}
        found = sa.select(1).select_from(as_stored).where(condition(columns))
        return sa.exists(found.correlate_except(as_stored))

    def _inside(self, column: str | None) -> list[Condition]:
        """The condition for rows in the window over this column; none without a window."""
        if column is None:
            return []
        return [self.moment(column) > self.parameter("cutoff", column)]

    def _form_of(self, wanted: Wanted) -> tuple[Filter, dict[str, Any]]:
        """The form of a filter, and the parameters of the filter and the window."""
        # The tail's own reads need no form.
        everything = wanted.filter == EVERYTHING
        form, values = (EVERYTHING, {}) if everything else form_of(wanted.filter)
        window = wanted.window
        if window is not None:
            values["cutoff"] = self.stored(window.column, wanted.now - window.length)
        return form, values

"""The statements that read a tracked table on SQLite. Each page is one statement: one snapshot.

All have one form. ``picked`` finds the numbers of the wanted changes, from indexes alone. The
table's row of ``headwater_tables`` is joined to it: epoch, head and floor are of the same snapshot,
and come even when nothing is picked. Then rows and removals are fetched by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from headwater.feeds.source import EVERYTHING, Filter, Window
from headwater.sql.filters import CACHED, Asked, Condition, Filters, Query, form_of
from headwater.sql.model import TableModel
from headwater.sql.sqlite.place import RowPlace, moment_text, text_of
from headwater.sql.sqlite.schema import label, trigger_name, triggers
from headwater.sql.tracking import CHANGE, REMOVALS, TABLES

__all__ = ["GONE", "LEFT", "PREFIX", "ROW", "Statements"]

# The kinds of changes: a row that left the window by time, a row, a removal.
LEFT, ROW, GONE = 0, 1, 2

# Columns before those of the model: epoch, last, floor, declared, number, kind, key, old, moment
# the moment of the last row that left the window, retiring.
PREFIX = 11

_NUMBER = sa.bindparam("number", type_=sa.BigInteger)
_COUNT = sa.bindparam("count", type_=sa.Integer)
_CUTOFF = sa.bindparam("cutoff", type_=sa.Text)  # moments up to it have left the window
_EDGE = sa.bindparam("edge", type_=sa.Text)  # leavers up to it were sent
_AMONG = sa.bindparam("among", type_=sa.BigInteger)


class Statements:
    """Writes the statements of one table."""

    def __init__(self, model: TableModel) -> None:
        self._model = model
        self._table = model.table
        self._number = model.number
        self._filters = Filters(model)
        # Filters of one form share their statements, whatever their values.
        self._newest = lru_cache(CACHED)(self._build_newest)
        self._after = lru_cache(CACHED)(self._build_after)

    def head(self) -> Query:
        """Epoch, last, floor, declaration, and how many of the table's triggers there are."""
        columns = ("type", "name", "tbl_name")
        found = sa.table("sqlite_master", *map(sa.column, columns)).c
        names = [trigger_name(self._model.name, one) for one in triggers(self._model.tracking)]
        present = (
            sa.select(sa.func.count())
            .where(
                found.type == "trigger",
                found.name.in_(names),
                # The triggers of a renamed table went with it.
                sa.func.lower(found.tbl_name) == self._model.name.lower(),
            )
            .scalar_subquery()
        )
        return sa.select(
            TABLES.c.epoch, TABLES.c.last, TABLES.c.floor, TABLES.c.declared, present
        ).where(TABLES.c.name == self._model.name)

    def newest(
        self, wanted: Filter, window: Window | None, now: datetime, count: int, below: int | None
    ) -> Asked:
        """The newest rows, or the newest below a number."""
        form, values = form_of(wanted)
        query = self._newest(form, _column(window), self._model.window, below is not None)
        return query, {**values, **_values(window, now), "number": below, "count": count}

    def after(
        self, wanted: Filter, window: Window | None, now: datetime, count: int, place: RowPlace
    ) -> Asked:
        """What happened after a place, in the order in which it is sent."""
        edge = None
        if window is not None and place.told is not None:
            edge = text_of(place.told - window.length)
        # The tail's own reads need no form.
        form, known = (wanted, {}) if wanted == EVERYTHING else form_of(wanted)
        query = self._after(
            form, _column(window), self._model.window, edge is not None, place.among is not None
        )
        among = place.number if place.among is None else place.among
        values = {"number": place.number, "count": count, "edge": edge, "among": among}
        return query, {**known, **_values(window, now), **values}

    def members(self, wanted: Filter, window: Window, now: datetime) -> Asked:
        """The key columns and the moment of each row in the window."""
        moment = self._moment(window.column)
        form, values = form_of(wanted)
        query = sa.select(*(self._model.columns[name] for name in self._model.key), moment).where(
            self._filters.matches(form), self._number > 0, moment > _CUTOFF
        )
        return query, {**values, **_values(window, now)}

    def _build_newest(
        self, wanted: Filter, column: str | None, shown: str | None, bounded: bool
    ) -> Query:
        number = self._number
        extra: list[Condition] = [number > 0]
        if bounded:
            extra.append(number < _NUMBER)
        if column is not None:
            extra.append(self._moment(column) > _CUTOFF)
        picked = self._rows(wanted, extra, descending=True).subquery("picked")
        return self._whole(picked, wanted, column, shown, removals=False)

    def _build_after(
        self, wanted: Filter, column: str | None, shown: str | None, told: bool, among: bool
    ) -> Query:
        parts = [self._rows(wanted, [self._number > _NUMBER])]
        if self._model.tracking.keyed:
            parts.append(self._removals(wanted, column if told else None))
        if column is not None:
            parts.append(self._leavers(wanted, column, told, among))
        if len(parts) == 1:
            picked = parts[0].subquery("picked")
        else:
            every = sa.union_all(*(sa.select(part.subquery()) for part in parts)).subquery()
            columns = every.c
            ordered = sa.select(every).order_by(columns.kind > LEFT, columns.left, columns.number)
            picked = ordered.limit(_COUNT).subquery("picked")
        return self._whole(picked, wanted, column, shown, removals=self._model.tracking.keyed)

    def _whole(
        self,
        picked: sa.Subquery,
        wanted: Filter,
        column: str | None,
        shown: str | None,
        *,
        removals: bool,
    ) -> Query:
        model, found = self._model, picked.c
        joined = TABLES.outerjoin(picked, sa.true()).outerjoin(
            self._table, sa.and_(found.kind != GONE, self._number == found.number)
        )
        if removals:
            joined = joined.outerjoin(
                REMOVALS,
                sa.and_(
                    found.kind == GONE,
                    REMOVALS.c.table_name == model.name,
                    REMOVALS.c.number == found.number,
                ),
            )
        moment: sa.ColumnElement[Any] = sa.null()
        last_left: sa.ColumnElement[Any] = sa.null()
        if shown is not None:
            moment = self._moment(shown)
        if column is not None:
            own = self._moment(column)
            last_left = (
                sa.select(sa.func.max(own))
                .where(self._filters.matches(wanted), own <= _CUTOFF)
                .scalar_subquery()
            )
        own_columns = (REMOVALS.c.key, REMOVALS.c.old) if removals else (sa.null(), sa.null())
        return (
            sa.select(
                TABLES.c.epoch,
                TABLES.c.last,
                TABLES.c.floor,
                TABLES.c.declared,
                found.number,
                found.kind,
                own_columns[0].label("headwater_key"),
                own_columns[1].label("headwater_old"),
                moment.label("headwater_moment"),
                last_left.label("headwater_last_left"),
                TABLES.c.retiring,
                *(each.label(f"headwater_{at}") for at, each in enumerate(model.columns.values())),
            )
            .select_from(joined)
            .where(TABLES.c.name == model.name)
            .order_by(found.kind > LEFT, found.left, found.number)
        )

    def _rows(
        self, wanted: Filter, extra: Sequence[Condition], *, descending: bool = False
    ) -> Query:
        order = self._number.desc() if descending else self._number.asc()

        def branch(*conditions: Condition) -> Query:
            return (
                sa.select(
                    self._number.label("number"),
                    sa.literal_column(str(ROW), sa.Integer).label("kind"),
                    sa.literal_column("NULL", sa.Text).label("left"),
                )
                .where(*conditions, *extra)
                .order_by(order)
                .limit(_COUNT)
            )

        every = [branch(*each) for each in self._filters.conjunctions(wanted)]
        if len(every) == 1:
            return every[0]
        # A row may match several of them: UNION removes equal rows, and numbers are unique.
        union = sa.union(*(sa.select(each.subquery()) for each in every)).subquery()
        number = union.c.number
        return sa.select(union).order_by(number.desc() if descending else number).limit(_COUNT)

    def _removals(self, wanted: Filter, told: str | None) -> Query:
        every = [
            sa.and_(
                *(
                    sa.type_coerce(self._old(name), self._model.columns[name].type)
                    == self._filters.value(name, value)
                    for name, value in conjunction
                )
            )
            if conjunction
            else sa.true()
            for conjunction in wanted.any_of
        ]
        conditions: list[Condition] = [
            REMOVALS.c.table_name == self._model.name,
            REMOVALS.c.number > _NUMBER,
            sa.or_(sa.false(), *every),
        ]
        if told is not None:
            conditions.append(sa.not_(self._left_before(told)))
        return (
            sa.select(
                REMOVALS.c.number.label("number"),
                sa.literal_column(str(GONE), sa.Integer).label("kind"),
                sa.literal_column("NULL", sa.Text).label("left"),
            )
            .where(*conditions)
            .order_by(REMOVALS.c.number)
            .limit(_COUNT)
        )

    def _left_before(self, column: str) -> Condition:
        """The row had left the client's window before it was removed."""
        number = sa.func.json_extract(REMOVALS.c.old, f'$."{CHANGE}"', type_=sa.BigInteger)
        moment = moment_text(self._old(column))
        return sa.func.coalesce(
            sa.and_(
                number <= _NUMBER,
                sa.or_(moment < _EDGE, sa.and_(moment == _EDGE, number <= _AMONG)),
            ),
            sa.false(),
        )

    def _leavers(self, wanted: Filter, column: str, told: bool, among: bool) -> Query:
        moment = self._moment(column)
        conditions: list[Condition] = [
            self._filters.matches(wanted),
            self._number > 0,
            self._number <= _NUMBER,
            moment <= _CUTOFF,
        ]
        if told:
            later: Condition = moment > _EDGE
            if among:
                later = sa.or_(later, sa.and_(moment == _EDGE, self._number > _AMONG))
            conditions.append(later)
        return (
            sa.select(
                self._number.label("number"),
                sa.literal_column(str(LEFT), sa.Integer).label("kind"),
                moment.label("left"),
            )
            .where(*conditions)
            .order_by(moment, self._number)
            .limit(_COUNT)
        )

    def _moment(self, name: str) -> sa.ColumnElement[str]:
        return moment_text(sa.type_coerce(self._model.columns[name], sa.Text))

    def _old(self, name: str) -> sa.ColumnElement[Any]:
        path = f'$."{label(self._model.columns[name].name)}"'
        return sa.func.json_extract(REMOVALS.c.old, path, type_=sa.Text)


def _values(window: Window | None, now: datetime) -> dict[str, Any]:
    return {} if window is None else {"cutoff": text_of(now - window.length)}


def _column(window: Window | None) -> str | None:
    return None if window is None else window.column

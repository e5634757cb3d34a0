"""The statements that read a tracked table on PostgreSQL. Each page is one statement: one snapshot.

All have one form. ``picked`` finds the wanted changes by transaction and order, from indexes. The
table's registration is joined to it: epoch, floor and snapshot are of the same moment, and come
even when nothing is picked. Then rows and removals are fetched by key.

A client lacks changes of transactions that ran when its snapshot was taken, and of those from the
snapshot's xmax on. The statement looks up the first one by one; the second are one range.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from headwater.feeds.source import EVERYTHING, Filter, Window
from headwater.sql.filters import CACHED, Asked, Query, form_of
from headwater.sql.model import TableModel
from headwater.sql.postgresql.conditions import (
    below_values,
    bound,
    fact_columns,
    key_values,
    place_values,
    top,
)
from headwater.sql.postgresql.place import GONE, SnapshotPlace
from headwater.sql.postgresql.subqueries import COUNT, LEFT, Subqueries, order_of
from headwater.sql.postgresql.triggers import qualified, trigger_name, triggers
from headwater.sql.tracking import REMOVALS, TABLES

__all__ = ["LEFT", "PICKED", "Statements"]

# Columns of a picked change, after the facts: transaction, kind, number, moment, older row's key.
PICKED = 5


class Statements:
    """Writes the statements of one table.

    Arguments:
        total: send only transactions below which none is running.
        control: the user may read the server's control file.
    """

    def __init__(self, model: TableModel, *, total: bool, control: bool) -> None:
        self._model = model
        self._total = total
        self._control = control
        self._subqueries = Subqueries(model, total=total)
        self._newest = lru_cache(CACHED)(self._build_newest)
        self._after = lru_cache(CACHED)(self._build_after)
        self._head = self._build_head()

    def head(self) -> Query:
        """The facts, the number of triggers, and whether rows are of future transactions."""
        return self._head

    def _build_head(self) -> Query:
        model, tracking = self._model, self._model.tracking
        names = [trigger_name(tracking, kind) for kind in triggers(tracking, "")]
        found = sa.table("pg_trigger", *map(sa.column, ("tgrelid", "tgname", "tgenabled"))).c
        table = qualified(tracking).replace("'", "''")
        present = (
            sa.select(sa.func.count())
            .where(
                found.tgrelid == sa.literal_column(f"'{table}'::regclass"),
                found.tgname.in_(names),
                found.tgenabled == "A",
            )
            .scalar_subquery()
        )
        beyond: sa.ColumnElement[int] = sa.literal_column("pg_snapshot_xmax(pg_current_snapshot())")
        latest = sa.select(model.number).order_by(model.number.desc(), model.order.desc()).limit(1)
        future = latest.scalar_subquery() >= beyond
        facts = fact_columns(model, total=self._total, control=self._control, first=None)
        return sa.select(*facts, sa.null(), present, future).where(TABLES.c.name == tracking.name)

    def newest(
        self,
        wanted: Filter,
        window: Window | None,
        now: datetime,
        count: int,
        before: SnapshotPlace | None,
    ) -> Asked:
        """The newest rows, or the newest before a place."""
        form, known = form_of(wanted)
        values = {"count": count, **known, **self._cutoff(window, now)}
        kind = ""
        if before is not None:
            at = before.below
            values |= below_values(at, before.snapshot.xmax)
            kind = ("past" if before.past else "before") + (" key" if at and at.key else "")
        query = self._newest(form, _column(window), self._model.window, kind)
        return query, values

    def after(
        self, wanted: Filter, window: Window | None, now: datetime, count: int, place: SnapshotPlace
    ) -> Asked:
        """What a client at a place lacks, in the order in which it is sent."""
        # The tail's own reads need no form.
        form, known = (wanted, {}) if wanted == EVERYTHING else form_of(wanted)
        values = {"count": count, **known, **self._cutoff(window, now), **place_values(place)}
        told, among = window is not None and place.told is not None, ""
        if window is not None and place.told is not None:
            values["edge"] = self._subqueries.stored(window.column, place.told - window.length)
            if place.among is not None:
                among = "key" if place.among.key else "number"
                values["among_xid"] = str(place.among.xid)
                values["among_number"] = place.among.number
                values |= key_values(place.among, "among_key")
        query = self._after(
            form,
            _column(window),
            self._model.window,
            bool(place.snapshot.running),
            top(place) is not None,
            told,
            among,
        )
        return query, values

    def members(self, wanted: Filter, window: Window, now: datetime) -> Asked:
        """The key columns and the moment of each row in the window."""
        subqueries = self._subqueries
        moment = subqueries.moment(window.column)
        form, known = form_of(wanted)
        query = sa.select(*subqueries.keys, moment).where(
            subqueries.filters.matches(form),
            self._model.number < bound(self._total),
            moment > subqueries.parameter("cutoff", window.column),
        )
        return query, {**known, **self._cutoff(window, now)}

    def _build_newest(
        self, wanted: Filter, column: str | None, shown: str | None, kind: str
    ) -> Query:
        picked = self._subqueries.newest(wanted, column, kind).subquery("picked")
        return self._whole(picked, wanted, column, shown, removals=False)

    def _build_after(
        self,
        wanted: Filter,
        column: str | None,
        shown: str | None,
        ran: bool,
        older: bool,
        told: bool,
        among: str,
    ) -> Query:
        subqueries, keyed = self._subqueries, self._model.tracking.keyed
        parts = [subqueries.rows(wanted, ran=ran, older=older)]
        if keyed:
            parts += subqueries.removals(wanted, column if told else None, ran=ran, among=among)
        if column is not None:
            parts.append(subqueries.leavers(wanted, column, told=told, among=among))
        picked = parts[0].subquery("picked")
        if len(parts) > 1:
            every = sa.union_all(*(sa.select(part.subquery()) for part in parts)).subquery()
            ordered = sa.select(every).order_by(*order_of(every)).limit(COUNT)
            picked = ordered.subquery("picked")
        return self._whole(picked, wanted, column, shown, removals=keyed)

    def _whole(
        self,
        picked: sa.Subquery,
        wanted: Filter,
        column: str | None,
        shown: str | None,
        *,
        removals: bool,
    ) -> Query:
        model, subqueries = self._model, self._subqueries
        ranked = sa.select(
            picked, sa.func.row_number().over(order_by=order_of(picked)).label("nth")
        ).subquery("ranked")
        found = ranked.c
        keys = [found[f"key_{at}"] for at in range(len(subqueries.keys))]
        # A limit in each look-up keeps PostgreSQL from a plan that reads the whole table.
        stored = [
            column.label(f"headwater_{at}") for at, column in enumerate(model.columns.values())
        ]
        if shown is not None:
            stored.append(subqueries.moment(shown).label("headwater_own_moment"))
        same = (own == key for own, key in zip(subqueries.keys, keys, strict=True))
        row = sa.select(*stored).where(found.kind != GONE, *same).limit(1).lateral("stored")
        joined = TABLES.outerjoin(ranked, sa.true()).outerjoin(row, sa.true())
        moment: sa.ColumnElement[Any] = sa.null()
        left: sa.ColumnElement[Any] = sa.null()
        if shown is not None:
            moment = row.c.headwater_own_moment
        if column is not None:
            own = subqueries.moment(column)
            left = (
                sa.select(sa.func.max(own))
                .where(
                    subqueries.filters.matches(wanted),
                    own <= subqueries.parameter("cutoff", column),
                )
                .scalar_subquery()
            )
        gone: list[sa.ColumnElement[Any]] = []
        if removals:
            old = [subqueries.key(name) for name in model.key]
            old += [subqueries.old(name, model.columns[name].type) for name in model.kept]
            parts = [column.label(f"headwater_gone_{at}") for at, column in enumerate(old)]
            if shown is not None:
                parts.append(subqueries.old_moment(shown).label("headwater_own_moment"))
            removal = (
                sa.select(*parts)
                .where(
                    found.kind == GONE,
                    REMOVALS.c.table_name == model.tracking.name,
                    REMOVALS.c.number == found.number,
                )
                .limit(1)
                .lateral("removal")
            )
            joined = joined.outerjoin(removal, sa.true())
            gone = [removal.c[f"headwater_gone_{at}"] for at in range(len(old))]
            if shown is not None:
                moment = sa.func.coalesce(removal.c.headwater_own_moment, moment)
        older = sa.case(
            (
                sa.and_(found.kind != GONE, found.number == 0),
                sa.cast(sa.func.jsonb_build_array(*(sa.cast(k, sa.Text) for k in keys)), sa.Text),
            )
        )
        first = sa.func.coalesce(found.nth, 1) == 1
        facts = fact_columns(model, total=self._total, control=self._control, first=first)
        named = [
            left.label("headwater_left"),
            found.xid,
            found.kind,
            found.number,
            moment.label("headwater_moment"),
            older.label("headwater_older"),
            *gone,
            *(row.c[f"headwater_{at}"] for at in range(len(model.columns))),
        ]
        return (
            sa.select(*facts, *named)
            .select_from(joined)
            .where(TABLES.c.name == model.tracking.name)
            .order_by(found.nth)
        )

    def _cutoff(self, window: Window | None, now: datetime) -> dict[str, Any]:
        if window is None:
            return {}
        return {"cutoff": self._subqueries.stored(window.column, now - window.length)}


def _column(window: Window | None) -> str | None:
    return None if window is None else window.column

"""The subqueries of a statement: each finds one kind of changes through its own index."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from headwater.feeds.source import Filter
from headwater.sql.filters import Condition, Filters, Query
from headwater.sql.model import TableModel, date_time_type
from headwater.sql.postgresql.conditions import above, bound, client_has, running
from headwater.sql.postgresql.place import GONE, ROW
from headwater.sql.postgresql.types import as_xid
from headwater.sql.tracking import CHANGE, ORDER, REMOVALS

__all__ = ["COUNT", "LEFT", "Subqueries", "order_of"]

# The kind of a row that left the window by time: sent before everything else.
LEFT = -1

COUNT = sa.bindparam("count", type_=sa.Integer)


class Subqueries:
    """Writes the subqueries of one table. All have the columns of ``order_of`` and a limit."""

    def __init__(self, model: TableModel, *, total: bool) -> None:
        self._model = model
        self._total = total
        self.filters = Filters(model)
        self.keys = [model.columns[name] for name in model.key]

    def newest(self, wanted: Filter, column: str | None, kind: str) -> Query:
        """The newest rows; ``kind`` says whether those before a place, with it, with a key."""
        model = self._model
        extra: list[Condition] = [model.number < bound(self._total)]
        if kind:
            keys = self.keys if kind.endswith("key") else ()
            one, other = above(
                (model.number, model.order), "below_xid", "below_number", keys, "below_key"
            )
            extra.append(one <= other if kind.startswith("past") else one < other)
        if column is not None:
            extra.append(self.moment(column) > self.parameter("cutoff", column))
        down = [part.desc() for part in (model.number, model.order, *self.keys)]
        found = [
            self._row().where(*each, *extra).order_by(*down).limit(COUNT)
            for each in self.filters.conjunctions(wanted)
        ]
        if len(found) == 1:
            return found[0]
        # A row may match several of them: UNION removes equal rows.
        every = sa.union(*(sa.select(one.subquery()) for one in found)).subquery()
        return sa.select(every).order_by(*(part.desc() for part in order_of(every))).limit(COUNT)

    def rows(self, wanted: Filter, *, ran: bool, older: bool) -> Query:
        """The rows that a client lacks."""
        model, conjunctions = self._model, self.filters.conjunctions(wanted)
        keys = self.keys if older else ()
        one, other = above((model.number, model.order), "xmax", "row_least", keys, "top_key")
        found = [
            self._row()
            .where(*each, one > other, model.number < bound(self._total))
            .order_by(model.number, model.order, *self.keys)
            .limit(COUNT)
            for each in conjunctions
        ]
        if ran:
            pending = running("row_lows")
            found += [
                self._ran(pending, self._row().where(*each), model.number, model.order)
                for each in conjunctions
            ]
        if len(found) == 1:
            return found[0]
        parts = (sa.select(one.subquery()) for one in found)
        union = sa.union if len(conjunctions) > 1 else sa.union_all
        every = union(*parts).subquery()
        return sa.select(every).order_by(*order_of(every)).limit(COUNT)

    def removals(self, wanted: Filter, told: str | None, *, ran: bool, among: str) -> list[Query]:
        """The removals that a client lacks.

        ``told``: the column of a time window, if the client was sent some of what left it.
        """
        matches = [
            sa.and_(
                *(
                    self.old(name, self._model.columns[name].type) == self.filters.value(name, slot)
                    for name, slot in each
                )
            )
            if each
            else sa.true()
            for each in wanted.any_of
        ]
        base = self._gone().where(
            REMOVALS.c.table_name == self._model.tracking.name, sa.or_(sa.false(), *matches)
        )
        if told is not None:
            base = base.where(sa.not_(self._left_before(told, among)))
        one, other = above((REMOVALS.c.change, REMOVALS.c.number), "xmax", "gone_least")
        found = [
            base.where(one > other, REMOVALS.c.change < bound(self._total))
            .order_by(REMOVALS.c.change, REMOVALS.c.number)
            .limit(COUNT)
        ]
        if ran:
            pending = running("gone_lows")
            found.append(self._ran(pending, base, REMOVALS.c.change, REMOVALS.c.number))
        return found

    def leavers(self, wanted: Filter, column: str, *, told: bool, among: str) -> Query:
        """The rows that a client has, and that left its window after those it was sent."""
        model, moment = self._model, self.moment(column)
        conditions: list[Condition] = [
            self.filters.matches(wanted),
            client_has(model.number, model.order),
            moment <= self.parameter("cutoff", column),
        ]
        if told:
            edge = self.parameter("edge", column)
            later: Condition = moment > edge
            if among:
                one, other = self._among(among, (model.number, model.order), self.keys)
                later = sa.or_(later, sa.and_(moment == edge, one > other))
            conditions.append(later)
        return (
            self._row(LEFT, moment)
            .where(*conditions)
            .order_by(moment, model.number, model.order, *self.keys)
            .limit(COUNT)
        )

    def moment(self, name: str) -> sa.ColumnElement[Any]:
        """A date-time column as it is stored, whatever the model makes of it."""
        return sa.type_coerce(self._model.columns[name], self._moment_type(name))

    def old_moment(self, name: str) -> sa.ColumnElement[Any]:
        """The same of a row that was removed."""
        return self.old(name, self._moment_type(name))

    def old(self, name: str, kind: sa.types.TypeEngine[Any]) -> sa.ColumnElement[Any]:
        """A column of a row that was removed."""
        column = self._model.columns[name].name
        return sa.cast(_field(REMOVALS.c.old, column), kind)

    def key(self, name: str) -> sa.ColumnElement[Any]:
        """A column of the key of a row that was removed."""
        column = self._model.columns[name]
        return sa.cast(_field(REMOVALS.c.key, column.name), column.type)

    def parameter(self, name: str, column: str) -> sa.BindParameter[datetime]:
        """A moment to compare a column with."""
        return sa.bindparam(name, type_=self._moment_type(column))

    def stored(self, column: str, moment: datetime) -> datetime:
        """A moment as the column stores it: one without a time zone holds UTC."""
        moment = moment.astimezone(UTC)
        return moment if self._moment_type(column).timezone else moment.replace(tzinfo=None)

    def _moment_type(self, name: str) -> sa.DateTime:
        kind = date_time_type(self._model.columns[name])
        return sa.DateTime(timezone=kind is not None and bool(kind.timezone))

    def _row(self, kind: int = ROW, left: sa.ColumnElement[Any] | None = None) -> Query:
        model = self._model
        return self._columns(model.number, kind, model.order, left, self.keys)

    def _gone(self) -> Query:
        keys = [sa.cast(sa.null(), column.type) for column in self.keys]
        return self._columns(REMOVALS.c.change, GONE, REMOVALS.c.number, None, keys)

    def _columns(
        self,
        xid: sa.ColumnElement[int],
        kind: int,
        number: sa.ColumnElement[int],
        left: sa.ColumnElement[Any] | None,
        keys: Sequence[sa.ColumnElement[Any]],
    ) -> Query:
        window = self._model.window
        moment = sa.DateTime() if window is None else self._moment_type(window)
        return sa.select(
            xid.label("xid"),
            sa.literal_column(str(kind), sa.Integer).label("kind"),
            number.label("number"),
            (sa.cast(sa.null(), moment) if left is None else left).label("left"),
            *(column.label(f"key_{at}") for at, column in enumerate(keys)),
        )

    def _ran(
        self,
        pending: sa.Subquery,
        base: Query,
        xid: sa.ColumnElement[int],
        number: sa.ColumnElement[int],
    ) -> Query:
        """What a client lacks of the transactions that ran: one look-up for each, in order."""
        each = (
            base.where(xid == pending.c.xid, number > pending.c.low, xid < bound(self._total))
            .order_by(number)
            .limit(COUNT)
            .lateral()
        )
        return (
            sa.select(each)
            .select_from(pending.join(each, sa.true()))
            .order_by(pending.c.xid, each.c.number)
            .limit(COUNT)
        )

    def _left_before(self, column: str, among: str) -> Condition:
        """The row had left the client's window before it was removed."""
        xid = as_xid(_field(REMOVALS.c.old, CHANGE))
        number = sa.cast(_field(REMOVALS.c.old, ORDER), sa.BigInteger)
        moment, edge = self.old_moment(column), self.parameter("edge", column)
        same: Condition = moment == edge
        if among:
            keys = [self.key(name) for name in self._model.key]
            one, other = self._among(among, (xid, number), keys)
            same = sa.and_(same, one <= other)
        told = sa.and_(client_has(xid, number), sa.or_(moment < edge, same))
        return sa.func.coalesce(told, sa.false())

    def _among(
        self,
        among: str,
        columns: Sequence[sa.ColumnElement[Any]],
        keys: Sequence[sa.ColumnElement[Any]],
    ) -> tuple[sa.Tuple, sa.Tuple]:
        older = keys if among == "key" else ()
        return above(columns, "among_xid", "among_number", older, "among_key")


def order_of(every: sa.Subquery) -> list[sa.ColumnElement[Any]]:
    """The columns by which changes are sent; what left a window comes first."""
    columns = every.c
    keys = [column for name, column in columns.items() if name.startswith("key_")]
    return [columns.kind > LEFT, columns.left, columns.xid, columns.kind, columns.number, *keys]


def _field(json: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[str]:
    return sa.func.jsonb_extract_path_text(json, name, type_=sa.Text)

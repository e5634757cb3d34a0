"""The statements that read a tracked table on SQLite. Each page is one statement: one snapshot.

All have one form. ``picked`` finds the numbers of the changes that are wanted, from indexes alone;
the registry's row of the table is joined to it, so that epoch, head and floor are of the same
snapshot and arrive even when nothing is picked; then rows and removals are fetched by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

import sqlalchemy as sa

from headwater.feeds.source import Filter, Window
from headwater.sql.shape import Shape
from headwater.sql.sqlite.place import RowPlace
from headwater.sql.sqlite.schema import REMOVALS, TABLES, label, trigger_name, triggers
from headwater.sql.tracked import CHANGE

__all__ = ["GONE", "LEFT", "PREFIX", "ROW", "Query", "Statements", "moment_of", "text_of"]

# The kinds of what is picked: a row whose moment slipped out of the window, a row, a removal.
LEFT, ROW, GONE = 0, 1, 2

# Columns before those of the model: epoch, last, floor, declared, number, kind, key, old, moment
# and the moment of the last row that left the window.
PREFIX = 10

# Each of these branches uses its own index; of more, one scan in the order of changes is cheaper.
_MOST_BRANCHES = 16

# What a statement of this module is; its rows are read by position.
Query: TypeAlias = "sa.Select[*tuple[Any, ...]]"
Condition = sa.ColumnElement[bool]


class Statements:
    """Writes the statements of one table."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._table = shape.table
        self._number = shape.number

    def head(self) -> Query:
        """Epoch, last, floor, declaration, and how many of the table's triggers there are."""
        found = sa.table("sqlite_master", sa.column("type"), sa.column("name")).c
        names = [trigger_name(self._shape.name, one) for one in triggers(self._shape.tracking)]
        present = (
            sa.select(sa.func.count())
            .where(found.type == "trigger", found.name.in_(names))
            .scalar_subquery()
        )
        return sa.select(
            TABLES.c.epoch, TABLES.c.last, TABLES.c.floor, TABLES.c.declared, present
        ).where(TABLES.c.name == self._shape.name)

    def newest(
        self, wanted: Filter, window: Window | None, now: datetime, count: int, below: int | None
    ) -> Query:
        """The newest rows, or the newest below a number."""
        number = self._number
        extra: list[Condition] = [number > 0 if below is None else number < below]
        if below is not None:
            extra.append(number > 0)
        if window is not None:
            extra.append(self._moment(window.column) > text_of(now - window.length))
        picked = self._rows(wanted, extra, count, descending=True).subquery("picked")
        return self._whole(picked, wanted, window, now, removals=False)

    def after(
        self, wanted: Filter, window: Window | None, now: datetime, count: int, place: RowPlace
    ) -> Query:
        """What happened after a place, in the order in which it is told."""
        parts = [self._rows(wanted, [self._number > place.number], count)]
        if self._shape.tracking.keyed:
            parts.append(self._removals(wanted, window, count, place))
        if window is not None:
            parts.append(self._leavers(wanted, window, now, count, place))
        if len(parts) == 1:
            picked = parts[0].subquery("picked")
        else:
            every = sa.union_all(*(sa.select(part.subquery()) for part in parts)).subquery()
            columns = every.c
            ordered = sa.select(every).order_by(columns.kind > LEFT, columns.left, columns.number)
            picked = ordered.limit(count).subquery("picked")
        return self._whole(picked, wanted, window, now, removals=self._shape.tracking.keyed)

    def members(self, wanted: Filter, window: Window, now: datetime) -> Query:
        """The key columns and the moment of each row in the window."""
        moment = self._moment(window.column)
        return sa.select(*(self._shape.columns[name] for name in self._shape.key), moment).where(
            self._matches(wanted), self._number > 0, moment > text_of(now - window.length)
        )

    def _whole(
        self,
        picked: sa.Subquery,
        wanted: Filter,
        window: Window | None,
        now: datetime,
        *,
        removals: bool,
    ) -> Query:
        shape, found = self._shape, picked.c
        joined = TABLES.outerjoin(picked, sa.true()).outerjoin(
            self._table, sa.and_(found.kind != GONE, self._number == found.number)
        )
        if removals:
            joined = joined.outerjoin(
                REMOVALS,
                sa.and_(
                    found.kind == GONE,
                    REMOVALS.c.table_name == shape.name,
                    REMOVALS.c.number == found.number,
                ),
            )
        moment: sa.ColumnElement[Any] = sa.null()
        last_left: sa.ColumnElement[Any] = sa.null()
        if shape.window is not None:
            moment = self._moment(shape.window)
        if window is not None:
            own = self._moment(window.column)
            last_left = (
                sa.select(sa.func.max(own))
                .where(self._matches(wanted), own <= text_of(now - window.length))
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
                *(
                    column.label(f"headwater_{at}")
                    for at, column in enumerate(shape.columns.values())
                ),
            )
            .select_from(joined)
            .where(TABLES.c.name == shape.name)
            .order_by(found.kind > LEFT, found.left, found.number)
        )

    def _rows(
        self, wanted: Filter, extra: Sequence[Condition], count: int, *, descending: bool = False
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
                .limit(count)
            )

        every = [self._equal(conjunction) for conjunction in wanted.any_of]
        if len(every) == 1:
            return branch(*every[0])
        if not 1 < len(every) <= _MOST_BRANCHES:
            return branch(sa.or_(sa.false(), *(sa.and_(*each) for each in every)))
        # A row may match several of them: UNION leaves out what is equal, and numbers are unique.
        union = sa.union(*(sa.select(branch(*each).subquery()) for each in every)).subquery()
        number = union.c.number
        return sa.select(union).order_by(number.desc() if descending else number).limit(count)

    def _removals(
        self, wanted: Filter, window: Window | None, count: int, place: RowPlace
    ) -> Query:
        every = [
            sa.and_(
                *(
                    sa.type_coerce(self._old(name), self._shape.columns[name].type) == value
                    for name, value in conjunction
                )
            )
            if conjunction
            else sa.true()
            for conjunction in wanted.any_of
        ]
        conditions: list[Condition] = [
            REMOVALS.c.table_name == self._shape.name,
            REMOVALS.c.number > place.number,
            sa.or_(sa.false(), *every),
        ]
        if window is not None and place.told is not None:
            conditions.append(sa.not_(self._told_before(window, place)))
        return (
            sa.select(
                REMOVALS.c.number.label("number"),
                sa.literal_column(str(GONE), sa.Integer).label("kind"),
                sa.literal_column("NULL", sa.Text).label("left"),
            )
            .where(*conditions)
            .order_by(REMOVALS.c.number)
            .limit(count)
        )

    def _told_before(self, window: Window, place: RowPlace) -> Condition:
        """A row that the client had seen leave the window before it was removed."""
        assert place.told is not None
        number = sa.func.json_extract(REMOVALS.c.old, f'$."{CHANGE}"', type_=sa.BigInteger)
        moment = _normal(self._old(window.column))
        edge = text_of(place.told - window.length)
        among = place.number if place.among is None else place.among
        return sa.func.coalesce(
            sa.and_(
                number <= place.number,
                sa.or_(moment < edge, sa.and_(moment == edge, number <= among)),
            ),
            sa.false(),
        )

    def _leavers(
        self, wanted: Filter, window: Window, now: datetime, count: int, place: RowPlace
    ) -> Query:
        moment = self._moment(window.column)
        conditions: list[Condition] = [
            self._matches(wanted),
            self._number > 0,
            self._number <= place.number,
            moment <= text_of(now - window.length),
        ]
        if place.told is not None:
            edge = text_of(place.told - window.length)
            later: Condition = moment > edge
            if place.among is not None:
                later = sa.or_(later, sa.and_(moment == edge, self._number > place.among))
            conditions.append(later)
        return (
            sa.select(
                self._number.label("number"),
                sa.literal_column(str(LEFT), sa.Integer).label("kind"),
                moment.label("left"),
            )
            .where(*conditions)
            .order_by(moment, self._number)
            .limit(count)
        )

    def _matches(self, wanted: Filter) -> Condition:
        if wanted.any_of == ((),):
            return sa.true()
        return sa.or_(sa.false(), *(sa.and_(*self._equal(each)) for each in wanted.any_of))

    def _equal(self, conjunction: Sequence[tuple[str, Any]]) -> list[Condition]:
        return [self._shape.columns[name] == value for name, value in conjunction]

    def _moment(self, name: str) -> sa.ColumnElement[str]:
        return _normal(sa.type_coerce(self._shape.columns[name], sa.Text))

    def _old(self, name: str) -> sa.ColumnElement[Any]:
        path = f'$."{label(self._shape.columns[name].name)}"'
        return sa.func.json_extract(REMOVALS.c.old, path, type_=sa.Text)


def _normal(moment: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    """A date-time's text with six digits of fraction; other programs leave them out."""
    zeros = sa.case(
        (sa.func.length(moment) > len("2026-01-01 00:00:00"), "000000"), else_=".000000"
    )
    return sa.func.substr(moment.op("||")(zeros), 1, 26, type_=sa.Text)


def text_of(moment: datetime) -> str:
    """UTC as SQLAlchemy stores it on SQLite."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def moment_of(text: str | None) -> datetime | None:
    """What ``text_of`` and other programs write, as UTC."""
    if text is None:
        return None
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)

"""The statements that read a tracked table on PostgreSQL, by transaction and order.

A client lacks changes of transactions that ran when its snapshot was taken, and of those from the
snapshot's xmax on. The statement looks up the first one by one; the second are one range.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from headwater.feeds._source import Window
from headwater.sql._expressions import Column, Condition
from headwater.sql._filters import Query
from headwater.sql._model import FIRST, LAST, TableModel
from headwater.sql._statements import COUNT, GONE, LEFT, ROW, Statements
from headwater.sql._tracking import CHANGE, ORDER, REMOVALS, TABLES
from headwater.sql._unreadable import RAW
from headwater.sql._wanted import Lack, Selection
from headwater.sql.postgresql._conditions import (
    above,
    bound,
    client_has,
    files,
    running,
)
from headwater.sql.postgresql._connections import SHORT_LIFE
from headwater.sql.postgresql._place import At, SnapshotPlace
from headwater.sql.postgresql._types import XID8, as_xid

# Columns of a picked change, after the facts: transaction, kind, number, moment, older row's key.
PICKED = 5

_ALL = 2**63 - 1

_BEGAN = as_xid(sa.bindparam("began", type_=sa.Text))


class PostgreSQLStatements(Statements):
    """Writes the statements of one table.

    Arguments:
        total: send only transactions below which none is running.
        life: the SQL that names the life of the server's data.
    """

    dialect = "postgresql"

    def __init__(
        self,
        model: TableModel,
        judged: Collection[str],
        *,
        total: bool,
        life: str = SHORT_LIFE,
        keys_only: bool = False,
    ) -> None:
        super().__init__(model, judged, keys_only=keys_only)
        self._total = total
        self._life = life
        self.order = [model.number, model.order, *self.keys]
        number = sa.cast(_field(REMOVALS.c.old, ORDER), sa.BigInteger)
        self.old_order = [as_xid(_field(REMOVALS.c.old, CHANGE)), number]
        self.complete = model.number < bound(total)
        self.removal_order = [REMOVALS.c.change, REMOVALS.c.number]
        self.removal_complete = REMOVALS.c.change < bound(total)
        self.since_began = model.number >= _BEGAN
        self.removed_later = REMOVALS.c.change >= as_xid(sa.bindparam("as_of", type_=sa.Text))
        self.head = self._build_head()

    def _build_head(self) -> Query:
        query = sa.select(*self._facts(sa.true()), sa.null())
        return query.where(TABLES.c.name == self.model.tracking.name)

    def _facts(self, first: Condition) -> list[Column]:
        """The columns of ``Facts``, but for the last one.

        ``first``: the row that carries the snapshot, which may be long.
        """
        # Each reads one row of the index; EXISTS would read the table.
        newest = [_latest(self.order)]
        if self.model.tracking.keyed:
            mine = REMOVALS.c.table_name == self.model.tracking.name
            newest.append(_latest(self.removal_order).where(mine))
        latest = [one.scalar_subquery() for one in newest]
        complete = (self.complete, self.removal_complete)
        sent = [one.where(each) for one, each in zip(newest, complete, strict=False)]
        life: Column = sa.literal_column(self._life, sa.Text)
        tracking = self.model.tracking
        # Of an append-only table a client keeps each item as it was sent.
        if tracking.keyed or tracking.partitioned:
            life = life.concat(files(tracking))
        snapshot = sa.literal_column("(SELECT pg_current_snapshot()::text)", sa.Text)
        return [
            TABLES.c.epoch,
            TABLES.c.floor,
            TABLES.c.retiring,
            TABLES.c.declared,
            life.label("headwater_life"),
            sa.func.pg_is_in_recovery().label("headwater_standby"),
            sa.case((first, snapshot)).label("headwater_now"),
            sent[0].scalar_subquery().label("headwater_newest"),
            (sent[1].scalar_subquery() if len(sent) > 1 else sa.null()).label("headwater_gone"),
            sa.func.greatest(*latest, type_=XID8()).label("headwater_latest"),
        ]

    def before(self, place: SnapshotPlace | None) -> tuple[str, dict[str, Any]]:
        if place is None:
            return "", {}
        kind, at = "past" if place.past else "before", place.below
        if at is None:
            return kind, {"below_xid": str(place.snapshot.xmax), "below_number": -1}
        number = at.number if at.kind == ROW else -1
        values = {"below_xid": str(at.xid), "below_number": number}
        return kind + (" key" if at.key else ""), values | _key_values(at, "below_key")

    def below(self, kind: str) -> Condition:
        if not kind:
            return sa.true()
        keys = self._key_pairs("below_key") if kind.endswith("key") else ()
        one, other = above(self.order[:2], "below_xid", "below_number", keys)
        return one <= other if kind.startswith("past") else one < other

    def lacking(self, place: SnapshotPlace, window: Window | None) -> tuple[Lack, dict[str, Any]]:
        """The place may have a part of a running transaction, or of xmax."""
        snapshot, among = place.snapshot, ""
        parts = {part.xid: part for part in place.parts}
        lows = [_least(parts.get(xid)) for xid in snapshot.running]
        row, gone = _least(parts.get(snapshot.xmax))
        top = place.parts[-1] if place.parts and place.parts[-1].key else None
        values: dict[str, Any] = {
            "xmax": str(snapshot.xmax),
            "row_least": row,
            "gone_least": gone,
            "running": [str(xid) for xid in snapshot.running],
            "row_lows": [low[0] for low in lows],
            "gone_lows": [low[1] for low in lows],
            "had": snapshot.for_postgres(),
            "part_xids": [str(xid) for xid in parts],
            "part_rows": [_least(part)[0] for part in parts.values()],
            "began": str(place.began or 0),
            **_key_values(top, "top_key"),
        }
        left = as_of = False
        if window is not None and place.removed_until is not None:
            left, as_of = True, place.as_of is not None
            values["edge"] = self.stored(window.column, place.removed_until - window.length)
            values["as_of"] = str(place.as_of)
            if place.among is not None:
                among = "key" if place.among.key else "number"
                values["among_xid"] = str(place.among.xid)
                values["among_number"] = place.among.number
                values |= _key_values(place.among, "among_key")
        walks = place.began is not None
        return Lack(bool(snapshot.running), top is not None, left, among, as_of, walks), values

    def above(self, lack: Lack) -> Condition:
        keys = self._key_pairs("top_key") if lack.older else ()
        one, other = above(self.order[:2], "xmax", "row_least", keys)
        return sa.and_(one > other, self.complete)

    def of_running(self, lack: Lack) -> Callable[[Query], Sequence[Query]]:
        if not lack.ran:
            return lambda _: ()
        pending = running("row_lows")
        return lambda rows: [self._ran(pending, rows, self.model.number, self.model.order)]

    def removals(self, base: Query, lack: Lack) -> list[Query]:
        order = self.removal_order
        if lack.walks:
            base = base.where(order[0] >= _BEGAN)
        one, other = above(order, "xmax", "gone_least")
        past = base.where(one > other, self.removal_complete)
        found = [past.order_by(*order).limit(COUNT)]
        if lack.ran:
            found.append(self._ran(running("gone_lows"), base, order[0], order[1]))
        return found

    def has(self, order: Sequence[Column]) -> Condition:
        return client_has(order[0], order[1])

    def beyond(self, among: str, order: Sequence[Column], keys: Sequence[Column]) -> Condition:
        older = self._key_pairs("among_key", keys) if among == "key" else ()
        one, other = above(order[:2], "among_xid", "among_number", older)
        return one > other

    def row(self, kind: int, left: Column | None = None) -> Query:
        window, keys = self.model.window, list[Column](self.keys)
        xid, number, *_ = self.order
        if kind == GONE:
            xid, number = REMOVALS.c.change, REMOVALS.c.number
            keys = [self.model.cast(sa.null(), name) for name in self.model.key]
        if left is None:
            moment = sa.DateTime() if window is None else self._moment_type(window)
            left = sa.cast(sa.null(), moment)
        return sa.select(
            xid.label("xid"),
            sa.literal_column(str(kind), sa.Integer).label("kind"),
            number.label("number"),
            left.label("left"),
            *(column.label(f"key_{at}") for at, column in enumerate(keys)),
        )

    def sorting(self, every: sa.Subquery) -> list[Column]:
        columns = every.c
        keys = [columns[f"key_{at}"] for at in range(len(self.keys))]
        return [columns.kind > LEFT, columns.left, columns.xid, columns.kind, columns.number, *keys]

    def whole(self, picked: sa.Subquery, selected: Selection, removals: bool) -> Query:
        model, shown = self.model, selected.shown
        ranked = sa.select(
            picked, sa.func.row_number().over(order_by=self.sorting(picked)).label("nth")
        ).subquery("headwater_ranked")
        found = ranked.c
        keys = [found[f"key_{at}"] for at in range(len(self.keys))]
        # A limit in each look-up keeps PostgreSQL from a plan that reads the whole table.
        stored = [each.label(f"headwater_{at}") for at, each in enumerate(self.values)]
        if shown is not None:
            own_moment = self.shown_moment(self.moment(shown))
            stored.append(own_moment.label("headwater_own_moment"))
        asked = self.answers(selected)
        stored += [each.label(f"headwater_answer_{at}") for at, each in enumerate(asked)]
        same = (own == key for own, key in zip(self.keys, keys, strict=True))
        row = (
            sa.select(*stored).where(found.kind != GONE, *same).limit(1).lateral("headwater_stored")
        )
        joined = TABLES.outerjoin(ranked, sa.true()).outerjoin(row, sa.true())
        moment: Column = sa.null() if shown is None else row.c.headwater_own_moment
        answers: list[Any] = [row.c[f"headwater_answer_{at}"] for at in range(len(asked))]
        gone: list[Column] = []
        if removals:
            old = [self.old_key(name) for name in model.key]
            old += [self.old(name) for name in model.kept]
            parts = self.raw_columns(old)
            if shown is not None:
                own_moment = self.shown_moment(self.old_moment(shown))
                parts.append(own_moment.label("headwater_own_moment"))
            asked_old = self.answers(selected, old=True)
            parts += [each.label(f"headwater_answer_{at}") for at, each in enumerate(asked_old)]
            mine = REMOVALS.c.table_name == model.tracking.name
            removal = (
                sa.select(*parts)
                .where(found.kind == GONE, mine, REMOVALS.c.number == found.number)
                .limit(1)
                .lateral("headwater_removal")
            )
            joined = joined.outerjoin(removal, sa.true())
            gone = [removal.c[f"{RAW}{at}"] for at in range(len(old))]
            answers = [
                sa.case((found.kind == GONE, removal.c[each.name]), else_=each) for each in answers
            ]
            if shown is not None:
                moment = sa.func.coalesce(removal.c.headwater_own_moment, moment)
        as_json = sa.func.jsonb_build_array(*(sa.cast(key, sa.Text) for key in keys))
        is_older = sa.and_(found.kind != GONE, found.number == 0)
        first = sa.func.coalesce(found.nth, 1) == 1
        return (
            sa.select(
                *self._facts(first),
                self.last_left(selected).label("headwater_left"),
                found.xid,
                found.kind,
                found.number,
                moment.label("headwater_moment"),
                sa.case((is_older, sa.cast(as_json, sa.Text))).label("headwater_older"),
                *gone,
                *(row.c[f"headwater_{at}"] for at in range(len(self.values))),
                *(each.label(f"headwater_equal_{at}") for at, each in enumerate(answers)),
            )
            .select_from(joined)
            .where(TABLES.c.name == model.tracking.name)
            .order_by(found.nth)
        )

    def moment(self, name: str) -> Column:
        return sa.type_coerce(self.model.columns[name], self._moment_type(name))

    def old(self, name: str) -> Column:
        return self._kept(REMOVALS.c.old, name)

    def old_moment(self, name: str) -> Column:
        field = _field(REMOVALS.c.old, self.model.columns[name].name)
        return sa.type_coerce(self.model.cast(field, name), self._moment_type(name))

    def old_key(self, name: str) -> Column:
        return self._kept(REMOVALS.c.key, name)

    def parameter(self, name: str, column: str) -> sa.BindParameter[datetime]:
        return sa.bindparam(name, type_=self._moment_type(column))

    def stored(self, column: str | None, moment: datetime) -> datetime:
        """One without a time zone holds UTC."""
        moment = moment.astimezone(UTC)
        zoned = column is None or self._moment_type(column).timezone
        return moment if zoned else moment.replace(tzinfo=None)

    def _moment_type(self, name: str) -> sa.DateTime:
        return sa.DateTime(timezone=self.model.has_zone(name))

    def _key_pairs(
        self, parameter: str, columns: Sequence[Column] | None = None
    ) -> list[tuple[Column, Column]]:
        """The columns of a key, and the parameters that they are compared with."""
        return [
            (column, self.model.cast(sa.bindparam(f"{parameter}_{at}", type_=sa.Text), name))
            for at, (name, column) in enumerate(
                zip(self.model.key, self.keys if columns is None else columns, strict=True)
            )
        ]

    def _kept(self, json: Column, name: str) -> Column:
        """A column's value in what a removal keeps."""
        column = self.model.columns[name]
        if isinstance(column.type, sa.JSON):
            found = sa.func.jsonb_extract_path(json, column.name, type_=JSONB)
            # A row without a value has NULL, which is no JSON.
            null = sa.literal_column("'null'::jsonb", JSONB)
            return sa.cast(sa.func.nullif(found, null, type_=JSONB), column.type)
        return self.model.cast(_field(json, column.name), name)

    def shown_moment(self, moment: Column) -> Column:
        # PostgreSQL has moments that Python has not, and infinite ones.
        first, last = (
            sa.cast(sa.literal_column(f"'{each}'"), moment.type) for each in (FIRST, LAST)
        )
        return sa.case((moment < first, first), (moment > last, last), else_=moment)

    def _ran(self, pending: sa.Subquery, base: Query, xid: Column, number: Column) -> Query:
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


def _latest(order: Sequence[Column]) -> Query:
    xid, number, *_ = order
    return sa.select(xid).order_by(xid.desc(), number.desc()).limit(1)


def _field(json: Column, name: str) -> sa.ColumnElement[str]:
    return sa.func.jsonb_extract_path_text(json, name, type_=sa.Text)


def _least(part: At | None) -> tuple[int, int]:
    """The numbers of the last row and the last removal that the client has of a transaction."""
    if part is None:
        return -1, -1
    return (part.number, _ALL) if part.kind == ROW else (-1, part.number)


def _key_values(at: At | None, name: str) -> dict[str, Any]:
    """The columns of an older row's key as parameters."""
    keys = [] if at is None or not at.key else at.keys
    return {f"{name}_{n}": key for n, key in enumerate(keys)}

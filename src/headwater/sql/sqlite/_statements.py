"""The statements that read a tracked table on SQLite, where the change's number is its order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from headwater.feeds._source import JUDGED, Window
from headwater.sql._expressions import Column, Condition
from headwater.sql._filters import Query
from headwater.sql._model import TableModel
from headwater.sql._statements import COUNT, GONE, LEFT, Statements
from headwater.sql._tracking import CHANGE, REMOVALS, TABLES
from headwater.sql._wanted import Lack, Selection
from headwater.sql.sqlite._place import RowPlace, moment_text, text_of
from headwater.sql.sqlite._triggers import label

# Columns before those of the model: epoch, last, floor, declared, number, kind, key, old, moment
# the moment of the last row that left the window, retiring, the version of the schema.
PREFIX = 12
# Which of them is the version of the schema, here and in ``head``.
VERSION, HEAD_VERSION = 11, 4

# It changes with every change of the schema, also by other programs.
_SCHEMA = sa.literal_column("(SELECT schema_version FROM pragma_schema_version)", sa.Integer)

_NUMBER = sa.bindparam("number", type_=sa.BigInteger)
_GONE_NUMBER = sa.bindparam("gone_number", type_=sa.BigInteger)
_AMONG = sa.bindparam("among", type_=sa.BigInteger)


class SQLiteStatements(Statements):
    """Writes the statements of one table."""

    dialect = "sqlite"

    def __init__(
        self, model: TableModel, judged: Collection[str], *, keys_only: bool = False
    ) -> None:
        super().__init__(model, judged, keys_only=keys_only)
        self.order = [model.number]
        number = sa.func.json_extract(REMOVALS.c.old, f'$."{CHANGE}"', type_=sa.BigInteger)
        self.old_order = [number]
        self.complete = model.number > 0
        self.removal_order = [REMOVALS.c.number]
        self.removal_complete = REMOVALS.c.number > 0
        self.since_began = model.number > sa.bindparam("began", type_=sa.BigInteger)
        self.removed_later = REMOVALS.c.number > sa.bindparam("as_of", type_=sa.BigInteger)

    def head(self) -> Query:
        """Epoch, last, floor, declaration, and the version of the schema."""
        own = TABLES.c
        query = sa.select(own.epoch, own.last, own.floor, own.declared, _SCHEMA)
        return query.where(own.name == self.model.tracking.name)

    def before(self, place: RowPlace | None) -> tuple[str, dict[str, Any]]:
        return ("", {}) if place is None else ("before", {"number": place.below})

    def below(self, kind: str) -> Condition:
        return self.model.number < _NUMBER if kind else sa.true()

    def lacking(self, place: RowPlace, window: Window | None) -> tuple[Lack, dict[str, Any]]:
        values: dict[str, Any] = {"number": place.number, "among": place.among}
        values |= {"gone_number": place.removals_from, "began": place.began}
        walks = place.began is not None
        if window is None or place.removed_until is None:
            return Lack(walks=walks), values
        values["edge"] = text_of(place.removed_until - window.length)
        values["as_of"] = place.as_of
        among = "" if place.among is None else "number"
        as_of = place.as_of is not None
        return Lack(left=True, among=among, as_of=as_of, walks=walks), values

    def above(self, lack: Lack) -> Condition:  # all are above one number
        return self.model.number > _NUMBER

    def removals(self, base: Query, lack: Lack) -> list[Query]:
        lacked = base.where(REMOVALS.c.number > _GONE_NUMBER)
        return [lacked.order_by(*self.removal_order).limit(COUNT)]

    def has(self, order: Sequence[Column]) -> Condition:
        return sa.and_(order[0] > 0, order[0] <= _NUMBER)

    def beyond(
        self,
        among: str,  # numbers alone
        order: Sequence[Column],
        keys: Sequence[Column],
    ) -> Condition:
        return order[0] > _AMONG

    def row(self, kind: int, left: Column | None = None) -> Query:
        number = REMOVALS.c.number if kind == GONE else self.model.number
        return sa.select(
            number.label("number"),
            sa.literal_column(str(kind), sa.Integer).label("kind"),
            (sa.literal_column("NULL", sa.Text) if left is None else left).label("left"),
        )

    def sorting(self, every: sa.Subquery) -> list[Column]:
        return [every.c.kind > LEFT, every.c.left, every.c.number]

    def whole(self, picked: sa.Subquery, selected: Selection, removals: bool) -> Query:
        model, found, shown = self.model, picked.c, selected.shown
        joined = TABLES.outerjoin(picked, sa.true()).outerjoin(
            model.table, sa.and_(found.kind != GONE, model.number == found.number)
        )
        answers: list[Any] = self.answers(selected)
        key: Column = sa.null()
        old: Column = sa.null()
        if removals:
            mine = REMOVALS.c.table_name == model.tracking.name
            same = sa.and_(found.kind == GONE, mine, REMOVALS.c.number == found.number)
            joined, key, old = joined.outerjoin(REMOVALS, same), REMOVALS.c.key, REMOVALS.c.old
            answers = [
                sa.case((found.kind == GONE, was), else_=is_).label(f"headwater_equal_{at}")
                for at, (is_, was) in enumerate(
                    zip(answers, self.answers(selected, old=True), strict=True)
                )
            ]
        return (
            sa.select(
                TABLES.c.epoch,
                TABLES.c.last,
                TABLES.c.floor,
                TABLES.c.declared,
                found.number,
                found.kind,
                key.label("headwater_key"),
                old.label("headwater_old"),
                (sa.null() if shown is None else self.moment(shown)).label("headwater_moment"),
                self.last_left(selected).label("headwater_last_left"),
                TABLES.c.retiring,
                _SCHEMA.label("headwater_schema"),
                *(each.label(f"headwater_{at}") for at, each in enumerate(self.values)),
                *answers,
            )
            .select_from(joined)
            .where(TABLES.c.name == model.tracking.name)
            .order_by(*self.sorting(picked))
        )

    def moment(self, name: str) -> sa.ColumnElement[str]:
        return moment_text(sa.type_coerce(self.model.columns[name], sa.Text))

    def old(self, name: str) -> Column:
        return sa.type_coerce(self._field(REMOVALS.c.old, name), self.model.columns[name].type)

    def old_moment(self, name: str) -> sa.ColumnElement[str]:
        return moment_text(self._field(REMOVALS.c.old, name))

    def old_key(self, name: str) -> Column:
        return self._field(REMOVALS.c.key, name)

    def parameter(self, name: str, column: str) -> sa.BindParameter[str]:
        return sa.bindparam(name, type_=sa.Text)

    def age(self, column: str | None) -> Column:
        # As it is stored, so that an index on it helps.
        return (
            REMOVALS.c.at if column is None else sa.type_coerce(self.model.columns[column], sa.Text)
        )

    def stored(self, column: str | None, moment: datetime) -> str:
        return text_of(moment)

    def old_is(self, name: str, slot: Any) -> Condition:
        if slot is None or name == JUDGED:
            return super().old_is(name, slot)
        # A BLOB stands in the JSON as a list of its hexadecimal digits.
        path, value = self._path(name), self.filters.value(name, slot)
        digits = sa.func.json_extract(REMOVALS.c.old, f"{path}[0]")
        equal = sa.and_(sa.func.typeof(value) == "blob", digits == sa.func.hex(value))
        is_blob = sa.func.json_type(REMOVALS.c.old, path) == "array"
        return sa.case((is_blob, equal), else_=super().old_is(name, slot)) == sa.true()

    def _path(self, name: str) -> str:
        return f'$."{label(self.model.columns[name].name)}"'

    def _field(self, json: Column, name: str) -> sa.ColumnElement[str]:
        return sa.func.json_extract(json, self._path(name), type_=sa.Text)

"""Retention on PostgreSQL: announces what will expire, then removes it in small transactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.sql.model import TableModel
from headwater.sql.postgresql.conditions import bound
from headwater.sql.postgresql.subqueries import Subqueries
from headwater.sql.postgresql.triggers import channel
from headwater.sql.postgresql.types import as_xid
from headwater.sql.reader import TRIM_STEP
from headwater.sql.tracking import REMOVALS, TABLES

__all__ = ["PostgreSQLTrim"]


@dataclass(frozen=True, slots=True)
class _Kept:
    """Where the changes are that a table keeps: its rows, or the removals of a keyed table."""

    table: sa.Table
    xid: sa.ColumnElement[int]
    number: sa.ColumnElement[int]
    keys: Sequence[sa.ColumnElement[Any]]
    mine: sa.ColumnElement[bool]


class PostgreSQLTrim:
    """One run of retention on one table.

    Arguments:
        cutoff, column: remove what is older than this, by this date-time.
        max_count: remove all but so many of the newest.
    """

    def __init__(
        self, model: TableModel, cutoff: datetime | None, column: str | None, max_count: int | None
    ) -> None:
        self._model = model
        self._cutoff = cutoff
        self._max_count = max_count
        self._own = TABLES.c.name == model.tracking.name
        subqueries = Subqueries(model, total=True)
        self._age: sa.ColumnElement[Any] = REMOVALS.c.at
        if column is not None and cutoff is not None:
            self._age = subqueries.moment(column)
            self._cutoff = subqueries.stored(column, cutoff)
        if model.tracking.keyed:
            mine = REMOVALS.c.table_name == model.tracking.name
            keys = [REMOVALS.c.table_name, REMOVALS.c.number]
            self._kept = _Kept(REMOVALS, REMOVALS.c.change, REMOVALS.c.number, keys, mine)
        else:
            keys = subqueries.keys
            self._kept = _Kept(model.table, model.number, model.order, keys, sa.true())
        self._old: sa.ColumnElement[bool] = sa.false()
        self._last = -1

    async def announce(self, connection: AsyncConnection) -> bool:
        """As ``Trim``."""
        tests: list[sa.ColumnElement[bool]] = []
        kept = self._kept
        order = (kept.xid, kept.number, *kept.keys)
        if self._cutoff is not None:
            tests.append(self._age < self._cutoff)
        if self._max_count is not None:
            beyond = (
                sa.select(sa.cast(kept.xid, sa.Text), kept.number, *kept.keys)
                .where(kept.mine)
                .order_by(*(part.desc() for part in order))
                .offset(self._max_count)
                .limit(1)
            )
            row = (await connection.execute(beyond)).first()
            if row is not None:
                wanted = [as_xid(sa.literal(row[0], sa.Text)), *row[1:]]
                tests.append(sa.tuple_(*order) <= sa.tuple_(*wanted))
        # A transaction that still runs may add changes below those of younger ones.
        self._old = sa.and_(kept.mine, sa.or_(sa.false(), *tests), kept.xid < bound(total=True))
        newest = (
            sa.select(sa.cast(kept.xid, sa.Text))
            .where(self._old)
            .order_by(kept.xid.desc())
            .limit(1)
        )
        found = await connection.scalar(newest)
        self._last = -1 if found is None else int(found)
        floor = await connection.scalar(sa.select(TABLES.c.floor).where(self._own))
        if floor is None or self._last <= floor:
            return False
        retiring = sa.func.greatest(sa.func.coalesce(TABLES.c.retiring, 0), self._last)
        await connection.execute(TABLES.update().where(self._own).values(retiring=retiring))
        if self._model.tracking.notify:
            await connection.execute(
                sa.select(sa.func.pg_notify(channel(self._model.tracking), ""))
            )
        return True

    async def step(self, connection: AsyncConnection) -> int:
        """As ``Trim``."""
        if self._last < 0:
            return 0
        kept, last = self._kept, as_xid(sa.literal(str(self._last), sa.Text))
        over = sa.case((TABLES.c.retiring > self._last, TABLES.c.retiring))
        await connection.execute(
            TABLES.update()
            .where(self._own)
            .values(floor=sa.func.greatest(TABLES.c.floor, self._last), retiring=over)
        )
        chosen = (
            sa.select(*kept.keys)
            .where(self._old, kept.xid <= last)
            .order_by(kept.xid, kept.number, *kept.keys)
            .limit(TRIM_STEP)
        )
        removed = await connection.execute(
            sa.delete(kept.table).where(sa.tuple_(*kept.keys).in_(chosen))
        )
        return removed.rowcount

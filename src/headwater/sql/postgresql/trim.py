"""Retention on PostgreSQL: says what is going to expire, then removes it in small steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.sql.own import REMOVALS, TABLES
from headwater.sql.postgresql.branches import Branches
from headwater.sql.postgresql.facts import bound
from headwater.sql.postgresql.schema import channel
from headwater.sql.postgresql.types import as_xid
from headwater.sql.shape import Shape

__all__ = ["STEP", "Trim"]

# Rows of one transaction: few enough that nobody waits for their locks.
STEP = 500


@dataclass(frozen=True, slots=True)
class _Kept:
    """Where the changes are that a table keeps: its rows, or the removals of a keyed table."""

    table: sa.Table
    xid: sa.ColumnElement[int]
    number: sa.ColumnElement[int]
    keys: Sequence[sa.ColumnElement[Any]]
    mine: sa.ColumnElement[bool]


class Trim:
    """One run of retention on one table.

    Arguments:
        cutoff, column: remove what is older than this, by this date-time.
        max_count: remove all but so many of the newest.
    """

    def __init__(
        self, shape: Shape, cutoff: datetime | None, column: str | None, max_count: int | None
    ) -> None:
        self._shape = shape
        self._cutoff = cutoff
        self._max_count = max_count
        self._own = TABLES.c.name == shape.tracking.name
        branches = Branches(shape, total=True)
        self._age: sa.ColumnElement[Any] = REMOVALS.c.at
        if column is not None and cutoff is not None:
            self._age = branches.moment(column)
            self._cutoff = branches.stored(column, cutoff)
        if shape.tracking.keyed:
            mine = REMOVALS.c.table_name == shape.tracking.name
            keys = [REMOVALS.c.table_name, REMOVALS.c.number]
            self._kept = _Kept(REMOVALS, REMOVALS.c.change, REMOVALS.c.number, keys, mine)
        else:
            keys = branches.keys
            self._kept = _Kept(shape.table, shape.number, shape.order, keys, sa.true())
        self._old: sa.ColumnElement[bool] = sa.false()
        self._last = -1

    async def announce(self, connection: AsyncConnection) -> bool:
        """Find what is to go, and note that positions before it expire soon.

        Returns whether anybody must be given time for that.
        """
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
        # A transaction that still runs may yet make changes below those of younger ones.
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
        if self._shape.tracking.notify:
            await connection.execute(
                sa.select(sa.func.pg_notify(channel(self._shape.tracking), ""))
            )
        return True

    async def step(self, connection: AsyncConnection) -> int:
        """Remove the oldest of it. Returns how many; fewer than ``STEP`` when it is done."""
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
            .limit(STEP)
        )
        removed = await connection.execute(
            sa.delete(kept.table).where(sa.tuple_(*kept.keys).in_(chosen))
        )
        return removed.rowcount

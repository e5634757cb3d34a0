"""Retention on PostgreSQL: announces what will expire, then removes it in small transactions."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.sql.model import TableModel
from headwater.sql.postgresql.conditions import bound
from headwater.sql.postgresql.statements import PostgreSQLStatements
from headwater.sql.postgresql.triggers import channel
from headwater.sql.postgresql.types import as_xid
from headwater.sql.reader import TRIM_STEP, Trim
from headwater.sql.statements import Column
from headwater.sql.tracking import REMOVALS, TABLES


class PostgreSQLTrim(Trim):
    """One run of retention on one table."""

    def __init__(
        self, model: TableModel, cutoff: datetime | None, column: str | None, max_count: int | None
    ) -> None:
        super().__init__(model, cutoff, column, max_count)
        statements = PostgreSQLStatements(model, total=True)
        self._age: Column = REMOVALS.c.at
        if column is not None and cutoff is not None:
            self._age = statements.moment(column)
            self.cutoff = statements.stored(column, cutoff)
        # Where the changes are that it keeps.
        self._kept = model.table
        self._mine: sa.ColumnElement[bool] = sa.true()
        self._keys: list[Column] = [*statements.keys]
        self._order: list[Column] = [*statements.order]
        if model.tracking.keyed:
            self._kept, self._mine = REMOVALS, REMOVALS.c.table_name == model.tracking.name
            self._keys = [REMOVALS.c.table_name, REMOVALS.c.number]
            self._order = [REMOVALS.c.change, REMOVALS.c.number]
        self._old: sa.ColumnElement[bool] = sa.false()
        self._last = -1

    async def announce(self, connection: AsyncConnection) -> bool:
        tests: list[sa.ColumnElement[bool]] = []
        order = self._order
        if self.cutoff is not None:
            tests.append(self._age < self.cutoff)
        if self.max_count is not None:
            beyond = (
                sa.select(sa.cast(order[0], sa.Text), *order[1:])
                .where(self._mine)
                .order_by(*(part.desc() for part in order))
                .offset(self.max_count)
                .limit(1)
            )
            row = (await connection.execute(beyond)).first()
            if row is not None:
                wanted = [as_xid(sa.literal(row[0], sa.Text)), *row[1:]]
                tests.append(sa.tuple_(*order) <= sa.tuple_(*wanted))
        # A transaction that still runs may add changes below those of younger ones.
        self._old = sa.and_(self._mine, sa.or_(sa.false(), *tests), order[0] < bound(total=True))
        newest = sa.select(sa.cast(order[0], sa.Text)).where(self._old)
        found = await connection.scalar(newest.order_by(order[0].desc()).limit(1))
        self._last = -1 if found is None else int(found)
        floor = await connection.scalar(sa.select(TABLES.c.floor).where(self.own))
        if floor is None or self._last <= floor:
            return False
        retiring = sa.func.greatest(sa.func.coalesce(TABLES.c.retiring, 0), self._last)
        await connection.execute(TABLES.update().where(self.own).values(retiring=retiring))
        if self.model.tracking.notify:
            await connection.execute(sa.select(sa.func.pg_notify(channel(self.model.tracking), "")))
        return True

    async def step(self, connection: AsyncConnection) -> int:
        if self._last < 0:
            return 0
        last = as_xid(sa.literal(str(self._last), sa.Text))
        over = sa.case((TABLES.c.retiring > self._last, TABLES.c.retiring))
        await connection.execute(
            TABLES.update()
            .where(self.own)
            .values(floor=sa.func.greatest(TABLES.c.floor, self._last), retiring=over)
        )
        chosen = (
            sa.select(*self._keys)
            .where(self._old, self._order[0] <= last)
            .order_by(*self._order)
            .limit(TRIM_STEP)
        )
        removed = await connection.execute(
            sa.delete(self._kept).where(sa.tuple_(*self._keys).in_(chosen))
        )
        return removed.rowcount

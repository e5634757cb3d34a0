"""Retention: announces what will expire, then removes it in small transactions."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.sql._filters import Condition
from headwater.sql._statements import Column, Statements
from headwater.sql._tracking import REMOVALS, TABLES

# Rows that one transaction of a trim removes: few enough that writers wait some milliseconds.
STEP = 500


class Trim:
    """One run of retention on a table. An append-only table loses rows, a keyed one its removals.

    Arguments:
        cutoff, column: remove what is older than this, by this date-time.
        max_count: remove all but so many of the newest.
        channel: on PostgreSQL, where an announcement is notified.
    """

    def __init__(
        self,
        statements: Statements,
        cutoff: datetime | None,
        column: str | None,
        max_count: int | None,
        channel: str | None = None,
    ) -> None:
        model = statements.model
        self._own = TABLES.c.name == model.tracking.name
        self._channel = channel
        self._max_count = max_count
        self._older: Condition = sa.false()
        if cutoff is not None:
            self._older = statements.age(column) < statements.stored(column, cutoff)
        # Where the changes are that it keeps.
        self._table, self._keys, self._order = model.table, statements.keys, statements.order
        self._complete = statements.complete
        if model.tracking.keyed:
            self._table, self._order = REMOVALS, statements.removal_order
            self._keys = [REMOVALS.c.table_name, REMOVALS.c.number]
            mine = REMOVALS.c.table_name == model.tracking.name
            self._complete = sa.and_(mine, statements.removal_complete)
        self._old: Condition = sa.false()
        self._last = -1

    async def announce(self, connection: AsyncConnection) -> bool:
        """Find what will be removed, and record that positions before it expire soon.

        Returns whether any position expires that is valid now.
        """
        # Takes SQLite's write lock before it reads.
        await self._update(connection, floor=TABLES.c.floor)
        tests, order = [self._older], self._order
        if self._max_count is not None:
            newest_first = [part.desc() for part in order]
            found = sa.select(*order).where(self._complete).order_by(*newest_first)
            row = (await connection.execute(found.offset(self._max_count).limit(1))).first()
            if row is not None:
                rest = (sa.literal(row[at], part.type) for at, part in enumerate(order) if at)
                tests.append(sa.tuple_(*order) <= sa.tuple_(self._number(row[0]), *rest))
        self._old = sa.and_(self._complete, sa.or_(*tests))
        newest = sa.select(order[0]).where(self._old).order_by(order[0].desc()).limit(1)
        last = await connection.scalar(newest)
        floor = await connection.scalar(sa.select(TABLES.c.floor).where(self._own))
        self._last = -1 if last is None else last
        if floor is None or self._last <= floor:
            return False
        known = TABLES.c.retiring
        await self._update(
            connection, retiring=sa.case((known > self._last, known), else_=self._last)
        )
        if self._channel is not None:
            await connection.execute(sa.select(sa.func.pg_notify(self._channel, "")))
        return True

    async def step(self, connection: AsyncConnection) -> int:
        """Remove the oldest of it. Returns how many; fewer than ``STEP`` at the end."""
        if self._last < 0:
            return 0
        known, retiring = TABLES.c.floor, TABLES.c.retiring
        await self._update(
            connection,
            floor=sa.case((known > self._last, known), else_=self._last),
            retiring=sa.case((retiring > self._last, retiring)),
        )
        chosen = (
            sa.select(*self._keys)
            .where(self._old, self._order[0] <= self._number(self._last))
            .order_by(*self._order)
            .limit(STEP)
        )
        removed = await connection.execute(
            sa.delete(self._table).where(sa.tuple_(*self._keys).in_(chosen))
        )
        return removed.rowcount

    def _number(self, value: int) -> Column:
        """To compare with the first column: PostgreSQL casts only text to a transaction."""
        return sa.cast(sa.literal(str(value), sa.Text), self._order[0].type)

    async def _update(self, connection: AsyncConnection, **values: object) -> None:
        await connection.execute(TABLES.update().where(self._own).values(values))

"""Retention on SQLite: announces what will expire, then removes it in small transactions."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.sql.model import TableModel
from headwater.sql.reader import TRIM_STEP
from headwater.sql.sqlite.place import text_of
from headwater.sql.tracking import REMOVALS, TABLES

__all__ = ["SQLiteTrim"]


class SQLiteTrim:
    """One run of retention on one table.

    An append-only table loses rows; a keyed one loses only its removals.

    Arguments:
        cutoff, column: remove what is older than this, by this date-time.
        max_count: remove all but so many of the newest.
    """

    def __init__(
        self, model: TableModel, cutoff: datetime | None, column: str | None, max_count: int | None
    ) -> None:
        self._own = TABLES.c.name == model.name
        self._cutoff = cutoff
        self._max_count = max_count
        self._last = 0
        self._age: sa.ColumnElement[str] = REMOVALS.c.at
        if column is not None:
            self._age = sa.type_coerce(model.columns[column], sa.Text)
        self._number: sa.ColumnElement[int] = REMOVALS.c.number
        if model.tracking.keyed:
            self._table = REMOVALS
            self._mine: sa.ColumnElement[bool] = REMOVALS.c.table_name == model.name
        else:
            self._table, self._number, self._mine = model.table, model.number, sa.true()

    async def announce(self, connection: AsyncConnection) -> bool:
        """As ``Trim``."""
        old = await self._lock(connection)
        last = await connection.scalar(sa.select(sa.func.max(self._number)).where(old))
        floor = await connection.scalar(sa.select(TABLES.c.floor).where(self._own))
        if last is None or floor is None:
            return False
        self._last = last
        if last > floor:
            retiring = sa.func.max(sa.func.coalesce(TABLES.c.retiring, 0), last)
            await connection.execute(TABLES.update().where(self._own).values(retiring=retiring))
        return bool(last > floor)

    async def step(self, connection: AsyncConnection) -> int:
        """As ``Trim``."""
        number, last = self._number, self._last
        chosen = sa.and_(await self._lock(connection), number <= last)
        first = sa.select(number).where(chosen).order_by(number).limit(TRIM_STEP)
        numbers = (await connection.scalars(first)).all()
        if numbers:
            await connection.execute(sa.delete(self._table).where(chosen, number <= numbers[-1]))
            floor = sa.func.max(TABLES.c.floor, numbers[-1])
            await connection.execute(TABLES.update().where(self._own).values(floor=floor))
        if len(numbers) < TRIM_STEP:
            over = sa.case((TABLES.c.retiring > last, TABLES.c.retiring))
            await connection.execute(TABLES.update().where(self._own).values(retiring=over))
        return len(numbers)

    async def _lock(self, connection: AsyncConnection) -> sa.ColumnElement[bool]:
        """Take the write lock, then return the condition for what is too old now."""
        await connection.execute(TABLES.update().where(self._own).values(floor=TABLES.c.floor))
        number, tests = self._number, list[sa.ColumnElement[bool]]()
        if self._cutoff is not None:
            tests.append(self._age < text_of(self._cutoff))
        if self._max_count is not None:
            newest = sa.select(number).where(self._mine, number > 0).order_by(number.desc())
            not_kept = await connection.scalar(newest.limit(1).offset(self._max_count))
            if not_kept is not None:
                tests.append(number <= not_kept)
        return sa.and_(self._mine, number > 0, sa.or_(sa.false(), *tests))

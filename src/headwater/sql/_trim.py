"""Retention: announces what will expire, then removes it in small transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.sql._expressions import Column, Condition
from headwater.sql._statements import Statements
from headwater.sql._tracking import REMOVALS, TABLES

# Rows that one transaction of a trim removes: few enough that writers wait some milliseconds.
STEP = 500


@dataclass(slots=True)
class Trim:
    """One run of retention on the rows of one table.

    Attributes:
        registered: the table of Headwater with the ``floor`` and ``retiring`` of these rows.
        name: of the row in it.
        table, keys: the table that loses rows, and the columns that identify a row.
        order: the columns that order its rows; the first one is their change.
        complete: the condition for rows that a trim may remove.
        older: the condition for rows that are too old.
        max_count: remove all rows but so many of the newest.
        wake: a statement by which tails of other processes notice the announcement.
    """

    registered: sa.Table
    name: str
    table: sa.Table
    keys: Sequence[Column]
    order: Sequence[Column]
    complete: Condition
    older: Condition
    max_count: int | None = None
    wake: sa.Executable | None = None
    _old: Condition = field(init=False, default_factory=sa.false)
    _last: int = field(init=False, default=-1)

    async def announce(self, connection: AsyncConnection) -> bool:
        """Find what will be removed, and record that positions before it expire soon.

        Returns whether any position expires that is valid now.
        """
        own = self.registered.c
        # Takes SQLite's write lock before it reads.
        await self._update(connection, floor=own.floor)
        tests, order = [self.older], self.order
        if self.max_count is not None:
            newest_first = [part.desc() for part in order]
            found = sa.select(*order).where(self.complete).order_by(*newest_first)
            row = (await connection.execute(found.offset(self.max_count).limit(1))).first()
            if row is not None:
                rest = (sa.literal(row[at], part.type) for at, part in enumerate(order) if at)
                tests.append(sa.tuple_(*order) <= sa.tuple_(self._change(row[0]), *rest))
        self._old = sa.and_(self.complete, sa.or_(*tests))
        newest = sa.select(order[0]).where(self._old).order_by(order[0].desc()).limit(1)
        last = await connection.scalar(newest)
        floor = await connection.scalar(sa.select(own.floor).where(own.name == self.name))
        self._last = -1 if last is None else last
        if floor is None or self._last <= floor:
            return False
        later = sa.case((own.retiring > self._last, own.retiring), else_=self._last)
        await self._update(connection, retiring=later)
        if self.wake is not None:
            await connection.execute(self.wake)
        return True

    async def step(self, connection: AsyncConnection) -> int:
        """Remove the oldest of it. Returns how many; fewer than ``STEP`` at the end."""
        if self._last < 0:
            return 0
        own = self.registered.c
        await self._update(
            connection,
            floor=sa.case((own.floor > self._last, own.floor), else_=self._last),
            retiring=sa.case((own.retiring > self._last, own.retiring)),
        )
        chosen = (
            sa.select(*self.keys)
            .where(self._old, self.order[0] <= self._change(self._last))
            .order_by(*self.order)
            .limit(STEP)
        )
        removed = await connection.execute(
            sa.delete(self.table).where(sa.tuple_(*self.keys).in_(chosen))
        )
        return removed.rowcount

    def _change(self, value: int) -> Column:
        """To compare with a change: PostgreSQL casts only text to a transaction."""
        return sa.cast(sa.literal(str(value), sa.Text), self.order[0].type)

    async def _update(self, connection: AsyncConnection, **values: object) -> None:
        own = self.registered
        await connection.execute(own.update().where(own.c.name == self.name).values(values))


def table_trim(
    statements: Statements,
    cutoff: datetime | None,
    column: str | None,
    max_count: int | None,
    wake: sa.Executable | None = None,
) -> Trim:
    """A run on a tracked table. An append-only table loses rows, a keyed one its removals.

    ``cutoff``, ``column``: remove what is older than this, by this date-time.
    """
    model = statements.model
    older = (
        sa.false() if cutoff is None else statements.age(column) < statements.stored(column, cutoff)
    )
    name = model.tracking.name
    if not model.tracking.keyed:
        keys, order, complete = statements.keys, statements.order, statements.complete
        return Trim(TABLES, name, model.table, keys, order, complete, older, max_count, wake)
    keys, order = [REMOVALS.c.table_name, REMOVALS.c.number], statements.removal_order
    complete = sa.and_(REMOVALS.c.table_name == name, statements.removal_complete)
    return Trim(TABLES, name, REMOVALS, keys, order, complete, older, max_count, wake)


async def remove(
    runs: Sequence[Trim],
    writing: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
    grace: float,
) -> int:
    """Announce runs, wait for ``grace`` seconds, and remove. Returns how many rows were removed.

    ``writing``: begins a transaction.
    """
    expires = False
    for run in runs:
        async with writing() as connection:
            expires |= await run.announce(connection)
    if expires:
        await asyncio.sleep(grace)
    removed = 0
    for run in runs:
        step = STEP
        while step == STEP:
            async with writing() as connection:
                step = await run.step(connection)
            removed += step
    return removed

"""Retention of former links: announces what will expire, then removes it in small transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.sql._links import FORMER, LINKS
from headwater.sql._tracking import TABLES, Tracking
from headwater.sql._trim import STEP
from headwater.sql.postgresql._triggers import channel
from headwater.sql.postgresql._types import XID8

__all__ = ["LinkTrim", "trim_links"]


async def trim_links(
    tables: Sequence[Tracking],
    writing: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
    max_age: timedelta,
    grace: float,
) -> int:
    """Remove the former links of these tables that are older than ``max_age``.

    Arguments:
        writing: begins a transaction.
        grace: seconds between the announcement and the removal.

    Returns how many were removed.
    """
    cutoff = datetime.now(UTC) - max_age
    runs = [LinkTrim(tracking, cutoff) for tracking in tables]
    expires = False
    for run in runs:
        async with writing() as connection:
            expires |= await connection.run_sync(run.announce)
    if expires:
        await asyncio.sleep(grace)
    removed = 0
    for run in runs:
        step = STEP
        while step == STEP:
            async with writing() as connection:
                step = await connection.run_sync(run.step)
            removed += step
    return removed


class LinkTrim:
    """One run over the former links of one table that are older than ``cutoff``."""

    def __init__(self, tracking: Tracking, cutoff: datetime) -> None:
        self._tracking = tracking
        self._cutoff = cutoff
        self._last = 0
        self._own = LINKS.c.name == tracking.name

    def announce(self, connection: sa.Connection) -> bool:
        """Note up to where positions expire soon. Returns whether any does."""
        newest = (
            sa.select(FORMER.c.change)
            .where(self._old(connection))
            .order_by(FORMER.c.change.desc())
            .limit(1)
        )
        self._last = connection.scalar(newest) or 0
        floor = connection.scalar(sa.select(LINKS.c.floor).where(self._own))
        if floor is None or self._last <= floor:
            return False
        connection.execute(LINKS.update().where(self._own).values(retiring=self._last))
        if connection.dialect.name == "sqlite":
            # A number that no change has: the tails of all processes look.
            mine = TABLES.c.name == self._tracking.name
            connection.execute(TABLES.update().where(mine).values(last=TABLES.c.last + 1))
        elif self._tracking.notify:
            connection.execute(sa.select(sa.func.pg_notify(channel(self._tracking), "")))
        return True

    def step(self, connection: sa.Connection) -> int:
        """Remove the oldest. Returns how many; fewer than ``STEP`` at the end."""
        if not self._last:
            return 0
        over = sa.case((LINKS.c.retiring > self._last, LINKS.c.retiring))
        later = sa.case((LINKS.c.floor > self._last, LINKS.c.floor), else_=self._last)
        connection.execute(LINKS.update().where(self._own).values(floor=later, retiring=over))
        chosen = sa.select(FORMER.c.number).where(
            self._old(connection), FORMER.c.change <= self._bound(connection, self._last)
        )
        chosen = chosen.order_by(FORMER.c.number).limit(STEP)
        return connection.execute(sa.delete(FORMER).where(FORMER.c.number.in_(chosen))).rowcount

    def _old(self, connection: sa.Connection) -> sa.ColumnElement[bool]:
        cutoff: Any = self._cutoff
        settled: sa.ColumnElement[bool] = FORMER.c.change > 0
        if connection.dialect.name == "sqlite":
            cutoff = cutoff.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        else:
            # A transaction that still runs may add former links below those of younger ones.
            settled = FORMER.c.change < sa.literal_column(
                "pg_snapshot_xmin(pg_current_snapshot())", XID8()
            )
        return sa.and_(FORMER.c.table_name == self._tracking.name, FORMER.c.at < cutoff, settled)

    def _bound(self, connection: sa.Connection, last: int) -> sa.ColumnElement[Any]:
        if connection.dialect.name == "sqlite":
            return sa.literal(last)
        return sa.cast(sa.literal(str(last), sa.Text), XID8())

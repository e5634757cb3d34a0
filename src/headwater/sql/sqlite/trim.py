"""Retention on SQLite: says what is going to expire, then removes it in small steps.

Each step is a transaction of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from headwater.sql.shape import Shape
from headwater.sql.sqlite.moments import text_of
from headwater.sql.sqlite.schema import REMOVALS, TABLES

__all__ = ["Step", "announce", "step"]

# Rows of one transaction: few enough that other writers wait some milliseconds at most.
STEP = 500


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did. ``done``: nothing is left to remove."""

    removed: int
    done: bool


def announce(
    connection: sa.Connection,
    shape: Shape,
    cutoff: datetime | None,
    column: str | None,
    max_count: int | None,
) -> tuple[int, bool]:
    """Note up to which change positions expire soon.

    Returns its number, 0 for none, and whether anybody must be given time for that.
    """
    own = _lock(connection, shape)
    _, number, old = _old(connection, shape, cutoff, column, max_count)
    last: int | None = connection.scalar(sa.select(sa.func.max(number)).where(old))
    floor: int | None = connection.scalar(sa.select(TABLES.c.floor).where(own))
    if last is None or floor is None:
        return 0, False
    if last > floor:
        retiring = sa.func.max(sa.func.coalesce(TABLES.c.retiring, 0), last)
        connection.execute(TABLES.update().where(own).values(retiring=retiring))
    return last, last > floor


def step(
    connection: sa.Connection,
    shape: Shape,
    cutoff: datetime | None,
    column: str | None,
    max_count: int | None,
    last: int,
) -> Step:
    """Remove the oldest of what is too old, up to change ``last``, and expire positions before it.

    An append-only table loses rows; a keyed one only what it keeps of removals.
    """
    own = _lock(connection, shape)
    table, number, old = _old(connection, shape, cutoff, column, max_count)
    chosen = sa.and_(old, number <= last)
    numbers = connection.scalars(sa.select(number).where(chosen).order_by(number).limit(STEP)).all()
    if numbers:
        connection.execute(sa.delete(table).where(chosen, number <= numbers[-1]))
        floor = sa.func.max(TABLES.c.floor, numbers[-1])
        connection.execute(TABLES.update().where(own).values(floor=floor))
    done = len(numbers) < STEP
    if done:
        over = sa.case((TABLES.c.retiring > last, TABLES.c.retiring))
        connection.execute(TABLES.update().where(own).values(retiring=over))
    return Step(len(numbers), done)


def _lock(connection: sa.Connection, shape: Shape) -> sa.ColumnElement[bool]:
    """A write first: what is read afterwards is read under its lock."""
    own = TABLES.c.name == shape.name
    connection.execute(TABLES.update().where(own).values(floor=TABLES.c.floor))
    return own


def _old(
    connection: sa.Connection,
    shape: Shape,
    cutoff: datetime | None,
    column: str | None,
    max_count: int | None,
) -> tuple[sa.Table, sa.ColumnElement[int], sa.ColumnElement[bool]]:
    """The table of what is kept, its number, and which of it is too old."""
    table, number = shape.table, shape.number
    mine: sa.ColumnElement[bool] = sa.true()
    age: sa.ColumnElement[str] = REMOVALS.c.at
    if shape.tracking.keyed:
        table, number = REMOVALS, REMOVALS.c.number
        mine = REMOVALS.c.table_name == shape.name
    elif column is not None:
        age = sa.type_coerce(shape.columns[column], sa.Text)
    tests: list[sa.ColumnElement[bool]] = []
    if cutoff is not None:
        tests.append(age < text_of(cutoff))
    if max_count is not None:
        kept = sa.select(number).where(mine, number > 0).order_by(number.desc()).limit(1)
        newest_not_kept = connection.scalar(kept.offset(max_count))
        if newest_not_kept is not None:
            tests.append(number <= newest_not_kept)
    return table, number, sa.and_(mine, number > 0, sa.or_(sa.false(), *tests))

"""Retention on SQLite: removes what is too old in small steps, each its own transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from headwater.sql.shape import Shape
from headwater.sql.sqlite.moments import text_of
from headwater.sql.sqlite.schema import REMOVALS, TABLES

__all__ = ["Step", "step"]

# Rows of one transaction: few enough that other writers wait some milliseconds at most.
STEP = 500


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did. ``done``: nothing is left to remove."""

    removed: int
    done: bool


def step(
    connection: sa.Connection,
    shape: Shape,
    cutoff: datetime | None,
    column: str | None,
    max_count: int | None,
) -> Step:
    """Remove the oldest of what is too old, and expire the positions before it.

    An append-only table loses rows; a keyed one only what it keeps of removals.
    """
    # A write first: the numbers below are read under its lock.
    own = TABLES.c.name == shape.name
    connection.execute(TABLES.update().where(own).values(floor=TABLES.c.floor))
    number: sa.ColumnElement[int]
    if shape.tracking.keyed:
        table, number = REMOVALS, REMOVALS.c.number
        conditions: list[sa.ColumnElement[bool]] = [
            REMOVALS.c.table_name == shape.name,
            number > 0,
        ]
        age: sa.ColumnElement[str] = REMOVALS.c.at
    else:
        table, number = shape.table, shape.number
        conditions = [number > 0]
        age = (
            sa.type_coerce(shape.columns[column], sa.Text) if column is not None else REMOVALS.c.at
        )
    tests: list[sa.ColumnElement[bool]] = []
    if cutoff is not None:
        tests.append(age < text_of(cutoff))
    if max_count is not None:
        kept = sa.select(number).where(*conditions).order_by(number.desc()).limit(1)
        newest_not_kept = connection.scalar(kept.offset(max_count))
        if newest_not_kept is not None:
            tests.append(number <= newest_not_kept)
    if not tests:
        return Step(0, done=True)
    old = sa.select(number).where(*conditions, sa.or_(*tests)).order_by(number).limit(STEP)
    numbers = connection.scalars(old).all()
    if numbers:
        chosen = sa.and_(*conditions, sa.or_(*tests), number <= numbers[-1])
        connection.execute(sa.delete(table).where(chosen))
        floor = sa.func.max(TABLES.c.floor, numbers[-1])
        connection.execute(TABLES.update().where(own).values(floor=floor))
    return Step(len(numbers), done=len(numbers) < STEP)

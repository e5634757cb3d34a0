"""Adds tracking to a SQLite table that is there already, and takes it away."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from headwater.sql.sqlite import schema
from headwater.sql.tracked import CHANGE, Tracking, change_indexes

__all__ = ["add", "drop"]

# Rows that are numbered at once.
STEP = 1000


def add(connection: sa.Connection, tracking: Tracking, *, has_column: bool) -> None:
    """Column, own tables, triggers, numbers for the rows without one, indexes."""
    table = schema.quote(tracking.table)
    with _step(connection):
        if not has_column:
            connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {CHANGE} BIGINT")
        schema.drop_triggers(connection, tracking.table)
        schema.start(connection, tracking, anew=not has_column)
    _number(connection, tracking)
    for index in change_indexes(tracking):
        columns = ", ".join(map(schema.quote, index.columns))
        connection.exec_driver_sql(
            f"CREATE INDEX IF NOT EXISTS {schema.quote(index.name)} ON {table} ({columns})"
        )


def drop(connection: sa.Connection, table: str, indexes: Iterable[str]) -> None:
    """Triggers, the indexes of these names, the column, and what is known of its changes."""
    with _step(connection):
        schema.drop_triggers(connection, table)
        for index in indexes:
            connection.exec_driver_sql(f"DROP INDEX {schema.quote(index)}")
        connection.exec_driver_sql(f"ALTER TABLE {schema.quote(table)} DROP COLUMN {CHANGE}")
        schema.forget(connection, table)


def _number(connection: sa.Connection, tracking: Tracking) -> None:
    table, keys = schema.quote(tracking.table), [schema.quote(name) for name in tracking.key]
    columns, marks = ", ".join(keys), ", ".join("?" for _ in keys)
    last_key: Sequence[Any] | None = None
    own = schema.TABLES.c.name == tracking.table
    while True:
        with _step(connection):
            after = "" if last_key is None else f"AND ({columns}) > ({marks})"
            rows = connection.exec_driver_sql(
                f"SELECT {columns} FROM {table} WHERE {CHANGE} IS NULL {after} "  # noqa: S608 - quoted
                f"ORDER BY {columns} LIMIT {STEP}",
                tuple(last_key or ()),
            ).all()
            if rows:
                last: int = connection.execute(
                    sa.select(schema.TABLES.c.last).where(own)
                ).scalar_one()
                equal = " AND ".join(f"{key} = ?" for key in keys)
                connection.execute(schema.TABLES.update().where(own).values(last=last + len(rows)))
                connection.exec_driver_sql(
                    f"UPDATE {table} SET {CHANGE} = ? WHERE {equal}",  # noqa: S608 - quoted
                    [(last + at, *row) for at, row in enumerate(rows, 1)],
                )
        if len(rows) < STEP:
            return
        last_key = rows[-1]


@contextmanager
def _step(connection: sa.Connection) -> Iterator[None]:
    """A transaction of its own on a connection that has none open, as in AUTOCOMMIT."""
    driver = connection.connection.driver_connection
    options = connection.get_execution_options()
    if options.get("isolation_level") != "AUTOCOMMIT" or driver is None or driver.in_transaction:
        yield
        return
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise
    connection.exec_driver_sql("COMMIT")

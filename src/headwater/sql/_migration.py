"""Adds and drops the tracking of tables in migrations, and compares it with the models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from headwater.errors import DeclarationError
from headwater.sql._declaration import tracking_as
from headwater.sql._links import add_links, drop_links, links_drift, renew_links
from headwater.sql._model import attributes_of, tracking_of
from headwater.sql._progress import on_terminal
from headwater.sql._reflection import reflected
from headwater.sql._schemas import schema_of
from headwater.sql._tracking import SINCE, TABLES, Tracking


def add_tracking(
    op: Any,
    table: str,
    *,
    keyed: bool = False,
    filters: Sequence[str] = (),
    indexes: Iterable[Sequence[str]] = (),
    moments: Sequence[str] = (),
    notify: bool = True,
    schema: str | None = None,
    links: Sequence[str] = (),
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Track a table: add the columns, triggers and indexes, and Headwater's own tables.

    In a transaction, as Alembic runs migrations, it is all or nothing. On a connection in
    AUTOCOMMIT each step commits by itself; use ``op.get_context().autocommit_block()`` for a large
    table that others write to meanwhile. Existing rows come in the order of the primary key: SQLite
    numbers them, 1,000 at a time, and PostgreSQL leaves them as they are. On PostgreSQL no step
    holds a lock on the table for more than some milliseconds. If a long transaction has the table,
    a step waits 0.1 s for the lock, lets others pass and tries again, longer each time and 5 s at
    last. Then it raises the driver's error. In AUTOCOMMIT it builds the indexes while others write.
    Each step is logged before it starts.

    Arguments:
        op: Alembic's ``op``, or a connection.
        keyed, filters, indexes, notify: as in ``track()``.
        moments: date-time columns of a keyed table that have another type in the database, such
            as TEXT. Headwater finds those of a date-time type itself.
        schema: the table's schema, on PostgreSQL, if it is not the connection's own.
        links: on a keyed table, the columns that live queries join by, have conditions on, use as
            their key or are filtered by. Those of earlier calls stay. The error of a live query
            whose tables lack links names them.
        progress: called with the rows that are numbered and all that are to be, after each 1,000.
            Only on SQLite: PostgreSQL rewrites no row. Without one, a call with ``op`` shows a bar
            on a terminal.

    Raises DeclarationError.
    """
    connection = _connection(op)
    if links and not keyed:
        raise DeclarationError(
            f"table {table!r}: links= is for keyed tables, because a live query needs to notice "
            "updates; add keyed=True"
        )
    inspected = sa.inspect(connection)
    if table not in inspected.get_table_names(schema):
        if inspected.has_table(table, schema):
            raise DeclarationError(
                f"{table!r} is a view or a foreign table, and triggers do not see how its rows "
                "change; track the tables that it reads"
            )
        raise DeclarationError(f"there is no table {table!r} to track")
    target = reflected(connection, table, schema)
    for name in links:
        if name not in target.columns:
            raise DeclarationError(
                f"table {table!r} has no column {name!r}; it has {', '.join(target.columns.keys())}"
            )
        if target.columns[name].computed is not None:
            raise DeclarationError(
                f"table {table!r}: links= has {name!r}, a generated column, which changes without "
                "being set; name the columns that it is made of"
            )
    tracking = tracking_as(
        target,
        attributes_of(target)[1],
        keyed=keyed,
        filters=filters,
        indexes=indexes,
        notify=notify,
        moments=moments,
    )
    if progress is None and op is not connection:
        progress = on_terminal(table)
    schema_of(connection).add(connection, tracking, progress)
    if links or SINCE in target.columns:
        with schema_of(connection).step(connection):
            add_links(connection, tracking, links, has_column=SINCE in target.columns)


def drop_tracking(op: Any, table: str, *, schema: str | None = None) -> None:
    """Undo ``add_tracking``: drop a table's triggers, indexes and columns, and its removals.

    Headwater's own tables stay. Takes Alembic's ``op`` or a connection.
    """
    connection = _connection(op)
    tracking = Tracking(table, (), schema=schema)
    found = {column["name"] for column in sa.inspect(connection).get_columns(table, schema)}
    if SINCE in found:
        with schema_of(connection).step(connection):
            drop_links(connection, tracking)
    schema_of(connection).drop(connection, tracking)


@dataclass(frozen=True, slots=True)
class Drift:
    """How a table's tracking differs from its declaration.

    Attributes:
        table: its name, with its schema.
        wrong: a sentence for each difference.
        call: what mends it in a migration.
    """

    table: str
    wrong: tuple[str, ...]
    call: str

    def __str__(self) -> str:
        return f"table {self.table}: {'; '.join(self.wrong)}: {self.call}"


def drift_of(connection: sa.Connection, table: sa.Table) -> Drift | None:
    """Compare a tracked table with the database; None if nothing is wrong.

    What a running application checks, and the indexes too, without which it is only slow.
    """
    tracking = tracking_of(table)
    schema = schema_of(connection)
    columns = [column.name for column in attributes_of(table)[1].values()]
    found, wrong = schema.drift(connection, tracking, columns)
    wrong = wrong or links_drift(connection, found)
    if not wrong:
        mine = sa.select(TABLES.c.declared).where(TABLES.c.name == found.name)
        registered = sa.inspect(connection).has_table(TABLES.name)
        declared = connection.scalar(mine) if registered else None
        if declared is None:
            wrong = ["the database does not track it"]
        elif not tracking.served_by(declared):
            wrong = [f"its triggers were made for {declared}"]
        else:
            missing = schema.missing_indexes(connection, found)
            wrong = [f"it has no index on {', '.join(run)}" for run in missing]
    return Drift(tracking.full_name, tuple(wrong), tracking.call) if wrong else None


def drifts(connection: sa.Connection, tables: Iterable[sa.Table]) -> list[Drift]:
    """How the tracking of each of these tables differs, by name."""
    found = filter(None, (drift_of(connection, table) for table in tables))
    return sorted(found, key=lambda each: each.table)


def tracked_in(connection: sa.Connection) -> list[Tracking]:
    """The tables that the database tracks."""
    if not sa.inspect(connection).has_table(TABLES.name):
        return []
    found: list[Tracking] = schema_of(connection).tracked(connection)
    return found


def renew_epochs(connection: sa.Connection, tables: Iterable[str] | None = None) -> None:
    """Begin a new epoch of tracked tables: a position from before is then answered with a reset.

    Run it in a transaction after a backup was restored, because its change numbers will be used
    again. PostgreSQL needs it only after a dump was loaded or a cold copy of the files was put
    back; run it there as the owner of the tables.

    Arguments:
        tables: names as in ``headwater_tables``; all if None.

    Raises DeclarationError on another database, and for a name that is not tracked.
    """
    schema = schema_of(connection)
    if isinstance(tables, str):
        raise DeclarationError(f"{tables!r} is one name; give a list: [{tables!r}]")
    known = connection.scalars(sa.select(TABLES.c.name).order_by(TABLES.c.name)).all()
    names = list(known if tables is None else tables)
    for name in names:
        if name not in known:
            raise DeclarationError(
                f"{name!r} is not tracked, so it has no epoch; there is {', '.join(known)}"
            )
    if connection.dialect.name == "postgresql":
        renew_links(connection, names)
    schema.renew_epochs(connection, names)


def _connection(op: Any) -> sa.Connection:
    connection = op if isinstance(op, sa.Connection) else op.get_bind()
    if not isinstance(connection, sa.Connection):
        raise DeclarationError(
            "add_tracking reads the table first, so it cannot be written as offline SQL"
        )
    schema_of(connection)
    return connection

"""Tracking in migrations: for new tables and for those that hold rows already.

    from headwater.sql.alembic import add_tracking, drop_tracking

    def upgrade() -> None:
        op.create_table("logs", ...)
        add_tracking(op, "logs", indexes=[("user_id",)])

The arguments are column names, where ``track()`` takes attributes. Call ``add_tracking`` again when
the declaration changes, or when a batch operation rebuilt the table, which drops its triggers.
Numbers and positions stay.

Autogenerate proposes to drop what it does not find in the models, so leave it out in ``env.py``:

    context.configure(..., include_object=include_object)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import sqlalchemy as sa

from headwater.errors import DeclarationError
from headwater.sql.declaration import tracking_as
from headwater.sql.links import add_links, drop_links, renew_links
from headwater.sql.model import attributes_of
from headwater.sql.postgresql import schema as postgresql_schema
from headwater.sql.reflection import reflected
from headwater.sql.sqlite import schema as sqlite_schema
from headwater.sql.tracking import CHANGE, SINCE, Tracking

__all__ = ["add_tracking", "drop_tracking", "include_object", "renew_epochs"]


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
) -> None:
    """Track a table: add the columns, triggers and indexes, and Headwater's own tables.

    In a transaction, as Alembic runs migrations, it is all or nothing. On a connection in
    AUTOCOMMIT each step commits by itself; use ``op.get_context().autocommit_block()`` for a large
    table that others write to meanwhile. Existing rows come in the order of the primary key: SQLite
    numbers them, 1,000 at a time, and PostgreSQL leaves them as they are. On PostgreSQL no step
    holds a lock on the table for more than some milliseconds, or waits for one for more than 5 s.
    In AUTOCOMMIT it builds the indexes while others write. Each step is logged before it starts.

    Arguments:
        op: Alembic's ``op``, or a connection.
        keyed, filters, indexes, notify: as in ``track()``.
        moments: date-time columns of a keyed table that have another type in the database, such
            as TEXT. Headwater finds those of a date-time type itself.
        schema: the table's schema, on PostgreSQL, if it is not the connection's own.
        links: on a keyed table, the columns that live queries join by, have conditions on, use as
            their key or are filtered by. Those of earlier calls stay. The error of a live query
            whose tables lack links names them.

    Raises DeclarationError.
    """
    connection = _connection(op)
    if links and not keyed:
        raise DeclarationError(
            f"table {table!r}: links= is for keyed tables, because a live query needs to notice "
            "updates; add keyed=True"
        )
    if table not in sa.inspect(connection).get_table_names(schema):
        raise DeclarationError(f"there is no table {table!r} to track")
    target = reflected(connection, table, schema)
    for name in links:
        if name not in target.columns:
            raise DeclarationError(
                f"table {table!r} has no column {name!r}; it has {', '.join(target.columns.keys())}"
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
    if connection.dialect.name == "postgresql":
        postgresql_schema.add(connection, tracking, columns=tuple(target.columns.keys()))
    else:
        sqlite_schema.add(connection, tracking, has_column=CHANGE in target.columns)
    if links or SINCE in target.columns:
        with _step(connection):
            add_links(connection, tracking, links, has_column=SINCE in target.columns)


def drop_tracking(op: Any, table: str, *, schema: str | None = None) -> None:
    """Undo ``add_tracking``: drop a table's triggers, indexes and columns, and its removals.

    Headwater's own tables stay. Takes Alembic's ``op`` or a connection.
    """
    connection = _connection(op)
    tracking = Tracking(table, (), schema=schema)
    found = {column["name"] for column in sa.inspect(connection).get_columns(table, schema)}
    if SINCE in found:
        with _step(connection):
            drop_links(connection, tracking)
    if connection.dialect.name == "postgresql":
        postgresql_schema.drop(connection, tracking)
        return
    indexes = sa.inspect(connection).get_indexes(table)
    sqlite_schema.drop(
        connection,
        table,
        [str(index["name"]) for index in indexes if CHANGE in index["column_names"]],
    )


def renew_epochs(connection: sa.Connection, tables: Iterable[str] | None = None) -> None:
    """Begin a new epoch of tracked tables: a position from before is then answered with a reset.

    Run it in a transaction after a backup was restored, because its change numbers will be used
    again. PostgreSQL needs it only after a dump was loaded or a cold copy of the files was put
    back; run it there as the owner of the tables.

    Arguments:
        tables: names as in ``headwater_tables``; all if None.

    Raises DeclarationError on another database.
    """
    if connection.dialect.name == "sqlite":
        sqlite_schema.renew_epochs(connection, tables)
    elif connection.dialect.name == "postgresql":
        renew_links(connection, tables)
        postgresql_schema.renew_epochs(connection, tables)
    else:
        raise DeclarationError(f"tables on {connection.dialect.name!r} cannot be tracked")


def include_object(
    _object: Any, name: str | None, kind: str, reflected: bool, compare_to: Any
) -> bool:
    """For Alembic's ``context.configure``: leaves out what ``add_tracking`` added."""
    own = name is not None and (name.startswith("headwater_") or name.endswith(f"_{CHANGE}"))
    return not (own and (kind == "index" or (reflected and compare_to is None)))


def _step(connection: sa.Connection) -> AbstractContextManager[None]:
    if connection.dialect.name == "postgresql":
        return postgresql_schema.step(connection)
    return sqlite_schema.step(connection)


def _connection(op: Any) -> sa.Connection:
    connection = op if isinstance(op, sa.Connection) else op.get_bind()
    if not isinstance(connection, sa.Connection):
        raise DeclarationError(
            "add_tracking reads the table first, so it cannot be written as offline SQL"
        )
    if connection.dialect.name not in ("sqlite", "postgresql"):
        raise DeclarationError(f"tables on {connection.dialect.name!r} cannot be tracked")
    return connection

"""Tracking in migrations: for new tables and for those that hold rows already.

    from headwater.sql.alembic import add_tracking, drop_tracking

    def upgrade() -> None:
        op.create_table("logs", ...)
        add_tracking(op, "logs", indexes=[("user_id",)])

The arguments are the column names that the model's ``track()`` resolves to. When a declaration
changes, or after a batch operation has rebuilt the table and so lost its triggers, call
``add_tracking`` again: numbers and positions stay.

Autogenerate would propose to drop what it does not find in the models. In ``env.py``:

    context.configure(..., include_object=include_object)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from headwater.errors import DeclarationError
from headwater.sql.postgresql import migrate as postgresql_migrate
from headwater.sql.sqlite import migrate
from headwater.sql.tracked import CHANGE, Tracking

__all__ = ["add_tracking", "drop_tracking", "include_object"]


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
) -> None:
    """Track a table: columns, Headwater's own tables, triggers and indexes.

    In a transaction, as Alembic runs migrations, all of it is one; on a connection in AUTOCOMMIT
    (for a large table that others write to meanwhile: ``op.get_context().autocommit_block()``)
    each step is committed by itself. Rows that are there already stay in the order of the primary
    key. SQLite numbers them, 1,000 at a time. PostgreSQL leaves them as they are; no lock on the
    table is held longer than some milliseconds, or waited for longer than 5 s, and in AUTOCOMMIT
    indexes are built while others write. Each step is logged before it is taken.

    Arguments:
        op: Alembic's ``op``, or a connection.
        keyed, filters, indexes, notify: as in ``track()``.
        moments: date-time columns of a keyed table that have another type in the database, such
            as TEXT; those of a date-time type are found by themselves.
        schema: the table's schema, on PostgreSQL, if it is not the connection's own.

    Raises DeclarationError.
    """
    connection = _connection(op)
    found = sa.inspect(connection)
    if table not in found.get_table_names(schema):
        raise DeclarationError(f"there is no table {table!r} to track")
    columns = {column["name"]: column["type"] for column in found.get_columns(table, schema)}
    runs = [tuple(run) for run in indexes]
    if filters:
        runs.insert(0, tuple(filters))
    for name in (*filters, *moments, *(name for run in runs for name in run)):
        if name not in columns:
            raise DeclarationError(
                f"table {table!r} has no column {name!r}; it has {', '.join(columns)}"
            )
    key = tuple(found.get_pk_constraint(table, schema)["constrained_columns"])
    if not key:
        raise DeclarationError(f"table {table!r} has no primary key; a tracked table needs one")
    dated = tuple(name for name, kind in columns.items() if isinstance(kind, sa.DateTime))
    uniques = [tuple(one["column_names"]) for one in found.get_unique_constraints(table, schema)]
    for index in found.get_indexes(table, schema):
        names = tuple(name for name in index["column_names"] if name is not None)
        if index["unique"] and len(names) == len(index["column_names"]):
            uniques.append(names)
    tracking = Tracking(
        table=table,
        key=key,
        keyed=keyed,
        filters=tuple(filters),
        moments=tuple(dict.fromkeys((*dated, *moments))) if keyed else (),
        uniques=tuple(sorted(set(uniques))) if keyed else (),
        indexes=tuple(dict.fromkeys(runs)),
        notify=notify,
        schema=schema,
    )
    if connection.dialect.name == "postgresql":
        postgresql_migrate.add(connection, tracking, columns=tuple(columns))
    else:
        migrate.add(connection, tracking, has_column=CHANGE in columns)


def drop_tracking(op: Any, table: str, *, schema: str | None = None) -> None:
    """Undo ``add_tracking``: drop a table's triggers, indexes and columns, and forget its changes.

    Headwater's own tables stay. Takes Alembic's ``op`` or a connection.
    """
    connection = _connection(op)
    if connection.dialect.name == "postgresql":
        postgresql_migrate.drop(connection, Tracking(table, (), schema=schema))
        return
    indexes = sa.inspect(connection).get_indexes(table)
    migrate.drop(
        connection,
        table,
        [str(index["name"]) for index in indexes if CHANGE in index["column_names"]],
    )


def include_object(
    _object: Any, name: str | None, kind: str, reflected: bool, compare_to: Any
) -> bool:
    """Whether autogenerate is to look at something: not at what tracking made in the database."""
    own = name is not None and (name.startswith("headwater_") or name.endswith(f"_{CHANGE}"))
    return not (own and (kind == "index" or (reflected and compare_to is None)))


def _connection(op: Any) -> sa.Connection:
    connection = op if isinstance(op, sa.Connection) else op.get_bind()
    if not isinstance(connection, sa.Connection):
        raise DeclarationError(
            "tracking looks at the table, so it cannot be written as offline SQL"
        )
    if connection.dialect.name not in ("sqlite", "postgresql"):
        raise DeclarationError(f"tables on {connection.dialect.name!r} cannot be tracked")
    return connection

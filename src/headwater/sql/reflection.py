"""Reads a tracked table's columns and tracking from the database, where there is no model."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from headwater.errors import DeclarationError, SourceUnavailableError
from headwater.sql.declaration import track_as
from headwater.sql.faults import unavailable
from headwater.sql.postgresql.triggers import qualified, trigger_name
from headwater.sql.tracking import CHANGE, ORDER, TABLES, Tracking

__all__ = ["reflect"]


async def reflect(engine: AsyncEngine, table: str) -> sa.Table:
    """The table with its columns, key and tracking, as ``Table`` takes it.

    Arguments:
        table: its name; on PostgreSQL ``schema.name`` for one that is not found without.

    Raises DeclarationError for a table that is not there or not tracked, and
    SourceUnavailableError.
    """
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(_reflect, table)
    except Exception as error:
        said = unavailable(error)
        if said is None:
            raise
        raise SourceUnavailableError(f"table {table}", said) from error


def _reflect(connection: sa.Connection, wanted: str) -> sa.Table:
    found = sa.inspect(connection)
    name, schema = wanted, None
    names = found.get_table_names()
    if name not in names and connection.dialect.name == "postgresql" and "." in name:
        schema, _, name = name.partition(".")
        names = found.get_table_names(schema) if schema in found.get_schema_names() else []
    if name not in names:
        raise DeclarationError(f"there is no table {wanted!r} in the database")
    columns = found.get_columns(name, schema)
    key = tuple(found.get_pk_constraint(name, schema)["constrained_columns"])
    declared = None
    if found.has_table(TABLES.name):
        asked = sa.select(TABLES.c.declared).where(TABLES.c.name == wanted)
        declared = connection.scalar(asked)
    if declared is None or CHANGE not in {column["name"] for column in columns}:
        raise DeclarationError(
            f"table {wanted!r} is not tracked: call headwater.sql.alembic.add_tracking(connection, "
            f"{wanted!r}) once, in a migration"
        )
    known = json.loads(declared)
    tracking = Tracking(name, key, known["keyed"], tuple(known["filters"]), schema=schema)
    table = sa.Table(
        name,
        sa.MetaData(),
        *(
            sa.Column(column["name"], _kind(connection, column), primary_key=column["name"] in key)
            for column in columns
            if column["name"] not in (CHANGE, ORDER)
        ),
        schema=schema,
    )
    if connection.dialect.name == "postgresql":
        wakes = sa.text(
            "SELECT count(*) FROM pg_trigger "
            "WHERE tgrelid = CAST(:table AS regclass) AND tgname = :name"
        )
        given = {"table": qualified(tracking), "name": trigger_name(tracking, "wake_insert")}
        tracking = replace(tracking, notify=bool(connection.scalar(wakes, given)))
    track_as(table, tracking)
    return table


def _kind(connection: sa.Connection, column: Any) -> sa.types.TypeEngine[Any]:
    kind: sa.types.TypeEngine[Any] = column["type"]
    if connection.dialect.name == "sqlite" and isinstance(kind, sa.Numeric):
        # SQLite stores no decimals; SQLAlchemy would make some of floats.
        return sa.types.NullType()
    return kind

"""Reads a tracked table's columns and tracking from the database, where there is no model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from headwater.errors import DeclarationError, SourceUnavailableError
from headwater.sql._faults import unavailable
from headwater.sql._model import TRACKING
from headwater.sql._tracking import CHANGE, TABLES, Tracking
from headwater.sql.postgresql._triggers import qualified, trigger_name


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
    table = reflected(connection, name, schema)
    declared = None
    if found.has_table(TABLES.name):
        asked = sa.select(TABLES.c.declared).where(TABLES.c.name == wanted)
        declared = connection.scalar(asked)
    if declared is None or CHANGE not in table.columns:
        raise DeclarationError(
            f"table {wanted!r} is not tracked: call headwater.sql.alembic.add_tracking(connection, "
            f"{wanted!r}) once, in a migration"
        )
    key = tuple(column.name for column in table.primary_key.columns)
    tracking = replace(Tracking(name, key, schema=schema).as_declared(declared), key=key)
    if connection.dialect.name == "postgresql":
        wakes = sa.text(
            "SELECT count(*) FROM pg_trigger "
            "WHERE tgrelid = CAST(:table AS regclass) AND tgname = :name"
        )
        given = {"table": qualified(tracking), "name": trigger_name(tracking, "wake_insert")}
        tracking = replace(tracking, notify=bool(connection.scalar(wakes, given)))
    table.info[TRACKING] = tracking
    return table


def reflected(connection: sa.Connection, name: str, schema: str | None) -> sa.Table:
    """A table as it is in the database: its columns and key."""
    found = sa.inspect(connection)
    key = found.get_pk_constraint(name, schema)["constrained_columns"]
    table = sa.Table(name, sa.MetaData(), schema=schema)
    for column in found.get_columns(name, schema):
        kind: sa.types.TypeEngine[Any] = column["type"]
        if connection.dialect.name == "sqlite" and isinstance(kind, sa.Numeric):
            # SQLite stores no decimals; SQLAlchemy would make some of floats.
            kind = sa.types.NullType()
        generated = [sa.Computed(column["computed"]["sqltext"])] if "computed" in column else []
        primary = column["name"] in key
        table.append_column(sa.Column(column["name"], kind, *generated, primary_key=primary))
    return table

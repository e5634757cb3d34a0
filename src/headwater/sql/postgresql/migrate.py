"""Adds tracking to a PostgreSQL table that is there already, and takes it away.

No step rewrites the table or holds a lock on it for long. The columns come with constants as
defaults, which PostgreSQL keeps in its catalogue: rows that are there already are of transaction 0,
before all others, in the order of the primary key. In AUTOCOMMIT indexes are built while others
write; in a transaction writers wait until they are built.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa

from headwater.errors import DeclarationError
from headwater.sql.postgresql import schema
from headwater.sql.postgresql.connections import OLDEST
from headwater.sql.tracked import CHANGE, ORDER, Tracking, change_indexes

__all__ = ["add", "drop"]

logger = logging.getLogger("headwater.sql")

# How long a step waits for its lock. All others wait behind it meanwhile: better to give up, and
# to try again when the long transaction that has the table is over.
_PATIENCE = "5s"


def add(connection: sa.Connection, tracking: Tracking, *, columns: Sequence[str]) -> None:
    """Columns, own tables, triggers, indexes. ``columns``: those that the table has.

    Each step is logged before it is taken. May be repeated, also after it was broken off.
    """
    version, *_ = connection.dialect.server_version_info or (0,)
    if int(version) * 10000 < OLDEST:
        raise DeclarationError(
            f"PostgreSQL {version} is too old: tables can be tracked on 13 and later"
        )
    alone = _is_alone(connection)
    table = schema.qualified(tracking)
    with _step(connection, alone=alone):
        logger.info("%s: note it in headwater_tables", table)
        schema.register(connection, tracking, anew=CHANGE not in columns)
        new = [
            f"ADD COLUMN {name} {kind}"
            for name, kind in (
                (CHANGE, "xid8 DEFAULT '0'"),
                (ORDER, "bigint NOT NULL DEFAULT 0"),
            )
            if name not in columns
        ]
        if new:
            logger.info("%s: %s; a moment's lock, nothing is rewritten", table, ", ".join(new))
            schema.run(connection, f"ALTER TABLE {table} {', '.join(new)}")
        logger.info("%s: set defaults and triggers; a moment's lock", table)
        schema.set_defaults(connection, tracking)
        schema.install(connection, tracking)
    # Of a partitioned table PostgreSQL builds no index concurrently.
    beside = alone and not _is_partitioned(connection, table)
    concurrently, how = ("CONCURRENTLY ", "go on") if beside else ("", "wait")
    for index in change_indexes(tracking):
        name, parts = schema.quote(index.name), ", ".join(map(schema.quote, index.postgresql))
        logger.info("%s: build index %s; writers %s meanwhile", table, name, how)
        if _is_broken(connection, tracking, index.name):
            schema.run(connection, f"DROP INDEX {_in_schema(tracking, index.name)}")
        schema.run(
            connection, f"CREATE INDEX {concurrently}IF NOT EXISTS {name} ON {table} ({parts})"
        )


def drop(connection: sa.Connection, tracking: Tracking) -> None:
    """Triggers, columns with their indexes, and what is known of the table's changes."""
    with _step(connection, alone=_is_alone(connection)):
        schema.drop_triggers(connection, tracking)
        schema.run(
            connection,
            f"ALTER TABLE {schema.qualified(tracking)} DROP COLUMN {CHANGE}, DROP COLUMN {ORDER}",
        )
        schema.forget(connection, tracking)


def _is_alone(connection: sa.Connection) -> bool:
    """Whether each statement is a transaction of its own."""
    driver = connection.connection.driver_connection
    return driver is not None and bool(driver.autocommit)


def _is_partitioned(connection: sa.Connection, table: str) -> bool:
    found = connection.execute(
        sa.text("SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(:name)"),
        {"name": table},
    ).scalar()
    return bool(found)


def _is_broken(connection: sa.Connection, tracking: Tracking, index: str) -> bool:
    """Whether a build of this index was broken off before."""
    found = connection.execute(
        sa.text("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"),
        {"name": _in_schema(tracking, index)},
    ).scalar()
    return bool(found)


def _in_schema(tracking: Tracking, name: str) -> str:
    prefix = "" if tracking.schema is None else schema.quote(tracking.schema) + "."
    return prefix + schema.quote(name)


@contextmanager
def _step(connection: sa.Connection, *, alone: bool) -> Iterator[None]:
    """A short transaction of its own on a connection in AUTOCOMMIT; else the caller's."""
    if not alone:
        # The rest of the caller's transaction goes on with its own.
        before = connection.scalar(sa.text("SELECT current_setting('lock_timeout')"))
        _wait_for_locks(connection, _PATIENCE)
        yield
        _wait_for_locks(connection, before)
        return
    schema.run(connection, "BEGIN")
    try:
        _wait_for_locks(connection, _PATIENCE)
        yield
    except BaseException:
        schema.run(connection, "ROLLBACK")
        raise
    schema.run(connection, "COMMIT")


def _wait_for_locks(connection: sa.Connection, longest: str) -> None:
    """Until the end of the transaction."""
    connection.execute(
        sa.text("SELECT set_config('lock_timeout', :longest, true)"), {"longest": longest}
    )

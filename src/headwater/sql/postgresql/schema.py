"""Adds the tracking of a table on PostgreSQL, for models and in migrations, and drops it.

In a migration no step rewrites the table or holds a lock on it for long. The columns come with
constants as defaults, which PostgreSQL keeps in its catalogue. So rows that exist already are of
transaction 0, before all others, in the order of the primary key. In AUTOCOMMIT the indexes are
built while others write; in a transaction writers wait until they are built.
"""

# ruff: noqa: S608 - names are quoted here; DDL takes no parameters

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa

from headwater.errors import DeclarationError
from headwater.sql.postgresql.connections import OLDEST
from headwater.sql.postgresql.triggers import (
    KINDS,
    functions,
    qualified,
    run,
    trigger_name,
    triggers,
)
from headwater.sql.tracking import (
    CHANGE,
    NUMBERS,
    ORDER,
    REMOVALS,
    TABLES,
    Tracking,
    change_indexes,
    create_own_tables,
    forget,
    new_epoch,
    quote,
    register,
)

logger = logging.getLogger("headwater.sql")

# How long a step waits for its lock. Everybody else waits behind it meanwhile, so it gives up soon;
# try again when the long transaction that locks the table is over.
LOCK_TIMEOUT = "5s"


def start(connection: sa.Connection, tracking: Tracking) -> None:
    """Track an empty table that was just created with the column of the change."""
    table = qualified(tracking)
    _register(connection, tracking, anew=True)
    run(connection, f"ALTER TABLE {table} ADD COLUMN {ORDER} bigint NOT NULL DEFAULT 0")
    _set_defaults(connection, tracking)
    for index in change_indexes(tracking):
        columns = ", ".join(map(quote, index.postgresql))
        run(connection, f"CREATE INDEX {quote(index.name)} ON {table} ({columns})")
    _install(connection, tracking)


def add(connection: sa.Connection, tracking: Tracking, *, columns: Sequence[str]) -> None:
    """Track a table that exists. May be repeated, also after it was interrupted.

    ``columns``: those that the table has.
    """
    version, *_ = connection.dialect.server_version_info or (0,)
    if int(version) * 10000 < OLDEST:
        raise DeclarationError(
            f"PostgreSQL {version} is too old: tables can be tracked on 13 and later"
        )
    alone = _is_alone(connection)
    table = qualified(tracking)
    with step(connection):
        logger.info("%s: register it in headwater_tables", table)
        _register(connection, tracking, anew=CHANGE not in columns)
        new = [
            f"ADD COLUMN {name} {kind}"
            for name, kind in ((CHANGE, "xid8 DEFAULT '0'"), (ORDER, "bigint NOT NULL DEFAULT 0"))
            if name not in columns
        ]
        if new:
            logger.info("%s: %s; a moment's lock, nothing is rewritten", table, ", ".join(new))
            run(connection, f"ALTER TABLE {table} {', '.join(new)}")
        logger.info("%s: set defaults and triggers; a moment's lock", table)
        _set_defaults(connection, tracking)
        _install(connection, tracking)
    # PostgreSQL builds no index of a partitioned table concurrently.
    beside = alone and not _is_partitioned(connection, table)
    concurrently, how = ("CONCURRENTLY ", "go on") if beside else ("", "wait")
    for index in change_indexes(tracking):
        name, parts = quote(index.name), ", ".join(map(quote, index.postgresql))
        logger.info("%s: build index %s; writers %s meanwhile", table, name, how)
        if _is_broken(connection, tracking, index.name):
            run(connection, f"DROP INDEX {_in_schema(tracking, index.name)}")
        run(connection, f"CREATE INDEX {concurrently}IF NOT EXISTS {name} ON {table} ({parts})")


def drop(connection: sa.Connection, tracking: Tracking) -> None:
    """Drop a table's triggers and columns with their indexes, and forget its changes."""
    with step(connection):
        _drop_triggers(connection, tracking)
        run(
            connection,
            f"ALTER TABLE {qualified(tracking)} DROP COLUMN {CHANGE}, DROP COLUMN {ORDER}",
        )
        forget(connection, tracking)


def renew_epochs(connection: sa.Connection, tables: Iterable[str] | None = None) -> None:
    """As ``headwater.sql.renew_epochs``.

    Rows with transactions of another server, as from a dump, become rows from before the tracking.
    Removals by those transactions are deleted.
    """
    names = list(tables) if tables is not None else None
    found = connection.scalars(sa.select(TABLES.c.name)).all()
    for name in found if names is None else names:
        schema, _, table = name.rpartition(".")
        tracking = Tracking(table, (), schema=schema or None)
        mine = TABLES.c.name == name
        connection.execute(TABLES.update().where(mine).values(epoch=new_epoch(), floor=0))
        connection.execute(REMOVALS.delete().where(REMOVALS.c.table_name == name))
        _switch(connection, tracking, "update", "DISABLE")
        run(
            connection,
            f"UPDATE {qualified(tracking)} SET {CHANGE} = '0', {ORDER} = 0 "
            f"WHERE {CHANGE} >= pg_snapshot_xmax(pg_current_snapshot())",
        )
        _switch(connection, tracking, "update", "ENABLE ALWAYS")


def _register(connection: sa.Connection, tracking: Tracking, *, anew: bool) -> None:
    """Register the table in Headwater's own. Unless ``anew`` it keeps its epoch."""
    create_own_tables(connection)
    # Whoever may insert into the table must get numbers, as with an identity column.
    own = _own_schema(connection)
    run(connection, f"GRANT USAGE ON SEQUENCE {own}.{NUMBERS.name} TO PUBLIC")
    register(connection, tracking, anew=anew)


def _set_defaults(connection: sa.Connection, tracking: Tracking) -> None:
    """Give rows that are inserted from now on their transaction and order."""
    own, table = _own_schema(connection), qualified(tracking)
    run(
        connection,
        f"ALTER TABLE {table} ALTER COLUMN {CHANGE} SET DEFAULT pg_current_xact_id(), "
        f"ALTER COLUMN {ORDER} SET DEFAULT nextval('{own}.{NUMBERS.name}'::regclass)",
    )


def _install(connection: sa.Connection, tracking: Tracking) -> None:
    """Create the table's triggers, instead of those of another declaration."""
    _drop_triggers(connection, tracking)
    own = _own_schema(connection)
    made = triggers(tracking, own)
    for statement in (*functions(tracking, own), *made.values()):
        run(connection, statement)
    # ALWAYS: also for what logical replication applies, and while ordinary triggers are disabled.
    for kind in made:
        _switch(connection, tracking, kind, "ENABLE ALWAYS")


def _drop_triggers(connection: sa.Connection, tracking: Tracking) -> None:
    """Drop a table's triggers, of whatever declaration."""
    for kind in KINDS:
        name = quote(trigger_name(tracking, kind))
        run(connection, f"DROP TRIGGER IF EXISTS {name} ON {qualified(tracking)}")


def _switch(connection: sa.Connection, tracking: Tracking, kind: str, how: str) -> None:
    name = quote(trigger_name(tracking, kind))
    run(connection, f"ALTER TABLE {qualified(tracking)} {how} TRIGGER {name}")


def _own_schema(connection: sa.Connection) -> str:
    """The schema of Headwater's own tables, as SQL: a writer may have another search_path."""
    found = run(
        connection,
        "SELECT quote_ident(nspname) FROM pg_namespace "
        f"WHERE oid = (SELECT relnamespace FROM pg_class WHERE oid = '{TABLES.name}'::regclass)",
    ).scalar_one()
    return str(found)


def _is_alone(connection: sa.Connection) -> bool:
    """Whether each statement is a transaction of its own."""
    driver = connection.connection.dbapi_connection
    return driver is not None and bool(getattr(driver, "autocommit", False))


def _is_partitioned(connection: sa.Connection, table: str) -> bool:
    found = connection.execute(
        sa.text("SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(:name)"),
        {"name": table},
    ).scalar()
    return bool(found)


def _is_broken(connection: sa.Connection, tracking: Tracking, index: str) -> bool:
    """Whether an earlier build of this index was interrupted."""
    found = connection.execute(
        sa.text("SELECT NOT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"),
        {"name": _in_schema(tracking, index)},
    ).scalar()
    return bool(found)


def _in_schema(tracking: Tracking, name: str) -> str:
    prefix = "" if tracking.schema is None else quote(tracking.schema) + "."
    return prefix + quote(name)


@contextmanager
def step(connection: sa.Connection) -> Iterator[None]:
    """A short transaction of its own on a connection in AUTOCOMMIT; else the caller's."""
    if not _is_alone(connection):
        # The rest of the caller's transaction keeps its own time-out.
        before = connection.scalar(sa.text("SELECT current_setting('lock_timeout')"))
        _wait_for_locks(connection, LOCK_TIMEOUT)
        yield
        _wait_for_locks(connection, before)
        return
    run(connection, "BEGIN")
    try:
        _wait_for_locks(connection, LOCK_TIMEOUT)
        yield
    except BaseException:
        run(connection, "ROLLBACK")
        raise
    run(connection, "COMMIT")


def _wait_for_locks(connection: sa.Connection, longest: str) -> None:
    """Set the time-out until the end of the transaction."""
    connection.execute(
        sa.text("SELECT set_config('lock_timeout', :longest, true)"), {"longest": longest}
    )

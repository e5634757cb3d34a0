"""Adds the tracking of a table on PostgreSQL, for models and in migrations, and drops it.

In a migration no step rewrites the table or holds a lock on it for long. The columns come with
constants as defaults, which PostgreSQL keeps in its catalogue. So rows that exist already are of
transaction 0, before all others, in the order of the primary key. In AUTOCOMMIT the indexes are
built while others write; in a transaction writers wait until they are built.
"""

# ruff: noqa: S608 - names are quoted here; DDL takes no parameters

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

import sqlalchemy as sa

from headwater.errors import DeclarationError
from headwater.sql._faults import TABLE_MISSING
from headwater.sql._tracking import (
    CHANGE,
    NUMBERS,
    ORDER,
    REMOVALS,
    TABLES,
    Tracking,
    change_indexes,
    create_own_tables,
    declared_before,
    forget,
    new_epoch,
    quote,
    register,
)
from headwater.sql.postgresql._catalogue import (
    CatalogueTable,
    read_registered,
    read_table,
)
from headwater.sql.postgresql._connections import OLDEST
from headwater.sql.postgresql._locks import is_alone, lock_table, step
from headwater.sql.postgresql._triggers import (
    disabled,
    functions,
    make,
    qualified,
    run,
    schema_with,
    trigger_name,
    triggers,
)

logger = logging.getLogger("headwater.sql")


def start(connection: sa.Connection, tracking: Tracking) -> None:
    """Track an empty table that was just created with the column of the change."""
    table = read_table(connection, tracking)
    if table is None:
        raise DeclarationError(
            f"table {tracking.full_name!r} is not where its model says, as with "
            "schema_translate_map=: give the table its schema, or the connection a search_path"
        )
    table.check(tracking)
    _create_own_tables(connection)
    forget(connection, table.tracking)
    added = f"ADD COLUMN {ORDER} bigint NOT NULL DEFAULT 0"
    run(connection, f"ALTER TABLE {qualified(tracking)} {added}")
    _build_indexes(connection, table, beside=False)
    _install(connection, tracking)


def add(connection: sa.Connection, tracking: Tracking, _progress: object = None) -> None:
    """Track a table that exists. May be repeated, also after it was interrupted.

    No row is numbered, so there is no progress.
    """
    version, *_ = connection.dialect.server_version_info or (0,)
    if int(version) * 10000 < OLDEST:
        raise DeclarationError(
            f"PostgreSQL {version} is too old: tables can be tracked on 13 and later"
        )
    name = qualified(tracking)
    with step(connection):
        table = read_table(connection, tracking)
        assert table is not None, "it was found before"
        table.check(tracking)
        _create_own_tables(connection)
        if CHANGE not in table.columns:
            forget(connection, table.tracking)
    new = [
        f"ADD COLUMN {column} {kind}"
        for column, kind in (
            (CHANGE, "xid8 DEFAULT '0'"),
            (ORDER, "bigint NOT NULL DEFAULT 0"),
        )
        if column not in table.columns
    ]
    if new:
        logger.info("%s: %s; a moment's lock, nothing is rewritten", name, ", ".join(new))
        with step(connection):
            lock_table(connection, tracking)
            run(connection, f"ALTER TABLE {name} {', '.join(new)}")
    # PostgreSQL builds no index of a partitioned table concurrently.
    beside = is_alone(connection) and not table.tracking.partitioned
    first = beside and not table.triggers
    if first:
        # Writers do not pay for the triggers yet.
        _build_indexes(connection, table, beside=True)
    logger.info("%s: register it, set defaults and triggers; a moment's lock", name)
    with step(connection):
        _install(connection, tracking)
    if not first:
        _build_indexes(connection, table, beside=beside)


def drop(connection: sa.Connection, tracking: Tracking) -> None:
    """Drop a table's triggers and columns with their indexes, and forget its changes."""
    with step(connection):
        table = read_table(connection, tracking)
        if table is None:
            raise DeclarationError(
                f"there is no table {tracking.full_name!r}, so no tracking to drop"
            )
        lock_table(connection, tracking)
        _drop_triggers(connection, table)
        run(
            connection,
            f"ALTER TABLE {qualified(tracking)} DROP COLUMN {CHANGE}, DROP COLUMN {ORDER}",
        )
        forget(connection, table.tracking)


def registered(connection: sa.Connection, tracking: Tracking) -> Tracking:
    """The tracking with the name of the registration that the table's triggers use."""
    table = read_table(connection, tracking)
    return tracking if table is None else table.tracking


def drift(
    connection: sa.Connection, tracking: Tracking, columns: Iterable[str]
) -> tuple[Tracking, list[str]]:
    """As on SQLite."""
    table = read_table(connection, tracking)
    if table is None:
        return tracking, [TABLE_MISSING]
    table.check(tracking)
    table.check_visible(tracking)
    found = [f"it has no column {name!r}" for name in columns if name not in table.columns]
    made_for = declared_before(connection, table.tracking) if table.triggers else None
    return table.tracking, found + table.drift(tracking, made_for)


def links_drift(connection: sa.Connection, tracking: Tracking, links: Iterable[str]) -> list[str]:
    """As on SQLite."""
    table = read_table(connection, tracking)
    return [] if table is None else table.links_drift(list(links))


def renew_epochs(connection: sa.Connection, names: Iterable[str]) -> None:
    """As ``headwater.sql.renew_epochs``.

    Rows with transactions of another server, as from a dump, become rows from before the tracking.
    Removals by those transactions are deleted.
    """
    there = dict(read_registered(connection))
    for name in names:
        mine = TABLES.c.name == name
        connection.execute(TABLES.update().where(mine).values(epoch=new_epoch(), floor=0))
        connection.execute(REMOVALS.delete().where(REMOVALS.c.table_name == name))
        table = read_table(connection, there[name]) if name in there else None
        if table is None:
            continue
        with disabled(connection, table.tracking, [each.name for each in table.triggers]):
            run(
                connection,
                f"UPDATE {qualified(table.tracking)} SET {CHANGE} = '0', {ORDER} = 0 "
                f"WHERE {CHANGE} >= pg_snapshot_xmax(pg_current_snapshot())",
            )


def tracked(connection: sa.Connection) -> list[Tracking]:
    """As on SQLite."""
    return [tracking for _, tracking in read_registered(connection)]


def _create_own_tables(connection: sa.Connection) -> None:
    create_own_tables(connection)
    # Whoever may insert into the table must get numbers, as with an identity column.
    own = schema_with(connection, TABLES.name)
    run(connection, f"GRANT USAGE ON SEQUENCE {own}.{NUMBERS.name} TO PUBLIC")


def _install(connection: sa.Connection, tracking: Tracking) -> None:
    """Register the table with its defaults and triggers, instead of those it has."""
    own, found = schema_with(connection, TABLES.name), read_table(connection, tracking)
    assert found is not None, "it was found before"
    wanted = found.tracking
    for function in functions(wanted, own):
        run(connection, function.ddl(own))
    lock_table(connection, wanted)
    table = read_table(connection, wanted)
    assert table is not None, "it is locked"
    # Without its triggers, or with others, it may have changed unseen.
    before = declared_before(connection, wanted)
    missed = before is not None and bool(table.drift(before))
    register(connection, wanted, anew=False, missed=missed)
    # SQLAlchemy reads "nextval('name')" as a sequence of the table's schema, and Alembic then looks
    # there for it. The casts do nothing else than hide it.
    numbers = f"nextval('{own}.{NUMBERS.name}'::regclass::oid::regclass)"
    run(
        connection,
        f"ALTER TABLE {qualified(wanted)} ALTER COLUMN {CHANGE} "
        f"SET DEFAULT pg_current_xact_id(), ALTER COLUMN {ORDER} SET DEFAULT {numbers}",
    )
    _drop_triggers(connection, table)
    named = {trigger_name(wanted, kind): each for kind, each in triggers(wanted).items()}
    make(connection, wanted, own, named)


def _drop_triggers(connection: sa.Connection, table: CatalogueTable) -> None:
    """Drop a table's triggers, of whatever declaration."""
    for each in table.triggers:
        run(connection, f"DROP TRIGGER {quote(each.name)} ON {qualified(table.tracking)}")


def missing_indexes(connection: sa.Connection, tracking: Tracking) -> list[tuple[str, ...]]:
    """As on SQLite."""
    found = connection.execute(_INDEXES, {"table": qualified(tracking)}).all()
    there = {tuple(columns) for _, own, valid, columns in found if own and valid}
    wanted = change_indexes(tracking)
    return [index.postgresql for index in wanted if index.postgresql not in there]


def _build_indexes(connection: sa.Connection, table: CatalogueTable, *, beside: bool) -> None:
    """Build the indexes that are missing. ``beside``: while others write."""
    tracking = table.tracking
    concurrently, how = ("CONCURRENTLY ", "go on") if beside else ("", "wait")
    found = connection.execute(_INDEXES, {"table": qualified(tracking)}).all()
    there = {tuple(columns) for _, own, valid, columns in found if own and valid}
    taken = {name for name, own, *_ in found if not own}
    for index in change_indexes(tracking, taken):
        if index.postgresql in there:
            continue
        name, parts = quote(index.name), ", ".join(map(quote, index.postgresql))
        logger.info("%s: build index %s; writers %s meanwhile", qualified(tracking), name, how)
        # An earlier build may have been interrupted, or it has other columns.
        if any(own and index.name == known for known, own, *_ in found):
            run(connection, f"DROP INDEX {qualified(replace(tracking, table=index.name))}")
        run(connection, f"CREATE INDEX {concurrently}{name} ON {qualified(tracking)} ({parts})")


# The indexes of a table's schema: name, whether it is the table's, whether valid, its columns.
_INDEXES = sa.text("""SELECT c.relname, i.indrelid = t.oid, i.indisvalid,
ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, nth)
JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum ORDER BY k.nth)
FROM pg_class AS t JOIN pg_class AS c ON c.relnamespace = t.relnamespace
JOIN pg_index AS i ON i.indexrelid = c.oid WHERE t.oid = to_regclass(:table)""")

"""Adds the tracking of a table on SQLite, compares it with what it should be, and drops it."""

# ruff: noqa: S608 - names are quoted here; DDL takes no parameters

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from headwater.errors import DeclarationError
from headwater.sql._faults import TABLE_MISSING
from headwater.sql._tracking import (
    CHANGE,
    TABLES,
    Tracking,
    a_view,
    change_indexes,
    create_own_tables,
    declared_before,
    forget,
    new_epoch,
    quote,
    register,
)
from headwater.sql.sqlite import _links
from headwater.sql.sqlite._triggers import KINDS, trigger_name, triggers
from headwater.sql.sqlite._uniques import rowid_of, uniques_of

# Rows that ``add`` numbers in one transaction.
STEP = 1000


def check_schema(tracking: Tracking) -> None:
    """Raises DeclarationError for a table of an attached database."""
    if tracking.schema is not None:
        raise DeclarationError(
            f"table {tracking.full_name!r} cannot be tracked: on SQLite a schema is another file, "
            "and triggers cannot write to two; leave the schema out"
        )


def registered(connection: sa.Connection, tracking: Tracking) -> Tracking:
    """The tracking with the name of the registration that the table's triggers use.

    SQLite renames the table of a trigger, and leaves the trigger's name and texts.
    Raises DeclarationError for a view.
    """
    check_schema(tracking)
    kind = "SELECT type FROM sqlite_master WHERE type = 'view' AND lower(name) = ?"
    if connection.exec_driver_sql(kind, (tracking.table.lower(),)).first():
        raise DeclarationError(a_view(tracking))
    names = triggers_on(connection, tracking)
    if names:
        known = min(names, key=len).removeprefix("headwater_").rpartition("_")[0]
        return replace(tracking, registered=known)
    every = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    others = set(every.scalars()) - set(names)
    if any(trigger_name(tracking.table, kind) in others for kind in KINDS):
        return replace(tracking, registered=f"{tracking.table} {new_epoch()}")
    return tracking


def start(connection: sa.Connection, tracking: Tracking) -> None:
    """Track an empty table that was just created with the column of the change."""
    create_own_tables(connection)
    tracking = registered(connection, tracking)
    register(connection, tracking, anew=True)
    _install(connection, tracking)
    _build_indexes(connection, tracking)


def add(
    connection: sa.Connection,
    tracking: Tracking,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Track a table that exists: column, own tables, triggers, numbers for its rows, indexes."""
    table = quote(tracking.table)
    with step(connection):
        create_own_tables(connection)
        tracking = registered(connection, tracking)
        # Without its triggers, or with others, it may have changed unseen.
        before = declared_before(connection, tracking)
        missed = before is not None and bool(_drifted(connection, before))
        has_column = CHANGE in _columns(connection, tracking)
        if not has_column:
            connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {CHANGE} INTEGER")
        register(connection, tracking, anew=not has_column, missed=missed)
        _install(connection, tracking)
        highest = sa.text(f"SELECT coalesce(max({CHANGE}), 0) FROM {table}")
        last = sa.func.max(TABLES.c.last, connection.scalar(highest))
        connection.execute(TABLES.update().where(TABLES.c.name == tracking.name).values(last=last))
    _number(connection, tracking, progress)
    _build_indexes(connection, tracking)


def drop(connection: sa.Connection, tracking: Tracking) -> None:
    """Drop a table's triggers, indexes and the column, and forget its changes."""
    with step(connection):
        tracking = registered(connection, tracking)
        _drop_triggers(connection, tracking)
        for name in _indexes(connection, tracking).values():
            connection.exec_driver_sql(f"DROP INDEX {quote(name)}")
        connection.exec_driver_sql(f"ALTER TABLE {quote(tracking.table)} DROP COLUMN {CHANGE}")
        forget(connection, tracking)


def drift(
    connection: sa.Connection, tracking: Tracking, columns: Iterable[str]
) -> tuple[Tracking, list[str]]:
    """The tracking as it is registered, and a sentence for each difference to what it should be.

    ``columns``: those that the model maps.
    """
    there = _columns(connection, tracking)
    if not there:
        return tracking, [TABLE_MISSING]
    tracking = registered(connection, tracking)
    found = [f"it has no column {name!r}" for name in columns if name not in there]
    if CHANGE not in there:
        return tracking, [*found, "the database does not track it"]
    return tracking, found + _drifted(connection, tracking)


def links_drift(connection: sa.Connection, tracking: Tracking, links: Sequence[str]) -> list[str]:
    """A sentence for each difference between the triggers of links and what they should be."""
    wanted = _links.triggers(tracking, links, uniques_of(connection, tracking))
    return _compared(connection, tracking, wanted)


def _drifted(connection: sa.Connection, tracking: Tracking) -> list[str]:
    return _compared(connection, tracking, triggers(tracking, uniques_of(connection, tracking)))


def _compared(
    connection: sa.Connection, tracking: Tracking, wanted: Mapping[str, str]
) -> list[str]:
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND lower(tbl_name) = ?"
    rows = connection.exec_driver_sql(query, (tracking.table.lower(),)).all()
    actual = {name: _bare(sql) for name, sql in rows}
    there = {kind: actual.get(trigger_name(tracking.name, kind)) for kind in wanted}
    gone = [kind for kind, sql in there.items() if sql is None]
    other = [kind for kind, sql in there.items() if sql not in (None, _bare(wanted[kind]))]
    found = [f"its trigger {kind!r} is gone" for kind in gone]
    return found + [f"its trigger {kind!r} is of other columns or indexes" for kind in other]


def _bare(sql: str) -> str:
    """SQL without quotes of names and blanks, which SQLite changes when it renames."""
    return re.sub(r'["\s]', "", sql)


def triggers_on(connection: sa.Connection, tracking: Tracking) -> list[str]:
    """The names of Headwater's triggers on a table, but for those of its links."""
    query = """SELECT name FROM sqlite_master WHERE type = 'trigger' AND lower(tbl_name) = ?
    AND name GLOB 'headwater_*' AND sql NOT LIKE '%headwater_former_links%'"""
    return list(connection.exec_driver_sql(query, (tracking.table.lower(),)).scalars())


def _columns(connection: sa.Connection, tracking: Tracking) -> list[str]:
    query = "SELECT name FROM pragma_table_xinfo(?)"
    return list(connection.exec_driver_sql(query, (tracking.table,)).scalars())


def _install(connection: sa.Connection, tracking: Tracking) -> None:
    _drop_triggers(connection, tracking)
    for statement in triggers(tracking, uniques_of(connection, tracking)).values():
        connection.exec_driver_sql(statement)


def _indexes(connection: sa.Connection, tracking: Tracking) -> dict[tuple[str, ...], str]:
    """The table's indexes that end with the change, by columns."""
    query = """SELECT i.name, x.name FROM pragma_index_list(?) AS i, pragma_index_xinfo(i.name) AS x
    WHERE x.key AND NOT i.partial ORDER BY i.name, x.seqno"""
    columns: dict[str, list[str]] = {}
    for name, column in connection.exec_driver_sql(query, (tracking.table,)):
        columns.setdefault(name, []).append(column)
    return {tuple(every): name for name, every in columns.items() if every[-1] == CHANGE}


def missing_indexes(connection: sa.Connection, tracking: Tracking) -> list[tuple[str, ...]]:
    """The columns of indexes that the tracking needs, and that are not there."""
    there = _indexes(connection, tracking)
    wanted = change_indexes(tracking)
    return [index.columns for index in wanted if index.columns not in there]


def tracked(connection: sa.Connection) -> list[Tracking]:
    """Each table that Headwater's triggers are on."""
    query = """SELECT DISTINCT tbl_name FROM sqlite_master
    WHERE type = 'trigger' AND name GLOB 'headwater_*_insert'"""
    return [Tracking(name, ()) for name in connection.exec_driver_sql(query).scalars()]


def _build_indexes(connection: sa.Connection, tracking: Tracking) -> None:
    there = _indexes(connection, tracking)
    query = "SELECT name FROM sqlite_master WHERE type = 'index'"
    taken = set(connection.exec_driver_sql(query).scalars()) - set(there.values())
    for index in change_indexes(tracking, taken):
        if index.columns not in there:
            columns = ", ".join(map(quote, index.columns))
            connection.exec_driver_sql(
                f"CREATE INDEX {quote(index.name)} ON {quote(tracking.table)} ({columns})"
            )


def renew_epochs(connection: sa.Connection, names: Iterable[str]) -> None:
    """As ``headwater.sql.renew_epochs``."""
    for name in names:
        connection.execute(TABLES.update().where(TABLES.c.name == name).values(epoch=new_epoch()))


def _drop_triggers(connection: sa.Connection, tracking: Tracking) -> None:
    """Drop a table's triggers, of whatever declaration."""
    for name in triggers_on(connection, tracking):
        connection.exec_driver_sql(f"DROP TRIGGER {quote(name)}")


def _number(
    connection: sa.Connection, tracking: Tracking, progress: Callable[[int, int], object] | None
) -> None:
    done = total = 0
    if progress is not None:
        waiting = f"SELECT count(*) FROM {quote(tracking.table)} WHERE {CHANGE} IS NULL"
        total = connection.exec_driver_sql(waiting).scalar_one()
    table, keys = quote(tracking.table), [quote(name) for name in tracking.key]
    columns, marks = ", ".join(keys), ", ".join("?" for _ in keys)
    last_key: Sequence[Any] | None = None
    rowid = rowid_of(connection, tracking)
    if rowid is not None:
        unknown = " OR ".join(f"{key} IS NULL" for key in keys)
        query = f"SELECT {rowid} FROM {table} WHERE {CHANGE} IS NULL AND ({unknown})"
        with step(connection):
            rows = connection.exec_driver_sql(query).all()
            if rows:
                _give_numbers(connection, tracking, rows, f"{rowid} = ?")
        done += len(rows)
    while True:
        with step(connection):
            after = "" if last_key is None else f"AND ({columns}) > ({marks})"
            rows = connection.exec_driver_sql(
                f"SELECT {columns} FROM {table} WHERE {CHANGE} IS NULL {after} "
                f"ORDER BY {columns} LIMIT {STEP}",
                tuple(last_key or ()),
            ).all()
            if rows:
                _give_numbers(connection, tracking, rows, " AND ".join(f"{k} = ?" for k in keys))
        if progress is not None:
            done += len(rows)
            progress(done, total)
        if len(rows) < STEP:
            return
        last_key = rows[-1]


def _give_numbers(
    connection: sa.Connection, tracking: Tracking, rows: Sequence[Any], found: str
) -> None:
    """Number rows. ``found``: the condition that finds one by its values."""
    own = TABLES.c.name == tracking.name
    last: int = connection.execute(sa.select(TABLES.c.last).where(own)).scalar_one()
    connection.execute(TABLES.update().where(own).values(last=last + len(rows)))
    connection.exec_driver_sql(
        f"UPDATE {quote(tracking.table)} SET {CHANGE} = ? WHERE {found}",
        [(last + at, *row) for at, row in enumerate(rows, 1)],
    )


@contextmanager
def step(connection: sa.Connection) -> Iterator[None]:
    """A transaction of its own on a connection in AUTOCOMMIT; else the caller's."""
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

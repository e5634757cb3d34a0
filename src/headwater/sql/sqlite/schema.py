"""The tracking of a table on SQLite: its triggers, and how they are added and dropped.

SQLite has one writer at a time, so numbers that triggers take inside the write transaction are in
the order of commits. Each table counts for itself. A trigger gives every new row the next number,
and on a keyed table every updated row too. A removal with the old values gets a number of its own:
when a row is deleted, and, before the row's new number, when its key or a filter column changes.

``REPLACE`` deletes rows without firing delete triggers, unless ``recursive_triggers`` is on. So
before an insert, and before an update of a unique column, a trigger notes the rows that may be
replaced, as removals with negative numbers, which nobody reads. Only a trigger after the event
makes them real: ``OR IGNORE``, ``DO NOTHING`` and ``DO UPDATE`` replace nothing and record nothing.
"""

# ruff: noqa: S608 - names are quoted here; triggers take no parameters

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from headwater.sql.tracking import (
    CHANGE,
    TABLES,
    Tracking,
    change_indexes,
    create_own_tables,
    forget,
    new_epoch,
    quote,
    register,
    text,
)

# Rows that ``add`` numbers in one transaction.
STEP = 1000


def start(connection: sa.Connection, tracking: Tracking, *, anew: bool = True) -> None:
    """Register a table that has the column, and create its triggers.

    Unless ``anew``, a table that is registered keeps its epoch and goes on counting.
    """
    create_own_tables(connection)
    register(connection, tracking, anew=anew)
    for statement in triggers(tracking).values():
        connection.exec_driver_sql(statement)


def add(connection: sa.Connection, tracking: Tracking, *, has_column: bool) -> None:
    """Track a table that exists: column, own tables, triggers, numbers for its rows, indexes."""
    table = quote(tracking.table)
    with step(connection):
        if not has_column:
            connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {CHANGE} BIGINT")
        _drop_triggers(connection, tracking.table)
        start(connection, tracking, anew=not has_column)
    _number(connection, tracking)
    for index in change_indexes(tracking):
        columns = ", ".join(map(quote, index.columns))
        connection.exec_driver_sql(
            f"CREATE INDEX IF NOT EXISTS {quote(index.name)} ON {table} ({columns})"
        )


def drop(connection: sa.Connection, table: str, indexes: Iterable[str]) -> None:
    """Drop a table's triggers, these indexes and the column, and forget its changes."""
    with step(connection):
        _drop_triggers(connection, table)
        for index in indexes:
            connection.exec_driver_sql(f"DROP INDEX {quote(index)}")
        connection.exec_driver_sql(f"ALTER TABLE {quote(table)} DROP COLUMN {CHANGE}")
        forget(connection, Tracking(table, ()))


def renew_epochs(connection: sa.Connection, tables: Iterable[str] | None = None) -> None:
    """As ``headwater.sql.renew_epochs``."""
    names = list(tables) if tables is not None else connection.scalars(sa.select(TABLES.c.name))
    for name in list(names):
        connection.execute(TABLES.update().where(TABLES.c.name == name).values(epoch=new_epoch()))


def label(column: str) -> str:
    """A column's name in a removal's JSON: SQLite's paths have no escape for a quote."""
    return column if '"' not in column and "\\" not in column else "x_" + column.encode().hex()


def triggers(tracking: Tracking) -> dict[str, str]:
    """The DDL of a table's triggers by name."""
    names = _Names(tracking)
    bodies = {
        "insert": f"AFTER INSERT ON {names.table} BEGIN\n  {names.step}\n  {names.number}\nEND",
        # The number is written once when the row has none, and then only by these triggers.
        "guard": (
            f"BEFORE UPDATE OF {names.change} ON {names.table}\n"
            f"WHEN OLD.{names.change} IS NOT NULL AND NEW.{names.change} IS NOT OLD.{names.change} "
            f"AND NEW.{names.change} IS NOT {names.last}\n"
            f"BEGIN\n  SELECT RAISE(ABORT, '{CHANGE} is set by Headwater alone');\nEND"
        ),
    }
    if tracking.keyed:
        bodies |= _keyed(tracking, names)
    return {
        name: f"CREATE TRIGGER {quote(trigger_name(tracking.table, name))} {body}"
        for name, body in bodies.items()
    }


def _drop_triggers(connection: sa.Connection, table: str) -> None:
    """Drop a table's triggers, of whatever declaration."""
    for name in ("insert", "update", "delete", "guard", "replace", "replace_by_update"):
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {quote(trigger_name(table, name))}")


def _number(connection: sa.Connection, tracking: Tracking) -> None:
    table, keys = quote(tracking.table), [quote(name) for name in tracking.key]
    columns, marks = ", ".join(keys), ", ".join("?" for _ in keys)
    last_key: Sequence[Any] | None = None
    own = TABLES.c.name == tracking.table
    while True:
        with step(connection):
            after = "" if last_key is None else f"AND ({columns}) > ({marks})"
            rows = connection.exec_driver_sql(
                f"SELECT {columns} FROM {table} WHERE {CHANGE} IS NULL {after} "
                f"ORDER BY {columns} LIMIT {STEP}",
                tuple(last_key or ()),
            ).all()
            if rows:
                last: int = connection.execute(sa.select(TABLES.c.last).where(own)).scalar_one()
                equal = " AND ".join(f"{key} = ?" for key in keys)
                connection.execute(TABLES.update().where(own).values(last=last + len(rows)))
                connection.exec_driver_sql(
                    f"UPDATE {table} SET {CHANGE} = ? WHERE {equal}",
                    [(last + at, *row) for at, row in enumerate(rows, 1)],
                )
        if len(rows) < STEP:
            return
        last_key = rows[-1]


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


class _Names:
    """Pieces of SQL that the triggers of one table share."""

    def __init__(self, tracking: Tracking) -> None:
        self.table = quote(tracking.table)
        self.text = text(tracking.table)
        self.change = quote(CHANGE)
        self.last = f"(SELECT last FROM headwater_tables WHERE name = {self.text})"
        self.step = f"UPDATE headwater_tables SET last = last + 1 WHERE name = {self.text};"
        self.number = (
            f"UPDATE {self.table} SET {self.change} = {self.last} "
            f"WHERE {_same(tracking.key, 'NEW')};"
        )


def _keyed(tracking: Tracking, names: _Names) -> dict[str, str]:
    moved = _differs((*tracking.key, *tracking.filters), "NEW", "OLD")
    table, text = names.table, names.text
    uniques = (tracking.key, *tracking.uniques)
    columns = dict.fromkeys(column for unique in uniques for column in unique)
    changed = _differs(columns, "NEW", "OLD")
    by_insert, by_update = range(1, len(uniques) + 1), range(len(uniques) + 1, 2 * len(uniques) + 1)
    replaced = _differs((*tracking.key, *tracking.filters), "NEW", table)
    other = _differs(tracking.key, "OLD", table)
    bodies = {
        "delete": (
            f"AFTER DELETE ON {table} BEGIN\n"
            f"  {names.step}\n  {_removal(tracking, 'OLD.', names.last, '')};\nEND"
        ),
        # An update by these triggers themselves changes the number; one by anybody else does not.
        "update": (
            f"AFTER UPDATE ON {table} WHEN NEW.{names.change} IS OLD.{names.change} BEGIN\n"
            f"{_confirm(names, by_update, changed)}"
            f"  UPDATE headwater_tables SET last = last + 1 WHERE name = {text} AND ({moved});\n"
            f"  {_removal(tracking, 'OLD.', names.last, f'WHERE {moved}')};\n"
            f"  {names.step}\n  {names.number}\nEND"
        ),
        "replace_by_update": (
            f"BEFORE UPDATE OF {', '.join(map(quote, columns))} ON {table} WHEN {changed} BEGIN\n"
            f"{_note(tracking, names, by_update, uniques, other)}END"
        ),
    }
    # A row with the same key and the same values of the filters is replaced by its next version.
    if tracking.filters or tracking.uniques:
        bodies["replace"] = (
            f"BEFORE INSERT ON {table} BEGIN\n"
            f"{_note(tracking, names, by_insert, uniques, replaced)}END"
        )
        bodies["insert"] = (
            f"AFTER INSERT ON {table} BEGIN\n{_confirm(names, by_insert, '1')}"
            f"  {names.step}\n  {names.number}\nEND"
        )
    return bodies


def _note(
    tracking: Tracking,
    names: _Names,
    numbers: range,
    uniques: Iterable[tuple[str, ...]],
    condition: str,
) -> str:
    """Note the rows that NEW may replace, and forget those that an earlier event noted."""
    lines = [
        f"DELETE FROM headwater_removals WHERE table_name = {names.text} "
        f"AND number BETWEEN {-numbers[-1]} AND {-numbers[0]}"
    ]
    for number, unique in zip(numbers, uniques, strict=True):
        equal = " AND ".join(f"{names.table}.{quote(c)} = NEW.{quote(c)}" for c in unique)
        found = f"FROM {names.table} WHERE {equal} AND ({condition})"
        lines.append(_removal(tracking, f"{names.table}.", str(-number), found))
    return "".join(f"  {line};\n" for line in lines)


def _confirm(names: _Names, numbers: range, condition: str) -> str:
    """Turn the rows that were noted into removals."""
    highest = f"(SELECT max(number) FROM headwater_removals WHERE table_name = {names.text})"
    return (
        f"  UPDATE headwater_removals SET number = {names.last} - number - {numbers[0] - 1}\n"
        f"    WHERE table_name = {names.text} "
        f"AND number BETWEEN {-numbers[-1]} AND {-numbers[0]} AND ({condition});\n"
        f"  UPDATE headwater_tables SET last = max(last, coalesce({highest}, 0)) "
        f"WHERE name = {names.text};\n"
    )


def _removal(tracking: Tracking, row: str, number: str, rest: str) -> str:
    def json(columns: Iterable[str]) -> str:
        pairs = (f"{text(label(c))}, {_as_json(row + quote(c))}" for c in columns)
        return f"json_object({', '.join(pairs)})"

    return (
        "INSERT INTO headwater_removals (table_name, number, key, old, at)\n"
        f"  SELECT {text(tracking.table)}, {number},\n"
        f"    {json(tracking.key)},\n    {json((*tracking.kept, CHANGE))},\n"
        f"    strftime('%Y-%m-%d %H:%M:%f', 'now') {rest}"
    )


def _as_json(value: str) -> str:
    """A value as JSON, with nothing lost: a BLOB is a list of its hexadecimal digits.

    SQLite's own JSON rounds numbers to 15 digits and refuses a BLOB, and so the delete.
    """
    endless = f"abs({value}) > 1.7976931348623157e308"
    return (
        f"CASE typeof({value}) WHEN 'blob' THEN json_array(hex({value})) "
        f"WHEN 'real' THEN json(CASE WHEN {endless} THEN iif({value} > 0, '9e999', '-9e999') "
        f"ELSE printf('%!.17g', {value}) END) ELSE {value} END"
    )


def stored(value: Any) -> Any:
    """A value of the JSON as SQLite stores it."""
    return bytes.fromhex(value[0]) if isinstance(value, list) else value


def _same(columns: Iterable[str], row: str) -> str:
    return " AND ".join(f"{quote(c)} IS {row}.{quote(c)}" for c in columns)


def _differs(columns: Iterable[str], one: str, other: str) -> str:
    parts = (f"{one}.{quote(c)} IS NOT {other}.{quote(c)}" for c in dict.fromkeys(columns))
    return " OR ".join(parts)


def trigger_name(table: str, trigger: str) -> str:
    """The full name of one of a table's triggers."""
    return f"headwater_{table}_{trigger}"

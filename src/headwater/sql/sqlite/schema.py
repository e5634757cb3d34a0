"""SQLite: Headwater's own tables and the triggers of a tracked table, for models and migrations.

SQLite has one writer at a time, so a number taken inside the write transaction is in the order of
commits. Each table counts for itself. A trigger gives every new row the next number; on a keyed
table it does so again on each update, and a removal with the old values gets a number of its own:
when a row is deleted, and, before the row's new number, when its key or a filter column changes.

``REPLACE`` deletes rows without firing delete triggers, unless ``recursive_triggers`` is on. So
before an insert, and before an update of a unique column, the rows it may replace are told as
removed and then numbered anew: if nothing is replaced after all (``OR IGNORE``, ``DO NOTHING``)
they are told again and no one has lost them.
"""

# ruff: noqa: S608 - names are quoted here; triggers take no parameters

from __future__ import annotations

import secrets
from collections.abc import Iterable

import sqlalchemy as sa

from headwater.sql.tracked import CHANGE, Tracking

__all__ = [
    "REMOVALS",
    "TABLES",
    "add_to",
    "create_own",
    "drop_triggers",
    "forget",
    "label",
    "renew_epochs",
    "start",
    "triggers",
]

_own = sa.MetaData()

# One row per tracked table. ``last`` is the number of its latest change; changes up to ``floor``
# may have been trimmed; ``declared`` is what its triggers were made for.
TABLES = sa.Table(
    "headwater_tables",
    _own,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Text, nullable=False),
    sa.Column("last", sa.BigInteger, nullable=False),
    sa.Column("floor", sa.BigInteger, nullable=False),
    sa.Column("declared", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

# ``key`` and ``old`` are JSON objects by column name; ``old`` also has the row's former number.
REMOVALS = sa.Table(
    "headwater_removals",
    _own,
    sa.Column("table_name", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("old", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)


def add_to(metadata: sa.MetaData) -> tuple[sa.Table, sa.Table]:
    """Headwater's own tables as part of a user's, so that ``create_all`` makes them, once."""
    found = []
    for table in (TABLES, REMOVALS):
        known = metadata.tables.get(table.name)
        found.append(table.to_metadata(metadata) if known is None else known)
    return found[0], found[1]


def create_own(connection: sa.Connection) -> None:
    """Create Headwater's own tables where they are missing."""
    for table in (TABLES, REMOVALS):
        table.create(connection, checkfirst=True)


def start(connection: sa.Connection, tracking: Tracking) -> None:
    """Begin to track a table that has the column: register it and make its triggers."""
    create_own(connection)
    forget(connection, tracking.table)
    connection.execute(
        TABLES.insert().values(
            name=tracking.table,
            epoch=_epoch(),
            last=0,
            floor=0,
            declared=tracking.declared(),
        )
    )
    for statement in triggers(tracking).values():
        connection.exec_driver_sql(statement)


def forget(connection: sa.Connection, table: str) -> None:
    """Remove what the database knows of a table's changes."""
    connection.execute(TABLES.delete().where(TABLES.c.name == table))
    connection.execute(REMOVALS.delete().where(REMOVALS.c.table_name == table))


def drop_triggers(connection: sa.Connection, table: str) -> None:
    """Drop a table's triggers, of whatever declaration."""
    for name in ("insert", "update", "delete", "guard", "replace", "replace_by_update"):
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {_quote(_name(table, name))}")


def renew_epochs(connection: sa.Connection, tables: Iterable[str] | None = None) -> None:
    """Begin a new epoch, so that no position from before is taken for one of now.

    Run it after a backup was restored: its numbers will be used a second time.
    """
    names = list(tables) if tables is not None else connection.scalars(sa.select(TABLES.c.name))
    for name in list(names):
        connection.execute(TABLES.update().where(TABLES.c.name == name).values(epoch=_epoch()))


def label(column: str) -> str:
    """A column's name in a removal's JSON, where a path has no escape for a quote."""
    return column if '"' not in column and "\\" not in column else "x_" + column.encode().hex()


def triggers(tracking: Tracking) -> dict[str, str]:
    """The DDL of a table's triggers by name."""
    table = _quote(tracking.table)
    change = _quote(CHANGE)
    last = f"(SELECT last FROM headwater_tables WHERE name = {_text(tracking.table)})"
    step = f"UPDATE headwater_tables SET last = last + 1 WHERE name = {_text(tracking.table)};"
    number = f"UPDATE {table} SET {change} = {last} WHERE {_same(tracking.key, 'NEW')};"
    bodies = {
        "insert": f"AFTER INSERT ON {table} BEGIN\n  {step}\n  {number}\nEND",
        # The number is written once when the row has none, and then only by these triggers.
        "guard": (
            f"BEFORE UPDATE OF {change} ON {table}\n"
            f"WHEN OLD.{change} IS NOT NULL AND NEW.{change} IS NOT OLD.{change} "
            f"AND NEW.{change} IS NOT {last}\n"
            f"BEGIN\n  SELECT RAISE(ABORT, '{CHANGE} is set by Headwater alone');\nEND"
        ),
    }
    if tracking.keyed:
        bodies |= _keyed(tracking, table, step, number)
    return {
        name: f"CREATE TRIGGER {_quote(_name(tracking.table, name))} {body}"
        for name, body in bodies.items()
    }


def _keyed(tracking: Tracking, table: str, step: str, number: str) -> dict[str, str]:
    change = _quote(CHANGE)
    told = (*tracking.key, *tracking.filters)
    moved = _differs(told, "NEW", "OLD")
    bodies = {
        "delete": (
            f"AFTER DELETE ON {table} BEGIN\n  {step}\n  {_removal(tracking, 'OLD.', '')};\nEND"
        ),
        # An update by these triggers themselves changes the number; one by anybody else does not.
        "update": (
            f"AFTER UPDATE ON {table} WHEN NEW.{change} IS OLD.{change} BEGIN\n"
            f"  UPDATE headwater_tables SET last = last + 1 "
            f"WHERE name = {_text(tracking.table)} AND ({moved});\n"
            f"  {_removal(tracking, 'OLD.', f'WHERE {moved}')};\n"
            f"  {step}\n  {number}\nEND"
        ),
    }
    # What a REPLACE may delete: the row with the same key, which matters if it moves in terms of
    # the filters, and rows that are equal in another unique constraint.
    inserted = [
        (unique, _differs(told, "NEW", table))
        for unique in (tracking.key, *tracking.uniques)
        if unique != tracking.key or tracking.filters
    ]
    if inserted:
        lines = "\n".join(_replaced(tracking, table, *each) for each in inserted)
        bodies["replace"] = f"BEFORE INSERT ON {table} BEGIN\n{lines}\nEND"
    other = _differs(tracking.key, "OLD", table)
    columns = dict.fromkeys(c for unique in (tracking.key, *tracking.uniques) for c in unique)
    changed = _differs(tuple(columns), "NEW", "OLD")
    lines = "\n".join(
        _replaced(tracking, table, unique, other) for unique in (tracking.key, *tracking.uniques)
    )
    bodies["replace_by_update"] = (
        f"BEFORE UPDATE OF {', '.join(map(_quote, columns))} ON {table} WHEN {changed} BEGIN\n"
        f"{lines}\nEND"
    )
    return bodies


def _replaced(tracking: Tracking, table: str, unique: tuple[str, ...], condition: str) -> str:
    """Tell the row that NEW may replace as removed, then number it anew."""
    equal = " AND ".join(f"{table}.{_quote(c)} = NEW.{_quote(c)}" for c in unique)
    where = f"WHERE {equal} AND ({condition})"
    found = f"EXISTS (SELECT 1 FROM {table} {where})"
    name = _text(tracking.table)
    count = f"UPDATE headwater_tables SET last = last + 1 WHERE name = {name} AND {found};"
    last = f"(SELECT last FROM headwater_tables WHERE name = {name})"
    return (
        f"  {count}\n  {_removal(tracking, table + '.', f'FROM {table} {where}')};\n"
        f"  {count}\n  UPDATE {table} SET {_quote(CHANGE)} = {last} {where};"
    )


def _removal(tracking: Tracking, row: str, rest: str) -> str:
    def json(columns: Iterable[str]) -> str:
        # JSON cannot hold a BLOB, and a refused delete would be worse than its hexadecimal form.
        pairs = (
            f"{_text(label(c))}, iif(typeof({row}{_quote(c)}) = 'blob', "
            f"hex({row}{_quote(c)}), {row}{_quote(c)})"
            for c in columns
        )
        return f"json_object({', '.join(pairs)})"

    name = _text(tracking.table)
    return (
        "INSERT INTO headwater_removals (table_name, number, key, old, at)\n"
        f"  SELECT {name}, (SELECT last FROM headwater_tables WHERE name = {name}),\n"
        f"    {json(tracking.key)},\n    {json((*tracking.kept, CHANGE))},\n"
        f"    strftime('%Y-%m-%d %H:%M:%f', 'now') {rest}"
    )


def _same(columns: Iterable[str], row: str) -> str:
    return " AND ".join(f"{_quote(c)} IS {row}.{_quote(c)}" for c in columns)


def _differs(columns: Iterable[str], one: str, other: str) -> str:
    parts = (f"{one}.{_quote(c)} IS NOT {other}.{_quote(c)}" for c in dict.fromkeys(columns))
    return " OR ".join(parts)


def _name(table: str, trigger: str) -> str:
    return f"headwater_{table}_{trigger}"


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _epoch() -> str:
    return secrets.token_hex(6)

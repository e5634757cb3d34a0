"""SQLite: the triggers that keep the former links of a table's rows.

They number for themselves: each takes the table's next change and gives it to the row, beside what
the table's own triggers do, in whichever order the two run. ``REPLACE`` deletes rows without firing
delete triggers; so the rows that an insert or update may replace are noted before it with a change
below zero, which nobody reads, and only a trigger after the event makes that real.
"""

# ruff: noqa: S608 - names are quoted here; triggers take no parameters

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from headwater.sql._tracking import CHANGE, SINCE, Tracking, quote, text
from headwater.sql._values import stored_type
from headwater.sql.sqlite._triggers import ROWID, Names, as_json, differs, label, trigger_name
from headwater.sql.sqlite._uniques import Unique, uniques_of

_KINDS = ("link_insert", "link_update", "link_delete", "link_note", "link_note_update")
# Types whose values are no BLOBs.
_SCALARS = (
    *(sa.String, sa.Integer, sa.Numeric, sa.Boolean, sa.Date, sa.DateTime, sa.Time),
    *(sa.Interval, sa.Uuid, sa.JSON),
)
# SQLite has ``unhex`` from 3.41 on. ``digits`` is what is left of the hexadecimal digits.
_UNHEX = (
    "(WITH RECURSIVE decoded(digits, bytes) AS (SELECT json_extract({{0}}, {{1}} || '[0]'), x'' "
    "UNION ALL SELECT substr(digits, 3), CAST(bytes || substr(x'{every}', 1 + "
    "16 * (instr('{hex}', substr(digits, 1, 1)) - 1) + instr('{hex}', substr(digits, 2, 1)) - 1, "
    "1) AS BLOB) FROM decoded WHERE digits <> '') SELECT bytes FROM decoded WHERE digits = '')"
).format(every=bytes(range(256)).hex(), hex="0123456789ABCDEF")


def install(
    connection: sa.Connection, tracking: Tracking, links: Sequence[str], *, has_column: bool
) -> None:
    """Add the column, and make the triggers in place of those of another declaration."""
    table = tracking.table
    if not has_column:
        connection.exec_driver_sql(
            f"ALTER TABLE {quote(table)} ADD COLUMN {SINCE} INTEGER NOT NULL DEFAULT 0"
        )
    _drop_triggers(connection, tracking)
    for statement in triggers(tracking, links, uniques_of(connection, tracking)).values():
        connection.exec_driver_sql(statement)


def triggers(tracking: Tracking, links: Sequence[str], uniques: Sequence[Unique]) -> dict[str, str]:
    """The DDL of the triggers by kind."""
    return {
        kind: f"CREATE TRIGGER {quote(trigger_name(tracking.name, kind))} {body}"
        for kind, body in _bodies(tracking, links, uniques).items()
    }


def drop(connection: sa.Connection, tracking: Tracking) -> None:
    """Drop the triggers and the column."""
    _drop_triggers(connection, tracking)
    connection.exec_driver_sql(f"ALTER TABLE {quote(tracking.table)} DROP COLUMN {SINCE}")


def _drop_triggers(connection: sa.Connection, tracking: Tracking) -> None:
    for kind in _KINDS:
        name = quote(trigger_name(tracking.name, kind))
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")


def _bodies(tracking: Tracking, links: Sequence[str], uniques: Sequence[Unique]) -> dict[str, str]:
    names = Names(tracking, uniques[0].row)
    own, name, last, step = names.table, names.text, names.last, names.step
    number = f"UPDATE {own} SET {CHANGE} = {last}, {SINCE} = {last} WHERE {uniques[0].row};"
    columns = list(dict.fromkeys(column for unique in uniques for column in unique.columns or ()))
    moved, replaced = (f"({differs(each, 'NEW', 'OLD')})" for each in (links, columns))
    of_uniques = f"OF {_list((*columns, *ROWID))} "
    of = f"OF {_list((*links, *columns, *ROWID))} "
    if any(unique.columns is None for unique in uniques):
        # Of an index on an expression any column may matter.
        of = of_uniques = ""
        replaced = f"(NEW.{CHANGE} IS OLD.{CHANGE})"

    def forget(mark: int) -> str:
        return f"DELETE FROM headwater_former_links WHERE table_name = {name} AND change = {mark};"

    def real(mark: int) -> str:
        return (
            f"UPDATE headwater_former_links SET change = {last} "
            f"WHERE table_name = {name} AND change = {mark};"
        )

    def note(mark: int, other: str) -> str:
        each = [f"({unique.same})" for unique in uniques]
        return _former(
            name, links, f"{own}.", str(mark), f"FROM {own} WHERE ({' OR '.join(each)}){other}"
        )

    not_itself = f" AND ({differs(tracking.key, 'OLD', own)})"
    return {
        "link_insert": f"AFTER INSERT ON {own} BEGIN\n  {step}\n  {real(-1)}\n  {number}\nEND",
        "link_update": f"AFTER UPDATE {of}ON {own}\n"
        f"WHEN {moved} OR {replaced} BEGIN\n  {step}\n  {real(-2)}\n"
        f"  {_former(name, links, 'OLD.', last, f'WHERE {moved}')}\n"
        f"  {number.removesuffix(';')} AND {moved};\nEND",
        "link_delete": f"AFTER DELETE ON {own} BEGIN\n  {step}\n"
        f"  {_former(name, links, 'OLD.', last, '')}\nEND",
        "link_note": f"BEFORE INSERT ON {own} BEGIN\n  {forget(-1)}\n  {note(-1, '')}\nEND",
        "link_note_update": f"BEFORE UPDATE {of_uniques}ON {own} WHEN {replaced} BEGIN\n"
        f"  {forget(-2)}\n  {note(-2, not_itself)}\nEND",
    }


def _former(name: str, links: Sequence[str], row: str, change: str, rest: str) -> str:
    values = ", ".join(f"{text(label(c))}, {as_json(row + quote(c))}" for c in links)
    return (
        "INSERT INTO headwater_former_links (table_name, change, since, links, at)\n"
        f"    SELECT {name}, {change}, {row}{SINCE}, json_object({values}),\n"
        f"    strftime('%Y-%m-%d %H:%M:%f', 'now') {rest};"
    )


def former_link(links: sa.Column[Any], column: str, kind: sa.types.TypeEngine[Any]) -> Any:
    """The value of a column among former links."""
    path = f'$."{label(column)}"'
    value: Any = sa.func.json_extract(links, path, type_=kind)
    if isinstance(stored_type(kind), _SCALARS):
        return value
    blob = sa.literal_column(_UNHEX.format(f"{links.table.name}.{links.name}", text(path)), kind)
    return sa.case((sa.func.json_type(links, path) == "array", blob), else_=value)


def _list(columns: Iterable[str]) -> str:
    return ", ".join(map(quote, dict.fromkeys(columns)))

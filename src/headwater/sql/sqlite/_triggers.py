"""The triggers of a tracked table on SQLite.

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

from collections.abc import Iterable, Sequence
from typing import Any

from headwater.sql._tracking import CHANGE, Tracking, quote, text
from headwater.sql.sqlite._uniques import Unique

# ``UPDATE OF`` goes by the names in the statement, and a key by rowid has these too.
ROWID = ("rowid", "_rowid_", "oid")

# The triggers of a table.
KINDS = ("insert", "update", "delete", "guard", "replace", "replace_by_update")


def label(column: str) -> str:
    """A column's name in a removal's JSON: SQLite's paths have no escape for a quote."""
    return column if '"' not in column and "\\" not in column else "x_" + column.encode().hex()


def triggers(tracking: Tracking, uniques: Sequence[Unique]) -> dict[str, str]:
    """The DDL of a table's triggers by kind."""
    names = Names(tracking, uniques[0].row)
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
        bodies |= _keyed(tracking, names, uniques)
    return {
        name: f"CREATE TRIGGER {quote(trigger_name(tracking.name, name))} {body}"
        for name, body in bodies.items()
    }


class Names:
    """Pieces of SQL that the triggers of one table share."""

    def __init__(self, tracking: Tracking, row: str) -> None:
        self.table = quote(tracking.table)
        self.text = text(tracking.name)
        self.change = quote(CHANGE)
        self.last = f"(SELECT last FROM headwater_tables WHERE name = {self.text})"
        self.step = f"UPDATE headwater_tables SET last = last + 1 WHERE name = {self.text};"
        self.number = f"UPDATE {self.table} SET {self.change} = {self.last} WHERE {row};"


def _keyed(tracking: Tracking, names: Names, uniques: Sequence[Unique]) -> dict[str, str]:
    moved = _moved(tracking, "NEW", "OLD")
    table, text = names.table, names.text
    # Of an index on an expression any column may matter.
    every = all(unique.columns is not None for unique in uniques)
    columns = dict.fromkeys(column for unique in uniques for column in unique.columns or ())
    changed = f"NEW.{names.change} IS OLD.{names.change}"
    if every:
        changed = differs(columns, "NEW", "OLD")
    of = f"OF {', '.join(map(quote, (*columns, *ROWID)))} " if every else ""
    by_insert, by_update = range(1, len(uniques) + 1), range(len(uniques) + 1, 2 * len(uniques) + 1)
    replaced = _moved(tracking, "NEW", table)
    other = differs(tracking.key, "OLD", table)
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
            f"BEFORE UPDATE {of}ON {table} WHEN {changed} BEGIN\n"
            f"{_note(tracking, names, by_update, uniques, other)}END"
        ),
    }
    # A row with the same key and the same values of the filters is replaced by its next version.
    if tracking.filters or len(uniques) > 1 or "COLLATE" in uniques[0].same:
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
    names: Names,
    numbers: range,
    uniques: Iterable[Unique],
    condition: str,
) -> str:
    """Note the rows that NEW may replace, and forget those that an earlier event noted."""
    lines = [
        f"DELETE FROM headwater_removals WHERE table_name = {names.text} "
        f"AND number BETWEEN {-numbers[-1]} AND {-numbers[0]}"
    ]
    for number, unique in zip(numbers, uniques, strict=True):
        found = f"FROM {names.table} WHERE {unique.same} AND ({condition})"
        lines.append(_removal(tracking, f"{names.table}.", str(-number), found))
    return "".join(f"  {line};\n" for line in lines)


def _confirm(names: Names, numbers: range, condition: str) -> str:
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
        pairs = (f"{text(label(c))}, {as_json(row + quote(c))}" for c in columns)
        return f"json_object({', '.join(pairs)})"

    return (
        "INSERT INTO headwater_removals (table_name, number, key, old, at)\n"
        f"  SELECT {text(tracking.name)}, {number},\n"
        f"    {json(tracking.key)},\n    {json((*tracking.kept, CHANGE))},\n"
        f"    strftime('%Y-%m-%d %H:%M:%f', 'now') {rest}"
    )


def as_json(value: str) -> str:
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


def _moved(tracking: Tracking, one: str, other: str) -> str:
    """Whether two rows have different keys or values of the filters.

    To a client keys are different that a collation takes for the same, such as A and a.
    """
    keys = (f"{one}.{quote(c)} IS NOT {other}.{quote(c)} COLLATE BINARY" for c in tracking.key)
    filters = [name for name in tracking.filters if name not in tracking.key]
    return " OR ".join((*keys, *([differs(filters, one, other)] if filters else ())))


def differs(columns: Iterable[str], one: str, other: str) -> str:
    """Whether two rows have different values in these columns."""
    parts = (f"{one}.{quote(c)} IS NOT {other}.{quote(c)}" for c in dict.fromkeys(columns))
    return " OR ".join(parts)


def trigger_name(table: str, trigger: str) -> str:
    """The full name of one of a table's triggers."""
    return f"headwater_{table}_{trigger}"

"""The key and the unique indexes of a table, as SQLite reports them.

``REPLACE`` deletes the rows that equal the new one in one of them.
"""

# ruff: noqa: S608 - names are quoted here; triggers take no parameters

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from headwater.sql._tracking import Tracking, quote

_INDEXES = """SELECT i.name, i.origin, i.partial, x.name, x.coll
FROM pragma_index_list(?) AS i, pragma_index_xinfo(i.name) AS x
WHERE i."unique" AND x.key ORDER BY i.name, x.seqno"""
_KEY = 'SELECT name, type, "notnull", pk FROM pragma_table_xinfo(?)'
# Comments, strings and quoted names, and any other character.
_PIECES = re.compile(r"""--[^\n]*|/\*.*?\*/|'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]|.""", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Unique:
    """One unique index, or the key of a table by rowid.

    Attributes:
        columns: those that it names; None if it names an expression or has a condition.
        same: the condition that a row of the table equals NEW in it.
        row: of the key, the condition that a row of the table is NEW.
    """

    columns: tuple[str, ...] | None
    same: str
    row: str = field(default="", compare=False)


def uniques_of(connection: sa.Connection, tracking: Tracking) -> list[Unique]:
    """All uniques of a table, the key first."""
    rows = connection.exec_driver_sql(_INDEXES, (tracking.table,)).all()
    collates = "COLLATE" in _sql_of(connection, "table", tracking.table).upper()
    parts: dict[str, tuple[str, bool, list[tuple[str | None, str]]]] = {}
    for name, origin, partial, column, collation in rows:
        parts.setdefault(name, (origin, bool(partial), []))[2].append((column, collation))
    # A key by rowid has no index.
    key = _plain(tracking, [(column, "BINARY") for column in tracking.key], False)
    found: dict[Unique, None] = {}
    for name, (origin, partial, columns) in parts.items():
        named = [(column, collation) for column, collation in columns if column is not None]
        if not partial and len(named) == len(columns):
            unique = _plain(tracking, named, collates)
            if origin == "pk":
                key = unique
            else:
                found[unique] = None
            continue
        texts, condition = terms_of(_sql_of(connection, "index", name))
        new = _new_row(connection, tracking)
        terms = [
            f"({text}) = (SELECT {text} FROM {new}) COLLATE {collation}"
            for text, (_, collation) in zip(texts, columns, strict=True)
        ]
        if condition is not None:
            terms += [f"({condition})", f"(SELECT {condition} FROM {new})"]
        found[Unique(None, " AND ".join(terms))] = None
    found.pop(key, None)
    key = replace(key, row=_row(connection, tracking))
    return [key, *sorted(found, key=lambda one: (one.columns is None, one.columns or (), one.same))]


def rowid_of(connection: sa.Connection, tracking: Tracking) -> str | None:
    """The name of the rowid, if the key may hold NULL and so does not identify a row.

    SQLite lets NULL into a key without NOT NULL, in as many rows as there are. None if the key
    identifies a row, and if columns have all names of the rowid.
    """
    rows = connection.exec_driver_sql(_KEY, (tracking.table,)).all()
    key = [(kind, bool(filled)) for _, kind, filled, nth in rows if nth]
    by_rowid = len(key) == 1 and key[0][0].upper() == "INTEGER"
    if by_rowid or all(filled for _, filled in key):
        return None
    taken = {name.lower() for name, *_ in rows}
    return next((name for name in ("rowid", "_rowid_", "oid") if name not in taken), None)


def _row(connection: sa.Connection, tracking: Tracking) -> str:
    rowid = rowid_of(connection, tracking)
    if rowid is not None:
        return f"{rowid} = NEW.{rowid}"
    return " AND ".join(f"{quote(name)} IS NEW.{quote(name)}" for name in tracking.key)


def terms_of(sql: str) -> tuple[list[str], str | None]:
    """The terms of a CREATE INDEX statement without their order, and its condition."""
    # Before the terms, each of them, and what follows them.
    parts, depth, closed = [""], 0, False
    for found in _PIECES.findall(sql):
        piece = " " if found.startswith(("--", "/*")) else found
        depth += (piece == "(") - (piece == ")")
        opens, closes = (piece, depth) == ("(", 1), (piece, depth) == (")", 0)
        if not closed and (opens or closes or (piece, depth) == (",", 1)):
            parts.append("")
            closed = closes
        else:
            parts[-1] += piece
    _, *terms, rest = parts
    where = re.match(r"\s*WHERE\b(.*)$", rest, re.IGNORECASE | re.DOTALL)
    ordered = re.compile(r"\s+(ASC|DESC)\s*$", re.IGNORECASE)
    return [ordered.sub("", term).strip() for term in terms], where and where[1].strip()


def _plain(tracking: Tracking, columns: list[tuple[str, str]], collates: bool) -> Unique:
    table = quote(tracking.table)
    same = " AND ".join(
        f"{table}.{quote(name)} = NEW.{quote(name)}"
        + (f" COLLATE {collation}" if collates or collation != "BINARY" else "")
        for name, collation in columns
    )
    return Unique(tuple(name for name, _ in columns), same)


def _new_row(connection: sa.Connection, tracking: Tracking) -> str:
    """The row NEW under the names of the table, which the index's expressions use."""
    found = connection.exec_driver_sql("SELECT name FROM pragma_table_xinfo(?)", (tracking.table,))
    columns = ", ".join(f"NEW.{quote(name)} AS {quote(name)}" for name in found.scalars())
    return f"(SELECT {columns}) AS {quote(tracking.table)}"


def _sql_of(connection: sa.Connection, kind: str, name: str) -> str:
    query = "SELECT sql FROM sqlite_master WHERE type = ? AND lower(name) = lower(?)"
    return connection.exec_driver_sql(query, (kind, name)).scalar() or ""

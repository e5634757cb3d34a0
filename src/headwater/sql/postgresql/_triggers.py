"""The triggers of a tracked table on PostgreSQL, and the functions that they call.

Each row carries the transaction that wrote it, ``headwater_change``, and its order in it,
``headwater_order``. When a row is inserted, defaults set both, which needs no trigger. On each
update of a keyed table triggers set them, and they correct what a client wrote into them.

A delete adds a row to ``headwater_removals``; a change of the key or of a filter column does too.
A transaction's removals are sent before its rows, so a row that comes back is there in the end. One
case is left: an older transaction writes a row with a key that a younger one removed, and commits
after it. By transaction id the removal would be sent after the row. So each write of a row takes
over the removals of its key by younger transactions: they become its own transaction's.
"""

# ruff: noqa: S608 - names are quoted here; triggers take no parameters

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from headwater.sql._tracking import CHANGE, NUMBERS, ORDER, REMOVALS, TABLES, Tracking, quote, text

_LONGEST = 63

# A name for another life of a table.
_EPOCH = "pg_catalog.substr(pg_catalog.replace(pg_catalog.gen_random_uuid()::text, '-', ''), 1, 12)"

# A function knows the columns and their types as they were when its session called it first. Some
# types have no equality, such as a domain over an enum.
CHANGED = "EXCEPTION WHEN undefined_column OR datatype_mismatch OR undefined_function THEN"


# Whoever writes the tracked table may write Headwater's own tables through such functions.
DEFINER = "SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
# The text of a value, and so a key, must not depend on the settings of a writer's session.
CANONICAL = (
    f"{DEFINER} SET timezone = 'UTC' SET datestyle = 'ISO' SET intervalstyle = 'postgres' "
    "SET extra_float_digits = 1 SET bytea_output = 'hex'"
)

# The bits of a trigger in the catalogue, by the words of its definition.
_BITS = {"ROW": 1, "STATEMENT": 0, "BEFORE": 2, "AFTER": 0}
_BITS |= {"INSERT": 4, "DELETE": 8, "UPDATE": 16, "TRUNCATE": 32}


@dataclass(frozen=True, slots=True)
class Trigger:
    """One trigger of a table.

    Attributes:
        at: such as ``"BEFORE INSERT"``.
        each: ``"ROW"`` or ``"STATEMENT"``.
        function: that it calls, in the schema of Headwater's tables.
        arguments: of the call, as SQL.
        condition: as SQL; always if empty.
    """

    at: str
    each: str
    function: str
    arguments: str = ""
    condition: str = ""

    @property
    def shape(self) -> tuple[str, int, bool]:
        """The same as the catalogue has it, but for the condition's text."""
        bits = sum(_BITS[word] for word in (*self.at.split(), self.each))
        return self.function, bits, bool(self.condition)

    def ddl(self, name: str, table: str, own: str) -> str:
        """The statement that makes it. ``own``: the quoted schema of Headwater's tables."""
        when = f"WHEN ({self.condition}) " if self.condition else ""
        return (
            f"CREATE TRIGGER {quote(name)} {self.at} ON {table} FOR EACH {self.each}\n"
            f"{when}EXECUTE FUNCTION {own}.{quote(self.function)}({self.arguments})"
        )


def triggers(tracking: Tracking) -> dict[str, Trigger]:
    """A table's triggers by kind.

    They find the table by its identity, so they go with it when it is renamed. No condition names a
    column of the application: PostgreSQL would not let it be dropped or get another type.
    """
    new, old = f"NEW.{CHANGE}", f"OLD.{CHANGE}"
    touched = f"NEW.{ORDER} IS DISTINCT FROM OLD.{ORDER}"
    mark, mine = "headwater_mark", f"{new} IS DISTINCT FROM pg_current_xact_id()"
    waking = text(channel(tracking))
    unmarked = f"{mine} OR NEW.{ORDER} IS NULL OR NEW.{ORDER} <= 0"
    found = {
        "insert": Trigger("BEFORE INSERT", "ROW", mark, condition=unmarked),
        "truncated": Trigger(
            "AFTER TRUNCATE", "STATEMENT", "headwater_truncated", f"{text(tracking.name)}, {waking}"
        ),
    }
    woken = ["insert"]
    if tracking.keyed:
        again = function_name(tracking, "told")
        found |= {
            "update": Trigger("BEFORE UPDATE", "ROW", mark, condition=f"{mine} OR {touched}"),
            "insert_told": Trigger("AFTER INSERT", "ROW", again),
            "update_told": Trigger("AFTER UPDATE", "ROW", again),
            "deleted": Trigger("AFTER DELETE", "ROW", function_name(tracking, "gone")),
        }
        woken += ["update", "delete"]
    elif tracking.partitioned:
        # A row moves between partitions by a delete and an insert.
        found["update"] = Trigger("BEFORE UPDATE", "ROW", "headwater_moving")
    else:
        condition = f"{new} IS DISTINCT FROM {old} OR {touched}"
        found["update"] = Trigger("BEFORE UPDATE", "ROW", "headwater_keep", condition=condition)
    if tracking.notify:
        for event in woken:
            at = f"AFTER {event.upper()}"
            found[f"wake_{event}"] = Trigger(at, "STATEMENT", "headwater_wake", waking)
    return found


@dataclass(frozen=True, slots=True)
class Function:
    """One function that triggers call.

    Attributes:
        body: its statements.
        options: such as SECURITY DEFINER.
        declared: the declarations before the body.
    """

    name: str
    body: str
    options: str = ""
    declared: str = ""

    @property
    def source(self) -> str:
        """Its text, as the catalogue has it."""
        return f"\n{self.declared}\nBEGIN\n  {self.body}\nEND\n"

    def ddl(self, own: str) -> str:
        """The statement that makes it. ``own``: the quoted schema of Headwater's tables."""
        return (
            f"CREATE OR REPLACE FUNCTION {own}.{quote(self.name)}() RETURNS trigger "
            f"LANGUAGE plpgsql {self.options} AS\n$headwater${self.source}$headwater$"
        )


def functions(tracking: Tracking, own: str) -> list[Function]:
    """The functions that a table's triggers call.

    ``own``: the quoted schema of Headwater's tables.
    """
    number = f"pg_catalog.nextval('{own}.{NUMBERS.name}'::pg_catalog.regclass)"
    removals, name = f"{own}.{REMOVALS.name}", text(tracking.name)
    found = [
        # A row that moves to another partition is inserted there, and keeps what it had. Where the
        # sequence is gone, as with a schema that was renamed, writes go on; that is drift.
        Function(
            "headwater_mark",
            f"IF TG_OP = 'INSERT' AND NEW.{CHANGE}::text || ' ' || NEW.{ORDER}\n"
            "      = pg_catalog.current_setting('headwater.moving', true) THEN\n"
            "    PERFORM pg_catalog.set_config('headwater.moving', '', true);\n"
            "    RETURN NEW;\n  END IF;\n"
            f"  NEW.{CHANGE} := pg_catalog.pg_current_xact_id();\n"
            f"  IF pg_catalog.to_regclass({text(f'{own}.{NUMBERS.name}')}) IS NULL THEN\n"
            f"    NEW.{ORDER} := 1;\n  ELSE\n    NEW.{ORDER} := {number};\n  END IF;\n"
            "  RETURN NEW;",
        ),
        Function(
            "headwater_moving",
            f"NEW.{CHANGE} := OLD.{CHANGE};\n  NEW.{ORDER} := OLD.{ORDER};\n"
            "  PERFORM pg_catalog.set_config('headwater.moving',\n"
            f"    NEW.{CHANGE}::text || ' ' || NEW.{ORDER}, true);\n  RETURN NEW;",
        ),
        Function(
            "headwater_keep",
            f"NEW.{CHANGE} := OLD.{CHANGE};\n  NEW.{ORDER} := OLD.{ORDER};\n  RETURN NEW;",
        ),
        Function("headwater_wake", "PERFORM pg_catalog.pg_notify(TG_ARGV[0], '');\n  RETURN NULL;"),
        Function(
            "headwater_truncated",
            f"{_guard(removals, 'TG_ARGV[0]')}"
            f"UPDATE {own}.{TABLES.name} SET floor = 0, retiring = NULL,\n"
            f"    epoch = {_EPOCH}\n    WHERE name = TG_ARGV[0];\n"
            f"  DELETE FROM {removals} WHERE table_name = TG_ARGV[0];\n"
            "  PERFORM pg_catalog.pg_notify(TG_ARGV[1], '');\n  RETURN NULL;",
            DEFINER,
        ),
    ]
    if tracking.keyed:
        known = dict.fromkeys((*tracking.key, *tracking.filters))
        # To a client keys are different that their type or collation takes for the same.
        exact = dict.fromkeys(tracking.key, '::text COLLATE "C"')
        moved = " OR ".join(
            f"OLD.{quote(c)}{exact.get(c, '')} IS DISTINCT FROM NEW.{quote(c)}{exact.get(c, '')}"
            for c in known
        )
        removal = (
            f"INSERT INTO {removals} (table_name, number, change, key, old, at) VALUES (\n"
            f"      {name}, {number}, pg_catalog.pg_current_xact_id(), keys, olds,\n"
            "      pg_catalog.clock_timestamp());"
        )
        lacking = renewed_without(known, f"{own}.{TABLES.name}", name)
        record = (
            f"  BEGIN\n    keys := {object_of(tracking.key, 'OLD')};\n"
            f"    olds := {object_of((*tracking.kept, CHANGE, ORDER), 'OLD')};\n"
            f"  {CHANGED}\n    {lacking}\n    keys := {present_in(tracking.key, 'OLD')};\n"
            f"    olds := {present_in((*tracking.kept, CHANGE, ORDER), 'OLD')};\n  END;\n"
            f"  {removal}"
        )
        also_moved = (
            "EXISTS (SELECT FROM pg_catalog.unnest("
            f"ARRAY[{', '.join(map(text, known))}]::text[]) AS c "
            "WHERE pg_catalog.to_jsonb(OLD) -> c IS DISTINCT FROM pg_catalog.to_jsonb(NEW) -> c)"
        )
        found += [
            Function(
                function_name(tracking, "gone"),
                f"{_guard(removals, name)}{record}\n  RETURN NULL;",
                CANONICAL,
                "DECLARE keys jsonb; olds jsonb;",
            ),
            # A younger transaction that is over is rare; only then the first statement runs.
            Function(
                function_name(tracking, "told"),
                f"{_guard(removals, name)}"
                "IF pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())\n"
                "      > pg_catalog.pg_current_xact_id() THEN\n"
                f"    BEGIN\n      keys := {object_of(tracking.key, 'NEW')};\n"
                f"    {CHANGED}\n      keys := {present_in(tracking.key, 'NEW')};\n    END;\n"
                f"    UPDATE {removals} SET change = pg_catalog.pg_current_xact_id()\n"
                f"      WHERE table_name = {name} AND key = keys\n"
                "      AND change > pg_catalog.pg_current_xact_id();\n"
                "  END IF;\n  IF TG_OP = 'UPDATE' THEN\n"
                f"    BEGIN\n      moved := {moved};\n"
                f"    {CHANGED}\n    {lacking}\n      moved := {also_moved};\n    END;\n"
                f"    IF moved THEN\n{record}\n    END IF;\n  END IF;\n  RETURN NULL;",
                CANONICAL,
                "DECLARE keys jsonb; olds jsonb; moved boolean;",
            ),
        ]
    return found


def channel(tracking: Tracking) -> str:
    """The channel on which commits to the table are notified."""
    return short_name(f"headwater_{tracking.name}")


def notification(tracking: Tracking) -> sa.Executable | None:
    """The statement that wakes the tails of other processes; None without NOTIFY."""
    return sa.select(sa.func.pg_notify(channel(tracking), "")) if tracking.notify else None


def trigger_name(tracking: Tracking, kind: str) -> str:
    """The full name of one of a table's triggers."""
    return short_name(f"headwater_{tracking.table}_{kind}")


def make(
    connection: sa.Connection, tracking: Tracking, own: str, made: Mapping[str, Trigger]
) -> None:
    """Make triggers, by the names that they get."""
    table = qualified(tracking)
    for name, trigger in made.items():
        run(connection, trigger.ddl(name, table, own))
        # ALWAYS: also for what logical replication applies, and while ordinary triggers are
        # disabled.
        run(connection, f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {quote(name)}")


def run(connection: sa.Connection, statement: str) -> sa.CursorResult[Any]:
    """Run SQL without parameters: a percent sign in a name stands for itself."""
    if connection.dialect.paramstyle in ("format", "pyformat"):
        statement = statement.replace("%", "%%")
    return connection.exec_driver_sql(statement)


@contextmanager
def disabled(connection: sa.Connection, tracking: Tracking, names: Sequence[str]) -> Iterator[None]:
    """Disable these triggers of a table, and enable them again at the end."""
    table = qualified(tracking)
    for name in names:
        run(connection, f"ALTER TABLE {table} DISABLE TRIGGER {quote(name)}")
    yield
    for name in names:
        run(connection, f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {quote(name)}")


def schema_with(connection: sa.Connection, table: str) -> str:
    """The schema of one of Headwater's tables, as SQL: a writer may have another search_path."""
    found = run(
        connection,
        "SELECT nspname::text FROM pg_namespace "
        f"WHERE oid = (SELECT relnamespace FROM pg_class WHERE oid = '{table}'::regclass)",
    ).scalar_one()
    return quote(found)


def qualified(tracking: Tracking) -> str:
    """The table as SQL."""
    table = quote(tracking.table)
    return table if tracking.schema is None else f"{quote(tracking.schema)}.{table}"


def _guard(removals: str, name: str) -> str:
    """What comes before a write of Headwater's own tables, whose schema may have another name.

    The application's write goes on, and the table begins another life, wherever its schema is now.
    """
    update = f"UPDATE %I.{TABLES.name} SET epoch = {_EPOCH} WHERE name = %L"
    return (
        f"IF pg_catalog.to_regclass({text(removals)}) IS NULL THEN\n"
        f"    EXECUTE coalesce((SELECT pg_catalog.format({text(update)}, n.nspname, {name})\n"
        "      FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid\n"
        "      JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace\n"
        "      JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid\n"
        f"      WHERE t.tgrelid = TG_RELID AND t.tgname = TG_NAME\n"
        f"      AND c.relname = '{TABLES.name}'),\n"
        "      'SELECT');\n    RETURN NULL;\n  END IF;\n  "
    )


def renewed_without(columns: Iterable[str], table: str, name: str) -> str:
    """Begins another epoch in one of Headwater's tables where OLD lacks some of these columns.

    Columns that were dropped, renamed or retyped since must not make a write fail. What is kept of
    a row without its key or the columns of its filters says too little: clients need a reset.
    """
    return (
        f"IF NOT pg_catalog.to_jsonb(OLD) ?& ARRAY[{', '.join(map(text, columns))}] THEN\n"
        f"      UPDATE {table} SET epoch = {_EPOCH} WHERE name = {name};\n"
        "    END IF;"
    )


def object_of(columns: Iterable[str], row: str) -> str:
    """These columns of OLD or NEW as JSON."""
    pairs = (f"{text(column)}, {row}.{quote(column)}" for column in columns)
    return f"pg_catalog.jsonb_build_object({', '.join(pairs)})"


def present_in(columns: Iterable[str], row: str) -> str:
    """The same for whatever columns the row has, and of whatever types; much slower."""
    names = ", ".join(map(text, columns))
    return (
        f"(SELECT pg_catalog.jsonb_object_agg(c, pg_catalog.to_jsonb({row}) -> c) "
        f"FROM pg_catalog.unnest(ARRAY[{names}]::text[]) AS c)"
    )


def function_name(tracking: Tracking, kind: str) -> str:
    """The name of a function that only one table's triggers call."""
    return short_name(f"headwater_{tracking.name}_{kind}")


def short_name(name: str, prefix: str = "headwater_") -> str:
    """A name with this prefix, shortened if PostgreSQL would cut it."""
    if len(name.encode()) <= _LONGEST:
        return name
    return f"{prefix}{hashlib.blake2s(name.encode(), digest_size=8).hexdigest()}"

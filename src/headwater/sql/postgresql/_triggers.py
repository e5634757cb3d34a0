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
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from headwater.sql._tracking import CHANGE, NUMBERS, ORDER, REMOVALS, TABLES, Tracking, quote, text

_LONGEST = 63

# A function knows the columns and their types as they were when its session called it first.
_CHANGED = "EXCEPTION WHEN undefined_column OR datatype_mismatch THEN"


def triggers(tracking: Tracking, own: str) -> dict[str, str]:
    """The DDL of a table's triggers by kind.

    They find the table by its identity, so they go with it when it is renamed. No condition names a
    column of the application: PostgreSQL would not let it be dropped or get another type.

    ``own``: the quoted schema of Headwater's tables.
    """
    table = qualified(tracking)
    new, old = f"NEW.{CHANGE}", f"OLD.{CHANGE}"
    touched = f"NEW.{ORDER} IS DISTINCT FROM OLD.{ORDER}"
    mark, keep = f"{own}.headwater_mark()", f"{own}.headwater_keep()"
    mine = f"{new} IS DISTINCT FROM pg_current_xact_id()"
    name = text(tracking.name)
    bodies = {
        "insert": f"BEFORE INSERT ON {table} FOR EACH ROW\n"
        f"WHEN ({mine} OR NEW.{ORDER} IS NULL OR NEW.{ORDER} <= 0) EXECUTE FUNCTION {mark}",
        "truncated": f"AFTER TRUNCATE ON {table} FOR EACH STATEMENT\n"
        f"EXECUTE FUNCTION {own}.headwater_truncated({name}, {text(channel(tracking))})",
    }
    told = ["insert"]
    if tracking.keyed:
        gone = f"EXECUTE FUNCTION {own}.{quote(_function(tracking, 'gone'))}()"
        again = f"EXECUTE FUNCTION {own}.{quote(_function(tracking, 'told'))}()"
        bodies |= {
            "update": f"BEFORE UPDATE ON {table} FOR EACH ROW\n"
            f"WHEN ({mine} OR {touched}) EXECUTE FUNCTION {mark}",
            "insert_told": f"AFTER INSERT ON {table} FOR EACH ROW {again}",
            "update_told": f"AFTER UPDATE ON {table} FOR EACH ROW {again}",
            "deleted": f"AFTER DELETE ON {table} FOR EACH ROW {gone}",
        }
        told += ["update", "delete"]
    elif tracking.partitioned:
        # A row moves between partitions by a delete and an insert.
        bodies["update"] = (
            f"BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {own}.headwater_moving()"
        )
    else:
        bodies["update"] = (
            f"BEFORE UPDATE ON {table} FOR EACH ROW\n"
            f"WHEN ({new} IS DISTINCT FROM {old} OR {touched}) EXECUTE FUNCTION {keep}"
        )
    if tracking.notify:
        for event in told:
            bodies[f"wake_{event}"] = (
                f"AFTER {event.upper()} ON {table} FOR EACH STATEMENT\n"
                f"EXECUTE FUNCTION {own}.headwater_wake({text(channel(tracking))})"
            )
    return {
        kind: f"CREATE TRIGGER {quote(trigger_name(tracking, kind))} {body}"
        for kind, body in bodies.items()
    }


def functions(tracking: Tracking, own: str) -> list[str]:
    """The DDL of the functions that a table's triggers call."""
    number = f"pg_catalog.nextval('{own}.{NUMBERS.name}'::pg_catalog.regclass)"
    removals, name = f"{own}.{REMOVALS.name}", text(tracking.name)
    # Whoever writes the tracked table may write Headwater's own tables through these.
    definer = "SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
    found = [
        # A row that moves to another partition is inserted there, and keeps what it had.
        _trigger(
            f"{own}.headwater_mark",
            f"IF TG_OP = 'INSERT' AND NEW.{CHANGE}::text || ' ' || NEW.{ORDER}\n"
            "      = pg_catalog.current_setting('headwater.moving', true) THEN\n"
            "    PERFORM pg_catalog.set_config('headwater.moving', '', true);\n"
            "    RETURN NEW;\n  END IF;\n"
            f"  NEW.{CHANGE} := pg_catalog.pg_current_xact_id();\n  NEW.{ORDER} := {number};\n"
            "  RETURN NEW;",
        ),
        _trigger(
            f"{own}.headwater_moving",
            f"NEW.{CHANGE} := OLD.{CHANGE};\n  NEW.{ORDER} := OLD.{ORDER};\n"
            "  PERFORM pg_catalog.set_config('headwater.moving',\n"
            f"    NEW.{CHANGE}::text || ' ' || NEW.{ORDER}, true);\n  RETURN NEW;",
        ),
        _trigger(
            f"{own}.headwater_keep",
            f"NEW.{CHANGE} := OLD.{CHANGE};\n  NEW.{ORDER} := OLD.{ORDER};\n  RETURN NEW;",
        ),
        _trigger(
            f"{own}.headwater_wake", "PERFORM pg_catalog.pg_notify(TG_ARGV[0], '');\n  RETURN NULL;"
        ),
        _trigger(
            f"{own}.headwater_truncated",
            f"UPDATE {own}.{TABLES.name} SET floor = 0, retiring = NULL,\n"
            "    epoch = pg_catalog.substr(pg_catalog.replace("
            "pg_catalog.gen_random_uuid()::text, '-', ''), 1, 12)\n"
            "    WHERE name = TG_ARGV[0];\n"
            f"  DELETE FROM {removals} WHERE table_name = TG_ARGV[0];\n"
            "  PERFORM pg_catalog.pg_notify(TG_ARGV[1], '');\n  RETURN NULL;",
            definer,
        ),
    ]
    # The text of a value, and so a key, must not depend on the settings of a writer's session.
    canonical = (
        f"{definer} SET timezone = 'UTC' SET datestyle = 'ISO' SET intervalstyle = 'postgres' "
        "SET extra_float_digits = 1 SET bytea_output = 'hex'"
    )
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
        # Columns that were dropped, renamed or retyped since must not make a write fail.
        record = (
            f"  BEGIN\n    keys := {_object(tracking.key, 'OLD')};\n"
            f"    olds := {_object((*tracking.kept, CHANGE, ORDER), 'OLD')};\n"
            f"  {_CHANGED}\n    keys := {_present(tracking.key, 'OLD')};\n"
            f"    olds := {_present((*tracking.kept, CHANGE, ORDER), 'OLD')};\n  END;\n  {removal}"
        )
        also_moved = (
            "EXISTS (SELECT FROM pg_catalog.unnest("
            f"ARRAY[{', '.join(map(text, known))}]::text[]) AS c "
            "WHERE pg_catalog.to_jsonb(OLD) -> c IS DISTINCT FROM pg_catalog.to_jsonb(NEW) -> c)"
        )
        found += [
            _trigger(
                f"{own}.{quote(_function(tracking, 'gone'))}",
                f"{record}\n  RETURN NULL;",
                canonical,
                "DECLARE keys jsonb; olds jsonb;",
            ),
            # A younger transaction that is over is rare; only then the first statement runs.
            _trigger(
                f"{own}.{quote(_function(tracking, 'told'))}",
                "IF pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())\n"
                "      > pg_catalog.pg_current_xact_id() THEN\n"
                f"    BEGIN\n      keys := {_object(tracking.key, 'NEW')};\n"
                f"    {_CHANGED}\n      keys := {_present(tracking.key, 'NEW')};\n    END;\n"
                f"    UPDATE {removals} SET change = pg_catalog.pg_current_xact_id()\n"
                f"      WHERE table_name = {name} AND key = keys\n"
                "      AND change > pg_catalog.pg_current_xact_id();\n"
                "  END IF;\n  IF TG_OP = 'UPDATE' THEN\n"
                f"    BEGIN\n      moved := {moved};\n"
                f"    {_CHANGED}\n      moved := {also_moved};\n    END;\n"
                f"    IF moved THEN\n{record}\n    END IF;\n  END IF;\n  RETURN NULL;",
                canonical,
                "DECLARE keys jsonb; olds jsonb; moved boolean;",
            ),
        ]
    return found


def channel(tracking: Tracking) -> str:
    """The channel on which commits to the table are notified."""
    return _short(f"headwater_{tracking.name}")


def trigger_name(tracking: Tracking, kind: str) -> str:
    """The full name of one of a table's triggers."""
    return _short(f"headwater_{tracking.table}_{kind}")


def run(connection: sa.Connection, statement: str) -> sa.CursorResult[Any]:
    """Run SQL without parameters: a percent sign in a name stands for itself."""
    if connection.dialect.paramstyle in ("format", "pyformat"):
        statement = statement.replace("%", "%%")
    return connection.exec_driver_sql(statement)


def qualified(tracking: Tracking) -> str:
    """The table as SQL."""
    table = quote(tracking.table)
    return table if tracking.schema is None else f"{quote(tracking.schema)}.{table}"


def _trigger(name: str, body: str, options: str = "", declared: str = "") -> str:
    return (
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql {options} AS\n"
        f"$headwater$\n{declared}\nBEGIN\n  {body}\nEND\n$headwater$"
    )


def _object(columns: Iterable[str], row: str) -> str:
    pairs = (f"{text(column)}, {row}.{quote(column)}" for column in columns)
    return f"pg_catalog.jsonb_build_object({', '.join(pairs)})"


def _present(columns: Iterable[str], row: str) -> str:
    """The same for whatever columns the row has, and of whatever types; much slower."""
    names = ", ".join(map(text, columns))
    return (
        f"(SELECT pg_catalog.jsonb_object_agg(c, pg_catalog.to_jsonb({row}) -> c) "
        f"FROM pg_catalog.unnest(ARRAY[{names}]::text[]) AS c)"
    )


def _function(tracking: Tracking, kind: str) -> str:
    return _short(f"headwater_{tracking.name}_{kind}")


def _short(name: str) -> str:
    if len(name.encode()) <= _LONGEST:
        return name
    return f"headwater_{hashlib.blake2s(name.encode(), digest_size=8).hexdigest()}"

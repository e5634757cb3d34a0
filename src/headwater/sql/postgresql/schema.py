"""PostgreSQL: the triggers of a tracked table and what they call, for models and migrations.

Each row carries the transaction that wrote it, ``headwater_change``, and its order in it,
``headwater_order``. Defaults set both when a row is inserted, which costs no trigger; triggers set
them on each update of a keyed table, and put right what a client wrote into them itself.

A removal is a row of ``headwater_removals``: when a row is deleted, and when its key or a filter
column changes. A transaction's removals are told before its rows, so that a row which comes back
is there in the end. One case is left: an older transaction writes a row with a key that a younger
one removed, and commits after it; by transaction id the removal would be told after the row. So
each write of a row takes the removals of its key by younger transactions over into its own.
"""

# ruff: noqa: S608 - names are quoted here; triggers take no parameters

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from headwater.sql.own import NUMBERS, REMOVALS, TABLES, create_own_tables, new_epoch
from headwater.sql.tracked import CHANGE, ORDER, Tracking, change_indexes

__all__ = [
    "channel",
    "drop_triggers",
    "forget",
    "install",
    "qualified",
    "quote",
    "register",
    "renew_epochs",
    "run",
    "set_defaults",
    "start",
    "trigger_name",
    "triggers",
]

_LONGEST = 63

_KINDS = (
    "insert",
    "update",
    "insert_told",
    "update_told",
    "moved",
    "deleted",
    "truncated",
    "wake_insert",
    "wake_update",
    "wake_delete",
)


def start(connection: sa.Connection, tracking: Tracking) -> None:
    """Begin to track a table that was just made with its first column, empty."""
    table = qualified(tracking)
    register(connection, tracking, anew=True)
    run(connection, f"ALTER TABLE {table} ADD COLUMN {ORDER} bigint NOT NULL DEFAULT 0")
    set_defaults(connection, tracking)
    for index in change_indexes(tracking):
        columns = ", ".join(map(quote, index.postgresql))
        run(connection, f"CREATE INDEX {quote(index.name)} ON {table} ({columns})")
    install(connection, tracking)


def register(connection: sa.Connection, tracking: Tracking, *, anew: bool) -> None:
    """Note the table among those that are tracked. Unless ``anew`` it keeps its epoch."""
    create_own_tables(connection)
    # Whoever may insert into the table must get numbers, as with an identity column.
    own = _own_schema(connection)
    run(connection, f"GRANT USAGE ON SEQUENCE {own}.{NUMBERS.name} TO PUBLIC")
    if anew:
        forget(connection, tracking)
    declared = tracking.declared()
    mine = TABLES.c.name == tracking.name
    if connection.execute(TABLES.update().where(mine).values(declared=declared)).rowcount == 0:
        connection.execute(
            TABLES.insert().values(
                name=tracking.name, epoch=new_epoch(), last=0, floor=0, declared=declared
            )
        )


def set_defaults(connection: sa.Connection, tracking: Tracking) -> None:
    """From now on rows that are inserted get their transaction and order."""
    own, table = _own_schema(connection), qualified(tracking)
    run(
        connection,
        f"ALTER TABLE {table} ALTER COLUMN {CHANGE} SET DEFAULT pg_current_xact_id(), "
        f"ALTER COLUMN {ORDER} SET DEFAULT nextval('{own}.{NUMBERS.name}'::regclass)",
    )


def install(connection: sa.Connection, tracking: Tracking) -> None:
    """Create the table's triggers, in place of those of another declaration."""
    drop_triggers(connection, tracking)
    own = _own_schema(connection)
    made = triggers(tracking, own)
    for statement in (*_functions(tracking, own), *made.values()):
        run(connection, statement)
    # Also for what logical replication applies, and for whoever switches ordinary triggers off.
    for kind in made:
        _switch(connection, tracking, kind, "ENABLE ALWAYS")


def forget(connection: sa.Connection, tracking: Tracking) -> None:
    """Remove what the database knows of a table's changes."""
    connection.execute(TABLES.delete().where(TABLES.c.name == tracking.name))
    connection.execute(REMOVALS.delete().where(REMOVALS.c.table_name == tracking.name))


def drop_triggers(connection: sa.Connection, tracking: Tracking) -> None:
    """Drop a table's triggers, of whatever declaration."""
    for kind in _KINDS:
        name = quote(trigger_name(tracking, kind))
        run(connection, f"DROP TRIGGER IF EXISTS {name} ON {qualified(tracking)}")


def renew_epochs(connection: sa.Connection, tables: Iterable[str] | None = None) -> None:
    """Begin a new epoch after a backup was restored, so that no older position is taken for good.

    Rows that carry transactions of another server, as from a dump, become rows from before the
    tracking; removals by those are forgotten. Needs the rights of the tables' owner.

    Arguments:
        tables: names as in ``headwater_tables``; all if None.
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


def triggers(tracking: Tracking, own: str) -> dict[str, str]:
    """The DDL of a table's triggers by kind. ``own``: the quoted schema of Headwater's tables."""
    table = qualified(tracking)
    new, old = f"NEW.{CHANGE}", f"OLD.{CHANGE}"
    touched = f"NEW.{ORDER} IS DISTINCT FROM OLD.{ORDER}"
    mark, keep = f"{own}.headwater_mark()", f"{own}.headwater_keep()"
    mine = f"{new} IS DISTINCT FROM pg_current_xact_id()"
    name = _text(tracking.name)
    bodies = {
        "insert": f"BEFORE INSERT ON {table} FOR EACH ROW\n"
        f"WHEN ({mine} OR NEW.{ORDER} IS NULL OR NEW.{ORDER} <= 0) EXECUTE FUNCTION {mark}",
        "truncated": f"AFTER TRUNCATE ON {table} FOR EACH STATEMENT\n"
        f"EXECUTE FUNCTION {own}.headwater_truncated({name}, {_text(channel(tracking))})",
    }
    told = ["insert"]
    if tracking.keyed:
        gone = f"EXECUTE FUNCTION {own}.{quote(_function(tracking, 'gone'))}()"
        again = f"EXECUTE FUNCTION {own}.{quote(_function(tracking, 'told'))}()"
        moved = " OR ".join(
            f"OLD.{quote(c)} IS DISTINCT FROM NEW.{quote(c)}"
            for c in dict.fromkeys((*tracking.key, *tracking.filters))
        )
        bodies |= {
            "update": f"BEFORE UPDATE ON {table} FOR EACH ROW\n"
            f"WHEN ({mine} OR {touched}) EXECUTE FUNCTION {mark}",
            "insert_told": f"AFTER INSERT ON {table} FOR EACH ROW {again}",
            "update_told": f"AFTER UPDATE ON {table} FOR EACH ROW {again}",
            "moved": f"AFTER UPDATE ON {table} FOR EACH ROW WHEN ({moved}) {gone}",
            "deleted": f"AFTER DELETE ON {table} FOR EACH ROW {gone}",
        }
        told += ["update", "delete"]
    else:
        bodies["update"] = (
            f"BEFORE UPDATE ON {table} FOR EACH ROW\n"
            f"WHEN ({new} IS DISTINCT FROM {old} OR {touched}) EXECUTE FUNCTION {keep}"
        )
    if tracking.notify:
        for event in told:
            bodies[f"wake_{event}"] = (
                f"AFTER {event.upper()} ON {table} FOR EACH STATEMENT\n"
                f"EXECUTE FUNCTION {own}.headwater_wake({_text(channel(tracking))})"
            )
    return {
        kind: f"CREATE TRIGGER {quote(trigger_name(tracking, kind))} {body}"
        for kind, body in bodies.items()
    }


def channel(tracking: Tracking) -> str:
    """What a commit to the table is notified on."""
    return _short(f"headwater_{tracking.name}")


def trigger_name(tracking: Tracking, kind: str) -> str:
    """The full name of one of a table's triggers."""
    return _short(f"headwater_{tracking.table}_{kind}")


def run(connection: sa.Connection, statement: str) -> sa.CursorResult[Any]:
    """Run SQL without parameters: a percent sign in a name is not one."""
    return connection.exec_driver_sql(statement.replace("%", "%%"))


def qualified(tracking: Tracking) -> str:
    """The table as SQL."""
    table = quote(tracking.table)
    return table if tracking.schema is None else f"{quote(tracking.schema)}.{table}"


def quote(name: str) -> str:
    """An identifier as SQL."""
    return '"' + name.replace('"', '""') + '"'


def _switch(connection: sa.Connection, tracking: Tracking, kind: str, how: str) -> None:
    name = quote(trigger_name(tracking, kind))
    run(connection, f"ALTER TABLE {qualified(tracking)} {how} TRIGGER {name}")


def _functions(tracking: Tracking, own: str) -> list[str]:
    number = f"pg_catalog.nextval('{own}.{NUMBERS.name}'::pg_catalog.regclass)"
    removals, name = f"{own}.{REMOVALS.name}", _text(tracking.name)
    # What writes Headwater's own tables does so for whoever writes the tracked one.
    definer = "SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
    found = [
        _trigger(
            f"{own}.headwater_mark",
            f"NEW.{CHANGE} := pg_catalog.pg_current_xact_id();\n  NEW.{ORDER} := {number};\n"
            "  RETURN NEW;",
        ),
        _trigger(
            f"{own}.headwater_keep",
            f"NEW.{CHANGE} := OLD.{CHANGE};\n  NEW.{ORDER} := OLD.{ORDER};\n  RETURN NEW;",
        ),
        _trigger(
            f"{own}.headwater_wake",
            "PERFORM pg_catalog.pg_notify(TG_ARGV[0], '');\n  RETURN NULL;",
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
    if tracking.keyed:
        old = _object((*tracking.kept, CHANGE, ORDER), "OLD")
        found += [
            _trigger(
                f"{own}.{quote(_function(tracking, 'gone'))}",
                f"INSERT INTO {removals} (table_name, number, change, key, old, at) VALUES (\n"
                f"    {name}, {number}, pg_catalog.pg_current_xact_id(),\n"
                f"    {_object(tracking.key, 'OLD')},\n    {old},\n"
                "    pg_catalog.clock_timestamp());\n  RETURN NULL;",
                definer,
            ),
            # A younger transaction that is over is rare; only then the table is looked at.
            _trigger(
                f"{own}.{quote(_function(tracking, 'told'))}",
                "IF pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())\n"
                "      > pg_catalog.pg_current_xact_id() THEN\n"
                f"    UPDATE {removals} SET change = pg_catalog.pg_current_xact_id()\n"
                f"      WHERE table_name = {name} AND key = {_object(tracking.key, 'NEW')}\n"
                "      AND change > pg_catalog.pg_current_xact_id();\n"
                "  END IF;\n  RETURN NULL;",
                definer,
            ),
        ]
    return found


def _trigger(name: str, body: str, options: str = "") -> str:
    return (
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql {options} AS\n"
        f"$headwater$\nBEGIN\n  {body}\nEND\n$headwater$"
    )


def _object(columns: Iterable[str], row: str) -> str:
    pairs = (f"{_text(column)}, {row}.{quote(column)}" for column in columns)
    return f"pg_catalog.jsonb_build_object({', '.join(pairs)})"


def _own_schema(connection: sa.Connection) -> str:
    """Where Headwater's own tables are, as SQL: a writer may have another search_path."""
    found = run(
        connection,
        "SELECT quote_ident(nspname) FROM pg_namespace "
        f"WHERE oid = (SELECT relnamespace FROM pg_class WHERE oid = '{TABLES.name}'::regclass)",
    ).scalar_one()
    return str(found)


def _function(tracking: Tracking, kind: str) -> str:
    return _short(f"headwater_{tracking.name}_{kind}")


def _short(name: str) -> str:
    if len(name.encode()) <= _LONGEST:
        return name
    return f"headwater_{hashlib.blake2s(name.encode(), digest_size=8).hexdigest()}"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"

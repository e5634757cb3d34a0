"""PostgreSQL: the triggers that keep the former links of a table's rows.

Each row carries the transaction that set a link column last, ``headwater_since``. A default sets it
when the row is inserted. A link that changes twice in one transaction leaves one former row: nobody
else has seen what was between. When an older transaction updates a row that a younger one linked,
that counts as a change of the links: no row has a ``headwater_since`` above its latest change.
"""

# ruff: noqa: S608 - names are quoted here; triggers take no parameters

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from headwater.sql._tracking import SINCE, Tracking, quote, text
from headwater.sql.postgresql._locks import lock_table
from headwater.sql.postgresql._triggers import (
    CANONICAL,
    CHANGED,
    Function,
    Trigger,
    disabled,
    make,
    object_of,
    present_in,
    qualified,
    renewed_without,
    run,
    schema_with,
    short_name,
)

_NOW = "pg_catalog.pg_current_xact_id()"
# PostgreSQL fires triggers in the order of their names: after those that a user may have, which
# may still change the row.
_PREFIX = "~headwater_"
_OWN = sa.text(
    "SELECT tgname::text FROM pg_trigger WHERE tgrelid = to_regclass(:table) "
    "AND NOT tgisinternal AND tgname ~ '^~headwater_'"
)


def triggers(tracking: Tracking, links: Sequence[str]) -> dict[str, Trigger]:
    """The triggers of a table's links, by kind."""
    since = f"NEW.{SINCE} IS DISTINCT FROM OLD.{SINCE}"
    # Some types, such as json, have no equality: the bytes are compared.
    before, after = (", ".join(f"{row}.{quote(c)}" for c in links) for row in ("OLD", "NEW"))
    moved = f"ROW({before})::record *<> ROW({after})::record"
    linked = f"({moved} OR OLD.{SINCE} > {_NOW}) OR {since}"
    mark, keep = "headwater_link", _former(tracking)
    new = f"NEW.{SINCE} IS DISTINCT FROM {_NOW}"
    # A change of the column by others counts as a change of the links, too.
    told, gone = f"{since} AND OLD.{SINCE} <> {_NOW}", f"OLD.{SINCE} <> {_NOW}"
    return {
        "link_insert": Trigger("BEFORE INSERT", "ROW", mark, condition=new),
        "link_update": Trigger("BEFORE UPDATE", "ROW", mark, condition=linked),
        "link_moved": Trigger("AFTER UPDATE", "ROW", keep, condition=told),
        "link_deleted": Trigger("AFTER DELETE", "ROW", keep, condition=gone),
    }


def functions(tracking: Tracking, links: Sequence[str], own: str) -> list[Function]:
    """The functions that these triggers call. ``own``: the quoted schema of Headwater's tables."""
    name = text(tracking.name)
    former = (
        f"IF pg_catalog.to_regclass({text(f'{own}.headwater_former_links')}) IS NULL THEN\n"
        "    RETURN NULL;\n  END IF;\n"
        f"  BEGIN\n    olds := {object_of(links, 'OLD')};\n"
        f"  {CHANGED}\n    {renewed_without(links, f'{own}.headwater_links', name)}\n"
        f"    olds := {present_in(links, 'OLD')};\n  END;\n"
        f"  INSERT INTO {own}.headwater_former_links (table_name, change, since, links, at)\n"
        f"  VALUES ({name}, {_NOW}, OLD.{SINCE}, olds, pg_catalog.clock_timestamp());\n"
        "  RETURN NULL;"
    )
    return [
        Function("headwater_link", f"NEW.{SINCE} := {_NOW};\n  RETURN NEW;"),
        Function(_former(tracking), former, CANONICAL, "DECLARE olds jsonb;"),
    ]


def install(
    connection: sa.Connection, tracking: Tracking, links: Sequence[str], *, has_column: bool
) -> None:
    """Add the column, and make the triggers in place of those of another declaration."""
    target = qualified(tracking)
    own = schema_with(connection, "headwater_former_links")
    for function in functions(tracking, links, own):
        run(connection, function.ddl(own))
    lock_table(connection, tracking)
    if not has_column:
        # Existing rows count as linked from the beginning.
        run(connection, f"ALTER TABLE {target} ADD COLUMN {SINCE} xid8 NOT NULL DEFAULT '0'")
    run(connection, f"ALTER TABLE {target} ALTER COLUMN {SINCE} SET DEFAULT {_NOW}")
    _drop_triggers(connection, tracking)
    named = {
        _trigger(tracking.table, kind): each for kind, each in triggers(tracking, links).items()
    }
    make(connection, tracking, own, named)


def drop(connection: sa.Connection, tracking: Tracking) -> None:
    """Drop the triggers and the column."""
    lock_table(connection, tracking)
    _drop_triggers(connection, tracking)
    run(connection, f"ALTER TABLE {qualified(tracking)} DROP COLUMN {SINCE}")


def _drop_triggers(connection: sa.Connection, tracking: Tracking) -> None:
    """Drop those of whatever declaration: a renamed table keeps the names of its triggers."""
    table = qualified(tracking)
    found = connection.execute(_OWN, {"table": table}).scalars()
    for name in found.all():
        run(connection, f"DROP TRIGGER {quote(name)} ON {table}")


def renew(connection: sa.Connection, tracking: Tracking) -> None:
    """Rows that transactions of another server linked count as linked from the beginning."""
    target = qualified(tracking)
    names = connection.execute(_OWN, {"table": target}).scalars().all()
    with disabled(connection, tracking, names):
        run(
            connection,
            f"UPDATE {target} SET {SINCE} = '0' "
            f"WHERE {SINCE} >= pg_snapshot_xmax(pg_current_snapshot())",
        )


def _former(tracking: Tracking) -> str:
    return short_name(f"headwater_{tracking.name}_former")


def _trigger(table: str, kind: str) -> str:
    return short_name(f"{_PREFIX}{table}_{kind}", _PREFIX)

"""PostgreSQL: the triggers that keep the former links of a table's rows.

Each row carries the transaction that set a link column last, ``headwater_since``. A default sets it
when the row is inserted. A link that changes twice in one transaction leaves one former row: nobody
else has seen what was between. When an older transaction updates a row that a younger one linked,
that counts as a change of the links: no row has a ``headwater_since`` above its latest change.
"""

# ruff: noqa: S608 - names are quoted here; triggers take no parameters

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import sqlalchemy as sa

from headwater.sql._tracking import SINCE, Tracking, quote, text
from headwater.sql.postgresql._locks import lock_table
from headwater.sql.postgresql._triggers import qualified, run

__all__ = ["drop", "install"]

_NOW = "pg_catalog.pg_current_xact_id()"
# PostgreSQL fires triggers in the order of their names: after those that a user may have, which
# may still change the row.
_PREFIX = "~headwater_"
_KINDS = ("link_insert", "link_update", "link_moved", "link_deleted")


def install(
    connection: sa.Connection, tracking: Tracking, links: Sequence[str], *, has_column: bool
) -> None:
    """Add the column, and make the triggers in place of those of another declaration."""
    target, name, table = qualified(tracking), tracking.name, tracking.table
    own = str(
        run(
            connection,
            "SELECT quote_ident(nspname) FROM pg_namespace WHERE oid = (SELECT relnamespace "
            "FROM pg_class WHERE oid = 'headwater_former_links'::regclass)",
        ).scalar_one()
    )
    function = f"{own}.{quote(_short(f'headwater_{name}_former'))}"
    pairs = ", ".join(f"{text(column)}, OLD.{quote(column)}" for column in links)
    options = "SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
    run(
        connection,
        f"CREATE OR REPLACE FUNCTION {own}.headwater_link() RETURNS trigger LANGUAGE plpgsql AS\n"
        f"$headwater$ BEGIN NEW.{SINCE} := {_NOW}; RETURN NEW; END $headwater$",
    )
    run(
        connection,
        f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql {options} AS\n"
        f"$headwater$ BEGIN\n  INSERT INTO {own}.headwater_former_links "
        f"(table_name, change, since, links, at)\n  VALUES ({text(name)}, {_NOW}, OLD.{SINCE}, "
        f"pg_catalog.jsonb_build_object({pairs}), pg_catalog.clock_timestamp());\n"
        "  RETURN NULL;\nEND $headwater$",
    )
    lock_table(connection, tracking)
    if not has_column:
        # Rows that are there have had their links for ever.
        run(connection, f"ALTER TABLE {target} ADD COLUMN {SINCE} xid8 NOT NULL DEFAULT '0'")
    run(connection, f"ALTER TABLE {target} ALTER COLUMN {SINCE} SET DEFAULT {_NOW}")
    _drop_triggers(connection, tracking)
    moved = " OR ".join(f"OLD.{quote(c)} IS DISTINCT FROM NEW.{quote(c)}" for c in links)
    linked = f"({moved} OR OLD.{SINCE} > {_NOW})"
    mark = f"EXECUTE FUNCTION {own}.headwater_link()"
    keep = f"EXECUTE FUNCTION {function}()"
    bodies = {
        "link_insert": f"BEFORE INSERT ON {target} FOR EACH ROW\n"
        f"WHEN (NEW.{SINCE} IS DISTINCT FROM {_NOW}) {mark}",
        "link_update": f"BEFORE UPDATE ON {target} FOR EACH ROW\n"
        f"WHEN ({linked} OR NEW.{SINCE} IS DISTINCT FROM OLD.{SINCE}) {mark}",
        # A change of the column by others counts as a change of the links, too.
        "link_moved": f"AFTER UPDATE ON {target} FOR EACH ROW\n"
        f"WHEN (NEW.{SINCE} IS DISTINCT FROM OLD.{SINCE} AND OLD.{SINCE} <> {_NOW}) {keep}",
        "link_deleted": f"AFTER DELETE ON {target} FOR EACH ROW\n"
        f"WHEN (OLD.{SINCE} <> {_NOW}) {keep}",
    }
    for kind, body in bodies.items():
        trigger = quote(_trigger(table, kind))
        run(connection, f"CREATE TRIGGER {trigger} {body}")
        run(connection, f"ALTER TABLE {target} ENABLE ALWAYS TRIGGER {trigger}")


def drop(connection: sa.Connection, tracking: Tracking) -> None:
    """Drop the triggers."""
    lock_table(connection, tracking)
    _drop_triggers(connection, tracking)


def _drop_triggers(connection: sa.Connection, tracking: Tracking) -> None:
    for kind in _KINDS:
        trigger = quote(_trigger(tracking.table, kind))
        run(connection, f"DROP TRIGGER IF EXISTS {trigger} ON {qualified(tracking)}")


def renew(connection: sa.Connection, tracking: Tracking) -> None:
    """Rows whose links are of transactions of another server have had them for ever."""
    target = qualified(tracking)
    kinds = [quote(_trigger(tracking.table, kind)) for kind in ("link_update", "link_moved")]
    for trigger in kinds:
        run(connection, f"ALTER TABLE {target} DISABLE TRIGGER {trigger}")
    run(
        connection,
        f"UPDATE {target} SET {SINCE} = '0' "
        f"WHERE {SINCE} >= pg_snapshot_xmax(pg_current_snapshot())",
    )
    for trigger in kinds:
        run(connection, f"ALTER TABLE {target} ENABLE ALWAYS TRIGGER {trigger}")


def _trigger(table: str, kind: str) -> str:
    return _short(f"{_PREFIX}{table}_{kind}", _PREFIX)


def _short(name: str, prefix: str = "headwater_") -> str:
    if len(name.encode()) <= 63:
        return name
    return f"{prefix}{hashlib.blake2s(name.encode(), digest_size=8).hexdigest()}"

"""A table as PostgreSQL's catalogue has it, and how its tracking differs from what it should be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from headwater.errors import DeclarationError
from headwater.sql._tracking import CHANGE, ORDER, Tracking, a_view, new_epoch
from headwater.sql.postgresql._triggers import qualified, triggers

CHILDREN = (
    "tables inherit from it (INHERITS), and its triggers do not see how their rows change; "
    "track those tables, or make it a partitioned table"
)

# The triggers of Headwater on a table, by the functions that they call.
_TABLE = sa.text(r"""SELECT c.relkind = 'p',
(SELECT count(*) FROM pg_inherits WHERE inhparent = c.oid),
ARRAY(SELECT a.attname::text FROM pg_attribute AS a
WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
ARRAY(SELECT a.attname::text FROM pg_index AS i JOIN pg_attribute AS a
ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY a.attnum),
ARRAY(SELECT ARRAY[t.tgname::text, t.tgenabled::text, p.proname::text, encode(t.tgargs, 'hex')]
FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
AND p.proname LIKE 'headwater\_%' AND t.tgname LIKE 'headwater\_%' ORDER BY 1),
c.oid::bigint, c.relkind IN ('v', 'm') FROM pg_class AS c WHERE c.oid = to_regclass(:table)""")

# Whether another table's triggers use a registration.
_TAKEN = sa.text("""SELECT count(*) FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE p.proname = 'headwater_truncated' AND t.tgrelid <> CAST(:oid AS oid)
AND encode(t.tgargs, 'hex') LIKE :wanted""")

_REGISTERED = sa.text("""SELECT n.nspname, c.relname, encode(t.tgargs, 'hex')
FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid JOIN pg_class AS c ON c.oid = t.tgrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE p.proname = 'headwater_truncated' AND NOT c.relispartition""")


@dataclass(frozen=True, slots=True)
class CatalogueTable:
    """What the catalogue says of a table.

    Attributes:
        tracking: as it is declared, with the registration that its triggers use.
        triggers: how each of its triggers is enabled, by name; "A" is always.
    """

    tracking: Tracking
    children: int
    columns: Sequence[str]
    key: Sequence[str]
    triggers: Mapping[str, str]

    def drift(self, wanted: Tracking) -> list[str]:
        """A sentence for each difference to what the tracking should be."""
        if self.children and not self.tracking.partitioned:
            return [CHILDREN]
        missing = [name for name in (CHANGE, ORDER) if name not in self.columns]
        if missing:
            return ["the database does not track it; is the database migrated?"]
        found = []
        if sorted(self.key) != sorted(wanted.key):
            found.append(f"its primary key is {', '.join(self.key) or 'gone'}")
        off = [name for name, enabled in self.triggers.items() if enabled != "A"]
        if off:
            found.append(f"its trigger {off[0]!r} is not enabled for all writers")
        if len(self.triggers) < len(triggers(wanted, "")):
            found.append("some of its triggers are gone")
        return found


def read_table(connection: sa.Connection, tracking: Tracking) -> CatalogueTable | None:
    """The table; None if there is none of this name. Raises DeclarationError for a view."""
    row = connection.execute(_TABLE, {"table": qualified(tracking)}).first()
    if row is None:
        return None
    partitioned, children, columns, key, found, oid, view = row
    if view:
        raise DeclarationError(a_view(tracking))
    tracking = replace(tracking, partitioned=partitioned)
    for _, _, function, arguments in found:
        if function == "headwater_truncated":
            known = bytes.fromhex(arguments).partition(b"\0")[0].decode()
            tracking = replace(tracking, registered=known)
            break
    else:
        wanted = tracking.full_name.encode().hex()
        given = {"oid": oid, "wanted": f"{wanted}00%"}
        if connection.scalar(_TAKEN, given):
            tracking = replace(tracking, registered=f"{tracking.full_name} {new_epoch()}")
    enabled = {name: how for name, how, *_ in found}
    return CatalogueTable(tracking, children, columns, key, enabled)


def read_registered(connection: sa.Connection) -> Iterator[tuple[str, Tracking]]:
    """Each registration that triggers use, with a tracking that names the table."""
    for schema, table, arguments in connection.execute(_REGISTERED):
        name = bytes.fromhex(arguments).partition(b"\0")[0].decode()
        yield name, Tracking(table, (), schema=schema)

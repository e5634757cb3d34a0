"""A table as PostgreSQL's catalogue has it, and how its tracking differs from what it should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from headwater.errors import DeclarationError
from headwater.sql._tracking import CHANGE, ORDER, Tracking, a_view, new_epoch, quote
from headwater.sql.postgresql import _links as links
from headwater.sql.postgresql._triggers import Function, Trigger, functions, qualified, triggers

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
ARRAY(SELECT ARRAY[t.tgname::text, t.tgenabled::text, p.proname::text, encode(t.tgargs, 'hex'),
t.tgtype::text, (t.tgqual IS NOT NULL)::text, p.prosrc, n.nspname::text]
FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
AND p.proname LIKE 'headwater\_%' AND t.tgname ~ '^~?headwater_' ORDER BY 1),
c.oid::bigint, c.relkind IN ('v', 'm'), c.relpersistence = 'u', row_security_active(c.oid),
ARRAY(SELECT a.attname::text FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
LEFT JOIN pg_type AS b ON b.oid = t.typbasetype AND t.typtype = 'd'
WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
AND (coalesce(b.typcategory, t.typcategory) = 'A' OR coalesce(b.typtype, t.typtype) = 'c'
OR coalesce(b.typname, t.typname) = 'hstore')),
ARRAY(SELECT a.attname::text FROM pg_attribute AS a
WHERE a.attrelid = c.oid AND a.attgenerated = 'v' AND NOT a.attisdropped)
FROM pg_class AS c WHERE c.oid = to_regclass(:table)""")

# Whether another table's triggers use a registration.
_TAKEN = sa.text("""SELECT count(*) FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE p.proname = 'headwater_truncated' AND t.tgrelid <> CAST(:oid AS oid)
AND encode(t.tgargs, 'hex') LIKE :wanted""")

_REGISTERED = sa.text("""SELECT n.nspname, c.relname, encode(t.tgargs, 'hex')
FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid JOIN pg_class AS c ON c.oid = t.tgrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE p.proname = 'headwater_truncated' AND NOT c.relispartition""")


@dataclass(frozen=True, slots=True)
class CatalogueTrigger:
    """A trigger as the catalogue has it.

    Attributes:
        enabled: "A" is always.
        shape: as in ``Trigger``.
        source: the text of its function.
        own: the quoted schema of its function.
    """

    name: str
    enabled: str
    shape: tuple[str, int, bool]
    arguments: Sequence[str]
    source: str
    own: str


@dataclass(frozen=True, slots=True)
class CatalogueTable:
    """What the catalogue says of a table.

    Attributes:
        tracking: as it is declared, with the registration that its triggers use.
        triggers: of the tracking.
        links: the triggers of its links.
        unlogged: PostgreSQL empties it after a crash.
        hidden: policies (row-level security) may hide rows from this role.
        nested: columns whose values are arrays, records or hstores.
        virtual: generated columns that are not stored.
    """

    tracking: Tracking
    children: int
    columns: Sequence[str]
    key: Sequence[str]
    triggers: Sequence[CatalogueTrigger]
    links: Sequence[CatalogueTrigger]
    unlogged: bool
    hidden: bool
    nested: Sequence[str]
    virtual: Sequence[str]

    def check(self, wanted: Tracking) -> None:
        """Raises DeclarationError for a table that cannot be followed exactly."""
        name = self.tracking.full_name
        if self.children and not self.tracking.partitioned:
            raise DeclarationError(f"table {name!r} cannot be tracked: {CHILDREN}")
        if self.unlogged:
            raise DeclarationError(
                f"table {name!r} cannot be tracked: it is unlogged, so PostgreSQL empties it after "
                "a crash, which no trigger sees; ALTER TABLE ... SET LOGGED"
            )
        nested = [each for each in (*wanted.key, *wanted.filters) if each in self.nested]
        if wanted.keyed and nested:
            raise DeclarationError(
                f"table {name!r} cannot be keyed or filtered by {nested[0]!r}: a removal cannot "
                "keep arrays, records and hstores; use a column for the part that is wanted"
            )
        virtual = [each for each in wanted.filters if each in self.virtual]
        if virtual:
            raise DeclarationError(
                f"table {name!r} cannot be filtered by {virtual[0]!r}: a trigger cannot see a "
                "virtual generated column; make it STORED"
            )

    def check_visible(self, wanted: Tracking) -> None:
        """Raises DeclarationError for a role that policies may hide rows from."""
        if self.hidden and wanted.keyed:
            raise DeclarationError(
                f"table {self.tracking.full_name!r} cannot be followed by this role: its policies "
                "(row-level security) hide rows, and nothing reports that a row becomes hidden. "
                "Read with a role that bypasses them, and select by where()"
            )

    def drift(self, wanted: Tracking, made_for: Tracking | None = None) -> list[str]:
        """A sentence for each difference to what the tracking should be.

        ``made_for``: what the triggers were made for, if that is not ``wanted``.
        """
        missing = [name for name in (CHANGE, ORDER) if name not in self.columns]
        if missing:
            return ["the database does not track it"]
        found = []
        if sorted(self.key) != sorted(wanted.key):
            found.append(f"its primary key is {', '.join(self.key) or 'gone'}")
        # The catalogue has the name of the registration, and whether there are partitions.
        wanted, made_for = (
            replace(each, registered=self.tracking.name, partitioned=self.tracking.partitioned)
            for each in (wanted, made_for or wanted)
        )
        return found + drifted(
            self.triggers, triggers(wanted), lambda own: functions(made_for, own)
        )

    def links_drift(self, columns: Sequence[str]) -> list[str]:
        """The same for what live queries need, given the columns that are tracked as links."""
        return drifted(
            self.links,
            links.triggers(self.tracking, columns),
            lambda own: links.functions(self.tracking, columns, own),
        )


def drifted(
    there: Sequence[CatalogueTrigger],
    wanted: Mapping[str, Trigger],
    calls: Callable[[str], Sequence[Function]],
) -> list[str]:
    """A sentence for each difference between triggers and what they should be.

    ``calls``: makes the functions that they call, given the schema of Headwater's tables.
    """
    off = [each.name for each in there if each.enabled != "A"]
    found = [f"its trigger {off[0]!r} is not enabled for all writers"] if off else []
    shapes = {each.shape for each in there}
    gone = [kind for kind, trigger in wanted.items() if trigger.shape not in shapes]
    found += [f"its trigger {kind!r} is gone" for kind in gone]
    sources = {each.name: each.source for each in (calls(there[0].own) if there else ())}
    edited = [each.shape[0] for each in there if sources.get(each.shape[0]) != each.source]
    return found + [f"the function {name!r} is another one" for name in dict.fromkeys(edited)]


def read_table(connection: sa.Connection, tracking: Tracking) -> CatalogueTable | None:
    """The table; None if there is none of this name. Raises DeclarationError for a view."""
    row = connection.execute(_TABLE, {"table": qualified(tracking)}).first()
    if row is None:
        return None
    partitioned, children, columns, key, found, oid, view, *facts = row
    if view:
        raise DeclarationError(a_view(tracking))
    tracking = replace(tracking, partitioned=partitioned)
    every = [_trigger(*each) for each in found]
    own = [each for each in every if not each.name.startswith("~")]
    known = [each.arguments[0] for each in own if each.shape[0] == "headwater_truncated"]
    if known:
        tracking = replace(tracking, registered=known[0])
    else:
        wanted = tracking.full_name.encode().hex()
        given = {"oid": oid, "wanted": f"{wanted}00%"}
        if connection.scalar(_TAKEN, given):
            tracking = replace(tracking, registered=f"{tracking.full_name} {new_epoch()}")
    linked = [each for each in every if each.name.startswith("~")]
    return CatalogueTable(tracking, children, columns, key, own, linked, *facts)


def _trigger(
    name: str, enabled: str, function: str, given: str, bits: str, when: str, source: str, own: str
) -> CatalogueTrigger:
    shape = (function, int(bits), when == "true")
    arguments = [each.decode() for each in bytes.fromhex(given).split(b"\0")[:-1]]
    return CatalogueTrigger(name, enabled, shape, arguments, source, quote(own))


def read_registered(connection: sa.Connection) -> Iterator[tuple[str, Tracking]]:
    """Each registration that triggers use, with a tracking that names the table."""
    for schema, table, arguments in connection.execute(_REGISTERED):
        name = bytes.fromhex(arguments).partition(b"\0")[0].decode()
        yield name, Tracking(table, (), schema=schema)

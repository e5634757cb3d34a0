"""How a table is tracked, the columns and indexes of that, and Headwater's own two tables."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from headwater.sql.postgresql._types import XID8

# The column of a row's latest change: its number, or on PostgreSQL its transaction.
CHANGE = "headwater_change"
# The change that set a link column of the row last; tables that live queries read have it.
SINCE = "headwater_since"
# The order of changes within a transaction: a column on PostgreSQL alone.
ORDER = "headwater_order"

# The types of Headwater's own columns on both databases.
NUMBER = sa.BigInteger().with_variant(XID8(), "postgresql")
JSON = sa.Text().with_variant(JSONB(), "postgresql")
MOMENT = sa.Text().with_variant(sa.DateTime(timezone=True), "postgresql")

# PostgreSQL keeps 63 bytes of a name.
_LONGEST_NAME = 60


@dataclass(frozen=True, slots=True)
class Tracking:
    """How one table is tracked. All names are those of the database.

    Attributes:
        table: the table.
        key: the columns of its primary key.
        keyed: updates and deletes are changes too, not only inserts.
        filters: on a keyed table, the columns whose old values are kept for each removal.
        moments: on a keyed table, its date-time columns; kept likewise, for time windows.
        indexes: runs of columns that get an index together with the change number.
        notify: on PostgreSQL, a trigger wakes other processes with NOTIFY.
        schema: the table's schema, if it is not the connection's own.
        registered: the name of its registration, where that is not the table's: a renamed table
            keeps the registration that its triggers name.
        partitioned: on PostgreSQL, rows may move between partitions.
        name: the table's name in Headwater's own tables.
    """

    table: str
    key: tuple[str, ...]
    keyed: bool = False
    filters: tuple[str, ...] = ()
    moments: tuple[str, ...] = ()
    indexes: tuple[tuple[str, ...], ...] = ()
    notify: bool = True
    schema: str | None = None
    registered: str | None = None
    partitioned: bool = False
    name: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.registered or self.full_name)

    @property
    def full_name(self) -> str:
        """The table's name with its schema."""
        return self.table if self.schema is None else f"{self.schema}.{self.table}"

    @property
    def kept(self) -> tuple[str, ...]:
        """The columns whose old values each removal keeps."""
        return tuple(dict.fromkeys((*self.filters, *self.moments)))

    @property
    def call(self) -> str:
        """The call of ``add_tracking`` that makes this, as it stands in a migration."""
        return self.call_with(())

    def call_with(self, links: Sequence[str]) -> str:
        """The same call with these link columns."""
        options: dict[str, object] = {}
        if self.keyed:
            options["keyed"] = True
        if self.filters:
            options["filters"] = list(self.filters)
        further = [run for run in self.indexes if run != self.filters]
        if further:
            options["indexes"] = further
        if not self.notify:
            options["notify"] = False
        if self.schema is not None:
            options["schema"] = self.schema
        if links:
            options["links"] = list(links)
        shown = "".join(f", {name}={value!r}" for name, value in options.items())
        return f"add_tracking(op, {self.table!r}{shown})"

    def declared(self) -> str:
        """What the database keeps of this, to find triggers of an older declaration."""
        kept = {"keyed": self.keyed, "filters": self.filters}
        return json.dumps(kept | {"key": self.key, "moments": self.moments})

    def as_declared(self, declared: str) -> Tracking:
        """This as it was when triggers were made for ``declared``."""
        found = json.loads(declared)
        return replace(
            self,
            keyed=found["keyed"],
            filters=tuple(found["filters"]),
            key=tuple(found.get("key", self.key)),
            moments=tuple(found.get("moments", ())),
        )

    def served_by(self, declared: str) -> bool:
        """Whether triggers that were made for ``declared`` record all that this needs."""
        made_for = self.as_declared(declared)
        same = (made_for.keyed, sorted(made_for.key)) == (self.keyed, sorted(self.key))
        return same and set(self.filters) <= set(made_for.filters)


@dataclass(frozen=True, slots=True)
class ChangeIndex:
    """An index that ends with the change.

    Attributes:
        columns: on SQLite.
        postgresql: on PostgreSQL, where the primary key orders the rows that were there before
            the tracking.
    """

    name: str
    columns: tuple[str, ...]
    postgresql: tuple[str, ...]


def change_column() -> sa.Column[int]:
    """The column of the change, as it is added to a table."""
    # A STRICT table of SQLite takes no BIGINT.
    return sa.Column(CHANGE, NUMBER.with_variant(sa.Integer(), "sqlite"), nullable=True)


def change_indexes(tracking: Tracking, taken: Container[str] = ()) -> list[ChangeIndex]:
    """The indexes that tracking needs, the one on the change alone first.

    ``taken``: names that belong to other tables. ``ix_a_b_c`` may be of table a or of a_b.
    """
    found: list[ChangeIndex] = []
    for run in ((), *tracking.indexes):
        name = "_".join(("ix", tracking.table, *run, CHANGE))
        if len(name.encode()) > _LONGEST_NAME or name in taken:
            full = "\0".join((tracking.table, *run)).encode()
            digest = hashlib.blake2s(full, digest_size=6).hexdigest()
            name = f"ix_{tracking.table[:10]}_{digest}_{CHANGE}"
        key = tuple(column for column in tracking.key if column not in run)
        found.append(ChangeIndex(name, (*run, CHANGE), (*run, CHANGE, ORDER, *key)))
    return found


_METADATA = sa.MetaData()

# On PostgreSQL: numbers the changes within a transaction. A session takes 32 at a time, which keeps
# their order within it.
NUMBERS = sa.Sequence("headwater_numbers", metadata=_METADATA, cache=32)


def add_own_tables(metadata: sa.MetaData) -> tuple[sa.Table, sa.Table]:
    """Headwater's own tables in a metadata, so that ``create_all`` makes them.

    They have no schema, also where those of the metadata have one: triggers of tables in all
    schemas share them.
    """
    if "headwater_tables" in metadata.tables:
        return metadata.tables["headwater_tables"], metadata.tables["headwater_removals"]
    # One row per tracked table. ``last`` is the number of its latest change (SQLite); changes up to
    # ``floor`` may have been trimmed, and those up to ``retiring`` are next; ``declared`` is what
    # its triggers were made for. On PostgreSQL floor and retiring are transactions.
    tables = sa.Table(
        "headwater_tables",
        metadata,
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("epoch", sa.Text, nullable=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("floor", sa.BigInteger, nullable=False),
        sa.Column("declared", sa.Text, nullable=False),
        sa.Column("retiring", sa.BigInteger, nullable=True),
        schema=sa.BLANK_SCHEMA,
        sqlite_with_rowid=False,
    )
    # ``key`` and ``old`` are JSON objects by column name; ``old`` also has the row's former change.
    # ``change`` is the transaction, on PostgreSQL alone.
    removals = sa.Table(
        "headwater_removals",
        metadata,
        sa.Column("table_name", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("key", JSON, nullable=False),
        sa.Column("old", JSON, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("change", NUMBER, nullable=True),
        schema=sa.BLANK_SCHEMA,
        sqlite_with_rowid=False,
    )
    for name, columns in (
        ("change", (removals.c.change, removals.c.number)),
        ("key", (removals.c.key,)),
    ):
        index = sa.Index(f"ix_headwater_removals_{name}", removals.c.table_name, *columns)
        index.ddl_if(dialect="postgresql")
    return tables, removals


TABLES, REMOVALS = add_own_tables(_METADATA)


def create_own_tables(connection: sa.Connection) -> None:
    """Create Headwater's own tables, and on PostgreSQL the sequence, where they are missing."""
    _METADATA.create_all(connection, checkfirst=True)


def new_epoch() -> str:
    """A name for one life of a table."""
    return secrets.token_hex(6)


def register(
    connection: sa.Connection, tracking: Tracking, *, anew: bool, missed: bool = False
) -> None:
    """Enter a table in Headwater's own tables.

    Arguments:
        anew: it begins without an epoch and numbers from before.
        missed: changes may have been missed, so positions from before are answered with a reset.
    """
    if anew:
        forget(connection, tracking)
    declared = tracking.declared()
    mine = TABLES.c.name == tracking.name
    # Removals of a key with other columns cannot be read any more.
    before = declared_before(connection, tracking)
    missed = missed or (before is not None and before.key != tracking.key)
    values = {"declared": declared} | ({"epoch": new_epoch()} if missed else {})
    if connection.execute(TABLES.update().where(mine).values(values)).rowcount == 0:
        connection.execute(
            TABLES.insert().values(
                name=tracking.name, epoch=new_epoch(), last=0, floor=0, declared=declared
            )
        )


def declared_before(connection: sa.Connection, tracking: Tracking) -> Tracking | None:
    """The declaration that a table's triggers were made for."""
    mine = sa.select(TABLES.c.declared).where(TABLES.c.name == tracking.name)
    declared = connection.scalar(mine)
    return None if declared is None else tracking.as_declared(declared)


def forget(connection: sa.Connection, tracking: Tracking) -> None:
    """Remove what Headwater's own tables hold of a table."""
    connection.execute(TABLES.delete().where(TABLES.c.name == tracking.name))
    connection.execute(REMOVALS.delete().where(REMOVALS.c.table_name == tracking.name))


def a_view(tracking: Tracking) -> str:
    """The sentence that refuses a view."""
    return (
        f"{tracking.full_name!r} is a view, and triggers do not see how its rows change; "
        "track the tables that it reads"
    )


def quote(name: str) -> str:
    """An identifier as SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A string as SQL."""
    return "'" + value.replace("'", "''") + "'"

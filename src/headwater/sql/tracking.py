"""How a table is tracked, the columns and indexes of that, and Headwater's own two tables."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from headwater.sql.postgresql.types import XID8

# The column of a row's latest change: its number, or on PostgreSQL its transaction.
CHANGE = "headwater_change"
# The change that set a link column of the row last; tables that live queries read have it.
SINCE = "headwater_since"
# The order of changes within a transaction: a column on PostgreSQL alone.
ORDER = "headwater_order"

# PostgreSQL keeps 63 characters of a name.
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
        uniques: on a keyed table, its unique constraints: a REPLACE may remove rows by them.
        indexes: runs of columns that get an index together with the change number.
        notify: on PostgreSQL, a trigger wakes other processes with NOTIFY.
        schema: the table's schema, if it is not the connection's own.
    """

    table: str
    key: tuple[str, ...]
    keyed: bool = False
    filters: tuple[str, ...] = ()
    moments: tuple[str, ...] = ()
    uniques: tuple[tuple[str, ...], ...] = ()
    indexes: tuple[tuple[str, ...], ...] = ()
    notify: bool = True
    schema: str | None = None

    @property
    def name(self) -> str:
        """The table's name in Headwater's own tables."""
        return self.table if self.schema is None else f"{self.schema}.{self.table}"

    @property
    def kept(self) -> tuple[str, ...]:
        """The columns whose old values each removal keeps."""
        return tuple(dict.fromkeys((*self.filters, *self.moments)))

    def declared(self) -> str:
        """What the database keeps of this, to find triggers of an older declaration."""
        return json.dumps({"keyed": self.keyed, "filters": sorted(self.filters)})

    def served_by(self, declared: str) -> bool:
        """Whether triggers that were made for ``declared`` record all that this needs."""
        found = json.loads(declared)
        return bool(found["keyed"] == self.keyed) and set(self.filters) <= set(found["filters"])


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
    kind = sa.BigInteger().with_variant(XID8(), "postgresql")
    return sa.Column(CHANGE, kind, nullable=True)


def change_indexes(tracking: Tracking) -> list[ChangeIndex]:
    """The indexes that tracking needs, the one on the change alone first."""
    found: list[ChangeIndex] = []
    for run in ((), *tracking.indexes):
        name = "_".join(("ix", tracking.table, *run, CHANGE))
        if len(name) > _LONGEST_NAME:
            name = f"ix_{tracking.table[:24]}_{len(found)}_{CHANGE}"
        key = tuple(column for column in tracking.key if column not in run)
        found.append(ChangeIndex(name, (*run, CHANGE), (*run, CHANGE, ORDER, *key)))
    return found


_METADATA = sa.MetaData()

# On PostgreSQL: numbers the changes within a transaction. A session takes 32 at a time, which keeps
# their order within it.
NUMBERS = sa.Sequence("headwater_numbers", metadata=_METADATA, cache=32)

# One row per tracked table. ``last`` is the number of its latest change (SQLite); changes up to
# ``floor`` may have been trimmed, and those up to ``retiring`` are next; ``declared`` is what its
# triggers were made for. On PostgreSQL floor and retiring are transactions.
TABLES = sa.Table(
    "headwater_tables",
    _METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Text, nullable=False),
    sa.Column("last", sa.BigInteger, nullable=False),
    sa.Column("floor", sa.BigInteger, nullable=False),
    sa.Column("declared", sa.Text, nullable=False),
    sa.Column("retiring", sa.BigInteger, nullable=True),
    sqlite_with_rowid=False,
)

# ``key`` and ``old`` are JSON objects by column name; ``old`` also has the row's former change.
# ``change`` is the transaction, on PostgreSQL alone.
REMOVALS = sa.Table(
    "headwater_removals",
    _METADATA,
    sa.Column("table_name", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("key", sa.Text().with_variant(JSONB(), "postgresql"), nullable=False),
    sa.Column("old", sa.Text().with_variant(JSONB(), "postgresql"), nullable=False),
    sa.Column(
        "at", sa.Text().with_variant(sa.DateTime(timezone=True), "postgresql"), nullable=False
    ),
    sa.Column("change", sa.BigInteger().with_variant(XID8(), "postgresql"), nullable=True),
    sqlite_with_rowid=False,
)
for _name, _columns in (
    ("change", (REMOVALS.c.change, REMOVALS.c.number)),
    ("key", (REMOVALS.c.key,)),
):
    sa.Index(f"ix_headwater_removals_{_name}", REMOVALS.c.table_name, *_columns).ddl_if(
        dialect="postgresql"
    )


def add_own_tables(metadata: sa.MetaData) -> tuple[sa.Table, sa.Table]:
    """Add Headwater's own tables to a user's metadata, once, so that ``create_all`` makes them."""
    found = []
    for table in (TABLES, REMOVALS):
        known = metadata.tables.get(table.name)
        found.append(table.to_metadata(metadata) if known is None else known)
    return found[0], found[1]


def create_own_tables(connection: sa.Connection) -> None:
    """Create Headwater's own tables, and on PostgreSQL the sequence, where they are missing."""
    _METADATA.create_all(connection, checkfirst=True)


def new_epoch() -> str:
    """A name for one life of a table."""
    return secrets.token_hex(6)


def register(connection: sa.Connection, tracking: Tracking, *, anew: bool) -> None:
    """Enter a table in Headwater's own tables. Unless ``anew``, it keeps its epoch and numbers."""
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


def forget(connection: sa.Connection, tracking: Tracking) -> None:
    """Remove what Headwater's own tables hold of a table."""
    connection.execute(TABLES.delete().where(TABLES.c.name == tracking.name))
    connection.execute(REMOVALS.delete().where(REMOVALS.c.table_name == tracking.name))


def quote(name: str) -> str:
    """An identifier as SQL."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A string as SQL."""
    return "'" + value.replace("'", "''") + "'"

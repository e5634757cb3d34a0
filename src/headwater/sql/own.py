"""Headwater's own two tables, the same on every database, and the epochs that they hold."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from headwater.sql.postgresql.types import XID8

__all__ = ["NUMBERS", "REMOVALS", "TABLES", "add_own_tables", "create_own_tables", "new_epoch"]

_own = sa.MetaData()

# On PostgreSQL: where the order of changes within a transaction comes from. A session takes 32 at
# a time, which keeps their order within it.
NUMBERS = sa.Sequence("headwater_numbers", metadata=_own, cache=32)

# One row per tracked table. ``last`` is the number of its latest change (SQLite); changes up to
# ``floor`` may have been trimmed, and those up to ``retiring`` are next; ``declared`` is what its
# triggers were made for. On PostgreSQL floor and retiring are transactions.
TABLES = sa.Table(
    "headwater_tables",
    _own,
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
    _own,
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
    """Headwater's own tables as part of a user's, so that ``create_all`` makes them, once."""
    found = []
    for table in (TABLES, REMOVALS):
        known = metadata.tables.get(table.name)
        found.append(table.to_metadata(metadata) if known is None else known)
    return found[0], found[1]


def create_own_tables(connection: sa.Connection) -> None:
    """Create Headwater's own tables, and on PostgreSQL the sequence, where they are missing."""
    _own.create_all(connection, checkfirst=True)


def new_epoch() -> str:
    """A name for one life of a table."""
    return secrets.token_hex(6)

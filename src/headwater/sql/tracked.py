"""What is known of a tracked table, whatever the database: enough to write its triggers from."""

from __future__ import annotations

import json
from dataclasses import dataclass

import sqlalchemy as sa

from headwater.sql.postgresql.types import XID8

__all__ = ["CHANGE", "ORDER", "SINCE", "ChangeIndex", "Tracking", "change_column", "change_indexes"]

# The column that tells a row's latest change: its number, or on PostgreSQL its transaction.
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
        keyed: updates and deletes are told, not only inserts.
        filters: on a keyed table, the columns whose old values are kept for each removal.
        moments: on a keyed table, its date-time columns; kept likewise, for time windows.
        uniques: on a keyed table, its unique constraints: a row may vanish by a REPLACE.
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
        """What Headwater's own tables call it."""
        return self.table if self.schema is None else f"{self.schema}.{self.table}"

    @property
    def kept(self) -> tuple[str, ...]:
        """The columns whose old values each removal keeps."""
        return tuple(dict.fromkeys((*self.filters, *self.moments)))

    def declared(self) -> str:
        """What the database remembers of this, to notice triggers of an older declaration."""
        return json.dumps({"keyed": self.keyed, "filters": sorted(self.filters)})

    def served_by(self, declared: str) -> bool:
        """Whether triggers that were made for ``declared`` tell all that this needs."""
        found = json.loads(declared)
        return bool(found["keyed"] == self.keyed) and set(self.filters) <= set(found["filters"])


@dataclass(frozen=True, slots=True)
class ChangeIndex:
    """An index that goes on with the change.

    Attributes:
        columns: on SQLite.
        postgresql: on PostgreSQL, where the primary key settles the order of rows that are older
            than the tracking.
    """

    name: str
    columns: tuple[str, ...]
    postgresql: tuple[str, ...]


def change_column() -> sa.Column[int]:
    """The column, as it is added to a table."""
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

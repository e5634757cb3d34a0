"""What is known of a tracked table, whatever the database: enough to write its triggers from."""

from __future__ import annotations

import json
from dataclasses import dataclass

import sqlalchemy as sa

__all__ = ["CHANGE", "ChangeIndex", "Tracking", "change_column", "change_indexes"]

# The column that holds the number of a row's latest change.
CHANGE = "headwater_change"

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
    """

    table: str
    key: tuple[str, ...]
    keyed: bool = False
    filters: tuple[str, ...] = ()
    moments: tuple[str, ...] = ()
    uniques: tuple[tuple[str, ...], ...] = ()
    indexes: tuple[tuple[str, ...], ...] = ()

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
    """An index that ends with the change number."""

    name: str
    columns: tuple[str, ...]


def change_column() -> sa.Column[int]:
    """The column, as it is added to a table."""
    return sa.Column(CHANGE, sa.BigInteger(), nullable=True)


def change_indexes(tracking: Tracking) -> list[ChangeIndex]:
    """The indexes that tracking needs, the one on the change number alone first."""
    found: list[ChangeIndex] = []
    for run in ((), *tracking.indexes):
        name = "_".join(("ix", tracking.table, *run, CHANGE))
        if len(name) > _LONGEST_NAME:
            name = f"ix_{tracking.table[:24]}_{len(found)}_{CHANGE}"
        found.append(ChangeIndex(name, (*run, CHANGE)))
    return found

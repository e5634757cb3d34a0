"""What each statement tells besides its rows: the table's registration, the server, the snapshot.

All of it is of the statement's own snapshot, or of the same moment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from headwater.sql.own import REMOVALS, TABLES
from headwater.sql.postgresql.snapshot import Snapshot
from headwater.sql.postgresql.types import XID8
from headwater.sql.shape import Shape

__all__ = ["FACTS", "LIFE", "SHORT_LIFE", "Facts", "bound", "fact_columns"]

# How many columns they are.
FACTS = 11

# One life of a server's data: a copy that was promoted or restored to a point in time goes on with
# another timeline, a server that was made anew has another identifier, and a database that was
# loaded from a dump another oid.
LIFE = """(SELECT concat_ws(':', (SELECT system_identifier FROM pg_control_system()),
CASE WHEN pg_is_in_recovery()
THEN (SELECT upper(lpad(to_hex(timeline_id), 8, '0')) FROM pg_control_checkpoint())
ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END,
(SELECT oid FROM pg_database WHERE datname = current_database())))"""
# Where a provider lets nobody ask for that.
SHORT_LIFE = "(SELECT oid::text FROM pg_database WHERE datname = current_database())"

_TOTAL = "pg_snapshot_xmin(pg_current_snapshot())"
_PROMPT = (
    f"(SELECT CASE WHEN pg_is_in_recovery() THEN {_TOTAL} "
    "ELSE pg_snapshot_xmax(pg_current_snapshot()) END)"
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a statement saw.

    Attributes:
        epoch: of the table on this server.
        floor: changes of transactions up to this one may have been trimmed.
        retiring: those up to this one are trimmed next; None if none are.
        declared: what the triggers were made for.
        standby: the server is a hot standby.
        now: the transactions that the statement told of.
        seen: the snapshot itself; a standby's does not say what runs.
        held: there are changes that older transactions hold up.
        newest: the latest transaction of which there is a row or a removal, or 0.
        last_left: the moment of the last row of the selection that left the time window.
    """

    epoch: str
    floor: int
    retiring: int | None
    declared: str
    standby: bool
    now: Snapshot
    seen: Snapshot
    held: bool
    newest: int
    last_left: datetime | None

    @classmethod
    def of(cls, row: Sequence[Any], total: bool) -> Facts:
        """Read the first columns of a row."""
        epoch, floor, retiring, declared, life, standby, text, newest, gone, held, left = row[
            :FACTS
        ]
        name = hashlib.blake2s(f"{epoch} {life}".encode(), digest_size=6).hexdigest()
        seen = now = Snapshot.from_postgres(text)
        # A standby does not know which transactions run, only below which one none does.
        if total or standby:
            now = Snapshot(int(text.partition(":")[0]))
        latest = max(newest or 0, gone or 0)
        return cls(name, floor, retiring, declared, standby, now, seen, bool(held), latest, left)


def bound(total: bool) -> sa.ColumnElement[int]:
    """Changes of this transaction and later ones are not told yet."""
    return sa.literal_column(_TOTAL if total else _PROMPT, XID8())


def fact_columns(
    shape: Shape, *, total: bool, control: bool, first: sa.ColumnElement[bool] | None
) -> list[sa.ColumnElement[Any]]:
    """The columns, but for the last one.

    Arguments:
        total: count only transactions below which none is running.
        control: the server tells about its control file.
        first: the row that carries the snapshot, which may be long; None for all.
    """
    columns: list[tuple[sa.ColumnElement[int], sa.ColumnElement[int], sa.ColumnElement[bool]]] = [
        (shape.number, shape.order, sa.true())
    ]
    if shape.tracking.keyed:
        mine = REMOVALS.c.table_name == shape.tracking.name
        columns.append((REMOVALS.c.change, REMOVALS.c.number, mine))
    # The last one by the index each time; EXISTS would read the table.
    every = [
        sa.select(xid).where(condition).order_by(xid.desc(), number.desc()).limit(1)
        for xid, number, condition in columns
    ]
    latest = [
        one.where(xid < bound(total)).scalar_subquery()
        for one, (xid, _, _) in zip(every, columns, strict=True)
    ]
    held = [one.scalar_subquery() >= bound(total) for one in every]
    now: sa.ColumnElement[Any] = sa.literal_column("(SELECT pg_current_snapshot()::text)", sa.Text)
    if first is not None:
        now = sa.case((first, now))
    return [
        TABLES.c.epoch,
        TABLES.c.floor,
        TABLES.c.retiring,
        TABLES.c.declared,
        sa.literal_column(LIFE if control else SHORT_LIFE, sa.Text).label("headwater_life"),
        sa.func.pg_is_in_recovery().label("headwater_standby"),
        now.label("headwater_now"),
        latest[0].label("headwater_newest"),
        (latest[1] if len(latest) > 1 else sa.null()).label("headwater_gone"),
        sa.or_(*held).label("headwater_held"),
    ]

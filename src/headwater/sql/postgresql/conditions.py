"""The facts that come with each statement, and the conditions for what a client lacks.

The facts are the table's registration, the server and the snapshot, all of the same moment. The
conditions compare a row's transaction and order with a client's place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from headwater.sql.filters import Condition
from headwater.sql.model import TableModel
from headwater.sql.postgresql.place import ROW, At, SnapshotPlace
from headwater.sql.postgresql.snapshot import TransactionSnapshot
from headwater.sql.postgresql.types import XID8, PgSnapshot, as_xid
from headwater.sql.tracking import REMOVALS, TABLES

__all__ = [
    "DECLARED",
    "FACTS",
    "LIFE",
    "SHORT_LIFE",
    "Facts",
    "above",
    "below_values",
    "bound",
    "fact_columns",
    "client_has",
    "key_values",
    "place_values",
    "running",
    "top",
]

# How many columns the facts are.
FACTS = 11
# Which of them is the declaration.
DECLARED = 3

# One life of a server's data: a copy that was promoted or restored to a point in time goes on with
# another timeline, a new server has another identifier, and a database that was
# loaded from a dump another oid.
LIFE = """(SELECT concat_ws(':', (SELECT system_identifier FROM pg_control_system()),
CASE WHEN pg_is_in_recovery()
THEN (SELECT upper(lpad(to_hex(timeline_id), 8, '0')) FROM pg_control_checkpoint())
ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END,
(SELECT oid FROM pg_database WHERE datname = current_database())))"""
# Where the user may not read that, as with some providers.
SHORT_LIFE = "(SELECT oid::text FROM pg_database WHERE datname = current_database())"

_ALL = 2**63 - 1
_TOTAL = "pg_snapshot_xmin(pg_current_snapshot())"
_PROMPT = (
    f"(SELECT CASE WHEN pg_is_in_recovery() THEN {_TOTAL} "
    "ELSE pg_snapshot_xmax(pg_current_snapshot()) END)"
)


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of one statement.

    Attributes:
        epoch: of the table on this server.
        floor: changes of transactions up to this one may have been trimmed.
        retiring: those up to this one are trimmed next; None if none are.
        declared: what the triggers were made for.
        standby: the server is a hot standby.
        now: the transactions whose changes the statement returns.
        seen: the snapshot itself; a standby's does not say what runs.
        held: some changes wait for older transactions.
        newest: the latest transaction that has a row or a removal, or 0.
        last_left: the moment of the last row of the selection that left the time window.
    """

    epoch: str
    floor: int
    retiring: int | None
    declared: str
    standby: bool
    now: TransactionSnapshot
    seen: TransactionSnapshot
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
        seen = now = TransactionSnapshot.from_postgres(text)
        # A standby knows only a transaction below which none runs.
        if total or standby:
            now = TransactionSnapshot(int(text.partition(":")[0]))
        latest = max(newest or 0, gone or 0)
        return cls(name, floor, retiring, declared, standby, now, seen, bool(held), latest, left)


def bound(total: bool) -> sa.ColumnElement[int]:
    """The first transaction whose changes are not sent yet."""
    return sa.literal_column(_TOTAL if total else _PROMPT, XID8())


def fact_columns(
    model: TableModel, *, total: bool, control: bool, first: sa.ColumnElement[bool] | None
) -> list[sa.ColumnElement[Any]]:
    """The columns, but for the last one.

    Arguments:
        total: count only transactions below which none is running.
        control: the user may read the server's control file.
        first: the row that carries the snapshot, which may be long; None for all.
    """
    columns: list[tuple[sa.ColumnElement[int], sa.ColumnElement[int], sa.ColumnElement[bool]]] = [
        (model.number, model.order, sa.true())
    ]
    if model.tracking.keyed:
        mine = REMOVALS.c.table_name == model.tracking.name
        columns.append((REMOVALS.c.change, REMOVALS.c.number, mine))
    # Each reads one row of the index; EXISTS would read the table.
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


def place_values(place: SnapshotPlace) -> dict[str, Any]:
    """A client's place as parameters. It may have a part of a running transaction, or of xmax."""
    snapshot = place.snapshot
    parts = {part.xid: part for part in place.parts}
    lows = [_least(parts.get(xid)) for xid in snapshot.running]
    row, gone = _least(parts.get(snapshot.xmax))
    values = {
        "xmax": str(snapshot.xmax),
        "row_least": row,
        "gone_least": gone,
        "running": [str(xid) for xid in snapshot.running],
        "row_lows": [low[0] for low in lows],
        "gone_lows": [low[1] for low in lows],
        "had": snapshot.for_postgres(),
        "part_xids": [str(xid) for xid in parts],
        "part_rows": [_least(part)[0] for part in parts.values()],
    }
    return values | key_values(top(place), "top_key")


def _least(part: At | None) -> tuple[int, int]:
    """The numbers of the last row and the last removal that the client has of a transaction."""
    if part is None:
        return -1, -1
    return (part.number, _ALL) if part.kind == ROW else (-1, part.number)


def top(place: SnapshotPlace) -> At | None:
    """The part of the transaction at xmax, if it ends among the rows older than the tracking."""
    part = place.parts[-1] if place.parts else None
    return part if part is not None and part.key else None


def key_values(at: At | None, name: str) -> dict[str, Any]:
    """The columns of an older row's key as parameters."""
    keys = [] if at is None or not at.key else at.keys
    return {f"{name}_{n}": key for n, key in enumerate(keys)}


def above(
    columns: Sequence[sa.ColumnElement[Any]],
    xid: str,
    number: str,
    keys: Sequence[sa.ColumnElement[Any]] = (),
    key: str = "",
) -> tuple[sa.Tuple, sa.Tuple]:
    """Two tuples to compare: the columns, and the parameters of these names.

    ``keys`` are further columns, for rows that are older than the tracking.
    """
    wanted: list[sa.ColumnElement[Any]] = [
        as_xid(sa.bindparam(xid, type_=sa.Text)),
        sa.bindparam(number, type_=sa.BigInteger),
    ]
    for at, column in enumerate(keys):
        wanted.append(sa.cast(sa.bindparam(f"{key}_{at}", type_=sa.Text), column.type))
    return sa.tuple_(*columns, *keys), sa.tuple_(*wanted)


def running(lows: str) -> sa.Subquery:
    """The transactions that ran, ascending, each with the last number that the client has."""
    pending = sa.func.unnest(
        sa.cast(sa.bindparam("running", type_=ARRAY(sa.Text)), ARRAY(XID8())),
        sa.bindparam(lows, type_=ARRAY(sa.BigInteger)),
    ).table_valued(sa.column("xid", XID8()), sa.column("low", sa.BigInteger))
    named = pending.render_derived(name="ran")
    return sa.select(named.c.xid, named.c.low).order_by(named.c.xid).subquery("pending")


def client_has(xid: sa.ColumnElement[int], number: sa.ColumnElement[int]) -> Condition:
    """Whether the client has this row's change."""
    # As a subquery it is evaluated once, not for each row.
    snapshot = sa.select(
        sa.cast(sa.bindparam("had", type_=sa.Text), PgSnapshot())
    ).scalar_subquery()
    parts = sa.func.unnest(
        sa.cast(sa.bindparam("part_xids", type_=ARRAY(sa.Text)), ARRAY(XID8())),
        sa.bindparam("part_rows", type_=ARRAY(sa.BigInteger)),
    ).table_valued(sa.column("xid", XID8()), sa.column("low", sa.BigInteger))
    named = parts.render_derived(name="part")
    return sa.or_(
        sa.and_(
            xid < as_xid(sa.bindparam("xmax", type_=sa.Text)),
            sa.func.pg_visible_in_snapshot(xid, snapshot),
        ),
        sa.exists(sa.select(1).select_from(named).where(named.c.xid == xid, number <= named.c.low)),
    )


def below_values(at: At | None, xmax: int) -> dict[str, Any]:
    """The parameters of a page that ends before a change, or below a transaction."""
    if at is None:
        return {"below_xid": str(xmax), "below_number": -1}
    number = at.number if at.kind == ROW else -1
    values = {"below_xid": str(at.xid), "below_number": number}
    return values | key_values(at, "below_key")

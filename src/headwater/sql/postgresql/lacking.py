"""A client's place as the parameters of a statement, and the conditions that use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from headwater.sql.postgresql.place import ROW, At, SnapshotPlace
from headwater.sql.postgresql.types import XID8, PgSnapshot, as_xid

__all__ = ["above", "below_values", "had", "place_values", "running", "top"]

Condition = sa.ColumnElement[bool]

_ALL = 2**63 - 1


def place_values(place: SnapshotPlace) -> dict[str, Any]:
    """The parameters. Of a running transaction and of the one at xmax a part may have been sent."""
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
    """The numbers of the last row and the last removal of a transaction that were sent."""
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
    """The transactions that ran, ascending, each with the number from which on it is lacking."""
    pending = sa.func.unnest(
        sa.cast(sa.bindparam("running", type_=ARRAY(sa.Text)), ARRAY(XID8())),
        sa.bindparam(lows, type_=ARRAY(sa.BigInteger)),
    ).table_valued(sa.column("xid", XID8()), sa.column("low", sa.BigInteger))
    named = pending.render_derived(name="ran")
    return sa.select(named.c.xid, named.c.low).order_by(named.c.xid).subquery("pending")


def had(xid: sa.ColumnElement[int], number: sa.ColumnElement[int]) -> Condition:
    """Whether the client has this row's change."""
    # As a subquery it is read once, not for each row.
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

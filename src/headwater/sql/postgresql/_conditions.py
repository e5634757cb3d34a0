"""The facts that come with each statement, and the conditions for what a client lacks.

The facts are the table's registration, the server and the snapshot, all of the same moment. The
conditions compare a row's transaction and order with a client's place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from headwater.sql._expressions import Column, Condition
from headwater.sql._tracking import Tracking
from headwater.sql.postgresql._snapshot import TransactionSnapshot
from headwater.sql.postgresql._triggers import qualified
from headwater.sql.postgresql._types import XID8, PgSnapshot, as_xid

# How many columns the facts are.
FACTS = 11
# Which of them is the declaration.
DECLARED = 3

# The files of a table and of its partitions. Partitions come and go without triggers, and a column
# that gets another type may give rows other values: the table is then in other files.
_FILES = """concat_ws(' ', '', pg_relation_filenode('{0}'::regclass),
(SELECT string_agg(c.oid || '.' || c.relfilenode, ',' ORDER BY c.oid)
FROM pg_partition_tree('{0}'::regclass) AS p JOIN pg_class AS c ON c.oid = p.relid
WHERE p.isleaf))"""

_TOTAL = "pg_snapshot_xmin(pg_current_snapshot())"
_PROMPT = (
    f"(SELECT CASE WHEN pg_is_in_recovery() THEN {_TOTAL} "
    "ELSE pg_snapshot_xmax(pg_current_snapshot()) END)"
)


class Facts:
    """The facts of one statement.

    Attributes:
        epoch: of the table on this server.
        floor: changes of transactions up to this one may have been trimmed.
        retiring: those up to this one are trimmed next; None if none are.
        standby: the server is a hot standby.
        now: the transactions whose changes the statement returns.
        seen: the snapshot itself; a standby's does not say what runs.
        held: some changes wait for older transactions.
        beyond: some are of transactions that this server has not made yet.
        newest: the latest transaction that has a row or a removal, or 0.
        last_left: the moment of the last row of the selection that left the time window.
    """

    last_left: datetime | None

    def __init__(self, row: Sequence[Any], total: bool) -> None:
        epoch, self.floor, self.retiring, _, life, self.standby, text, *rest = row[:FACTS]
        newest, gone, latest, self.last_left = rest
        self.epoch = hashlib.blake2s(f"{epoch} {life}".encode(), digest_size=6).hexdigest()
        self.seen = self.now = TransactionSnapshot.from_postgres(text)
        # A standby knows only a transaction below which none runs.
        if total or self.standby:
            self.now = TransactionSnapshot(int(text.partition(":")[0]))
        self.newest: int = max(newest or 0, gone or 0)
        self.held = (latest or 0) >= self.now.xmax
        self.beyond = (latest or 0) >= self.seen.xmax and not self.standby


def files(tracking: Tracking) -> Column:
    """What becomes another when rows came, went or changed without row triggers."""
    table = qualified(tracking).replace("'", "''")
    return sa.literal_column(_FILES.format(table), sa.Text)


def bound(total: bool) -> sa.ColumnElement[int]:
    """The first transaction whose changes are not sent yet."""
    return sa.literal_column(_TOTAL if total else _PROMPT, XID8())


def above(
    columns: Sequence[Column],
    xid: str,
    number: str,
    keys: Sequence[tuple[Column, Column]] = (),
) -> tuple[sa.Tuple, sa.Tuple]:
    """Two tuples to compare: the columns, and the parameters of these names.

    ``keys``: for rows that are older than the tracking, columns of the key and their values.
    """
    wanted: list[Column] = [
        as_xid(sa.bindparam(xid, type_=sa.Text)),
        sa.bindparam(number, type_=sa.BigInteger),
    ]
    others = [other for _, other in keys]
    return sa.tuple_(*columns, *(one for one, _ in keys)), sa.tuple_(*wanted, *others)


def running(lows: str) -> sa.Subquery:
    """The transactions that ran, ascending, each with the last number that the client has."""
    pending = sa.func.unnest(
        sa.cast(sa.bindparam("running", type_=ARRAY(sa.Text)), ARRAY(XID8())),
        sa.bindparam(lows, type_=ARRAY(sa.BigInteger)),
    ).table_valued(sa.column("xid", XID8()), sa.column("low", sa.BigInteger))
    named = pending.render_derived(name="headwater_ran")
    return sa.select(named.c.xid, named.c.low).order_by(named.c.xid).subquery("headwater_pending")


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
    named = parts.render_derived(name="headwater_part")
    return sa.or_(
        sa.and_(
            xid < as_xid(sa.bindparam("xmax", type_=sa.Text)),
            sa.func.pg_visible_in_snapshot(xid, snapshot),
        ),
        sa.exists(sa.select(1).select_from(named).where(named.c.xid == xid, number <= named.c.low)),
    )

"""The event log's tables on SQLite, and what its rows mean there and on PostgreSQL.

An Alembic migration creates them with ``METADATA.create_all(op.get_bind())``, or on either database
with ``headwater.eventlog.sql.create_tables``; ``SqlLog.start()`` creates what is missing and writes
the one row of ``headwater_log``.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from headwater.eventlog._record import Bounds, Offset, Record

# SQLite numbers rows by itself only in a column whose type is INTEGER to the letter.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def add_log(metadata: sa.MetaData) -> None:
    """Add the table of one row that stands for the log itself."""
    sa.Table(
        "headwater_log",
        metadata,
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
        sa.Column("epoch", sa.String(40), nullable=False),
        # Counts the trims, so that a reader notices one and checks whether records were lost.
        sa.Column("trims", sa.BigInteger, nullable=False),
    )


def topic_columns(collation: str | None = None) -> list[sa.Column[Any]]:
    """The columns of a topic beside its id."""
    return [
        sa.Column("name", sa.String(200, collation=collation), nullable=False, unique=True),
        # The highest number given out. Writers of one topic queue at its row.
        sa.Column("latest", sa.BigInteger, nullable=False),
        # The highest number removed.
        sa.Column("trimmed", sa.BigInteger, nullable=False),
    ]


def event_columns(collation: str | None = None) -> list[sa.Column[Any]]:
    """The columns of an event beside its topic and number."""
    return [
        # Microseconds since 1970 UTC.
        sa.Column("at", sa.BigInteger, nullable=False),
        # Bytes of data in UTF-8.
        sa.Column("size", sa.Integer, nullable=False),
        # The idempotency key, and which event of that append this is, from 0.
        sa.Column("key", sa.String(200, collation=collation)),
        sa.Column("part", sa.Integer, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
    ]


METADATA = sa.MetaData()
add_log(METADATA)
sa.Table("headwater_topics", METADATA, sa.Column("id", _ID, primary_key=True), *topic_columns())
sa.Table(
    "headwater_events",
    METADATA,
    # The order of commits, since one writer at a time holds the file. No id is given out twice
    # (autoincrement), also after the newest rows were trimmed.
    sa.Column("id", _ID, primary_key=True),
    sa.Column("topic_id", _ID, sa.ForeignKey("headwater_topics.id"), nullable=False),
    # 1, 2, 3 … within the topic, without gaps.
    sa.Column("number", sa.BigInteger, nullable=False),
    *event_columns(),
    sa.UniqueConstraint("topic_id", "number", name="headwater_events_number"),
    sa.Index(
        "headwater_events_key", "topic_id", "key", "part",
        unique=True, sqlite_where=sa.text("key IS NOT NULL"),
    ),
    sqlite_autoincrement=True,
)  # fmt: skip

_DAWN = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


def ticks(at: datetime) -> int:
    """Microseconds since 1970 UTC."""
    return (at - _DAWN) // _TICK


def moment(count: int) -> datetime:
    """The moment of ``ticks``."""
    return _DAWN + count * _TICK


def record_of(topic: str, row: sa.Row[Any]) -> Record:
    """The record in a row with ``number``, ``at``, ``key`` and ``data``."""
    return Record(topic, Offset.of(row.number), moment(row.at), json.loads(row.data), row.key)


def bounds_of(epoch: str, latest: int | None, trimmed: int | None) -> Bounds:
    """Of a topic's row, or of a topic that has none."""
    return Bounds(epoch, Offset.of(trimmed or 0), Offset.of(latest or 0))

"""The event log's tables on SQLite, and the columns and records of both databases.

An Alembic migration creates the tables with ``headwater.eventlog.sql.create_tables``, or on SQLite
with ``METADATA.create_all(op.get_bind())``. ``SqlLog.start()`` creates what is missing and writes
the one row of ``headwater_log``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from headwater.eventlog._record import DAWN, Bounds, Offset, Record, event_in, mark_of, moment

# SQLite numbers rows by itself only in a column whose type is INTEGER, literally.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def add_log(metadata: sa.MetaData) -> None:
    """Add the table of the log itself, which has one row."""
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
    # In the order of commits, as the file has one writer at a time. No id is given out twice
    # (autoincrement), even after the newest rows were trimmed.
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


# A topic's columns in a statement about ``t``: its bounds, and its last event's time and size.
END = (
    "t.latest, t.trimmed,"
    " (SELECT x.at FROM headwater_events AS x WHERE x.topic_id = t.id AND x.number = t.latest)"
    " AS end_at,"
    " (SELECT x.size FROM headwater_events AS x WHERE x.topic_id = t.id AND x.number = t.latest)"
    " AS end_size"
)


def records_of(topic: str, rows: Iterable[sa.Row[Any]]) -> list[Record]:
    """The records in rows with ``number``, ``at``, ``size``, ``key`` and ``data``.

    Rows of another program that hold no event are skipped.
    """
    found: list[Record] = []
    before, when, mark = (0, 0), DAWN, ""
    for row in rows:
        number, at, size = row.number, row.at, row.size
        data = event_in(topic, number, row.data)
        if data is None:
            continue
        if (at, size) != before:  # events of one append have one time, and often one size
            before, when, mark = (at, size), moment(at), mark_of(at, size)
        found.append(Record(topic, Offset((number,)), when, data, row.key, mark))
    return found


def bounds_of(row: sa.Row[Any]) -> Bounds:
    """The bounds in a row with ``END``; all but ``epoch`` is None for a topic that has no row."""
    mark = mark_of(row.end_at, row.end_size)
    return Bounds(row.epoch, Offset.of(row.trimmed or 0), Offset.of(row.latest or 0), mark)

"""The event log's tables on PostgreSQL. ``sql.create_tables`` makes them."""

from __future__ import annotations

import sqlalchemy as sa

from headwater.sql.postgresql.types import XID8

__all__ = ["METADATA"]

METADATA = sa.MetaData()

sa.Table(
    "headwater_log",
    METADATA,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
    sa.Column("epoch", sa.String(40), nullable=False),
    # How often something was trimmed: tells a reader to look whether it was overtaken.
    sa.Column("trims", sa.BigInteger, nullable=False),
)

sa.Table(
    "headwater_topics",
    METADATA,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("name", sa.String(200, collation="C"), nullable=False, unique=True),
    # The highest number given out; its row is what writers of one topic queue at.
    sa.Column("latest", sa.BigInteger, nullable=False),
    # The highest number removed.
    sa.Column("trimmed", sa.BigInteger, nullable=False),
    # Room for the next version of a row beside it, so that an append changes no index of topics.
    postgresql_with={"fillfactor": 50},
)

# No foreign key: it would ask for each event whether its topic exists, which is locked by then.
sa.Table(
    "headwater_events",
    METADATA,
    sa.Column("topic_id", sa.BigInteger, primary_key=True, autoincrement=False),
    # 1, 2, 3 … within the topic, without gaps, in the order of commits.
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    # The transaction that brought it: tells a reader which topics have something new.
    sa.Column("xid", XID8, server_default=sa.text("pg_current_xact_id()"), nullable=False),
    # Microseconds since 1970 UTC.
    sa.Column("at", sa.BigInteger, nullable=False),
    # Bytes of data in UTF-8.
    sa.Column("size", sa.Integer, nullable=False),
    # The idempotency key, and which event of that append this is, from 0.
    sa.Column("key", sa.String(200, collation="C")),
    sa.Column("part", sa.Integer, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Index("headwater_events_xid", "xid", "topic_id"),
    sa.Index(
        "headwater_events_key",
        "topic_id",
        "key",
        "part",
        unique=True,
        postgresql_where=sa.text("key IS NOT NULL"),
    ),
)

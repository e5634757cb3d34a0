"""The event log's tables on PostgreSQL. ``sql.create_tables`` makes them."""

from __future__ import annotations

import sqlalchemy as sa

from headwater.eventlog.sql.tables import add_log, event_columns, topic_columns
from headwater.sql.postgresql.types import XID8

__all__ = ["METADATA"]

METADATA = sa.MetaData()
add_log(METADATA)
sa.Table(
    "headwater_topics",
    METADATA,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    *topic_columns("C"),
    # Room for the next version of a row beside it, so that an append changes no index of topics.
    postgresql_with={"fillfactor": 50},
)
# No foreign key: it would check for each event that its topic exists, which is locked by then.
sa.Table(
    "headwater_events",
    METADATA,
    sa.Column("topic_id", sa.BigInteger, primary_key=True, autoincrement=False),
    # 1, 2, 3 … within the topic, without gaps, in the order of commits.
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    # The transaction that brought it, so that a reader finds the topics with something new.
    sa.Column("xid", XID8, server_default=sa.text("pg_current_xact_id()"), nullable=False),
    *event_columns("C"),
    sa.Index("headwater_events_xid", "xid", "topic_id"),
    sa.Index(
        "headwater_events_key", "topic_id", "key", "part",
        unique=True, postgresql_where=sa.text("key IS NOT NULL"),
    ),
)  # fmt: skip

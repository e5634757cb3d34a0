"""Trimming a SQL log. A trim removes the oldest records of a topic and leaves no hole."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from headwater.eventlog.record import Retention
from headwater.eventlog.sql.storage import Storage

__all__ = ["LOCK", "topics_to_trim", "trim_some"]

# Rows per transaction.
STEP = 5_000

# Topics of which at least the oldest record is beyond a limit.
_CANDIDATES = sa.text(
    "SELECT l.epoch, t.name FROM headwater_log AS l LEFT JOIN headwater_topics AS t"
    " ON t.latest > t.trimmed AND (:any_size OR t.latest - t.trimmed > :max_count"
    " OR EXISTS (SELECT 1 FROM headwater_events AS e WHERE e.topic_id = t.id"
    " AND e.number = t.trimmed + 1 AND e.at < :oldest))"
    " WHERE l.id = 1 ORDER BY t.name"
)
# Locks the topic, and gives its row.
LOCK = sa.text(
    "UPDATE headwater_topics SET trimmed = trimmed WHERE name = :topic"
    " RETURNING id, latest, trimmed"
)
_FIRST_YOUNG = sa.text(
    "SELECT number FROM headwater_events WHERE topic_id = :id AND at >= :oldest"
    " ORDER BY number LIMIT 1"
)
_LAST_BEYOND = sa.text(
    "SELECT number FROM (SELECT number, sum(size) OVER (ORDER BY number DESC) AS total"
    " FROM headwater_events WHERE topic_id = :id) AS sized WHERE total > :max_bytes"
    " ORDER BY number DESC LIMIT 1"
)
_DELETE = sa.text("DELETE FROM headwater_events WHERE topic_id = :id AND number <= :cut")
_MARK = sa.text("UPDATE headwater_topics SET trimmed = :cut WHERE id = :id")
_COUNT_TRIM = sa.text("UPDATE headwater_log SET trims = trims + 1 WHERE id = 1")


async def topics_to_trim(storage: Storage, keep: Retention, oldest: int | None) -> Sequence[str]:
    """The names of topics that may have something to remove."""
    limits = {
        "any_size": keep.max_bytes is not None,
        "max_count": keep.max_count,
        "oldest": oldest,
    }
    rows = await storage.read(_CANDIDATES, limits)
    return [row.name for row in rows if row.name is not None]


async def trim_some(
    connection: AsyncConnection,
    topic: str,
    keep: Retention,
    oldest: int | None,
    lock: sa.TextClause = LOCK,
) -> int:
    """Remove up to ``STEP`` of a topic's oldest records. Returns how many; 0: nothing is left.

    ``lock`` comes first, so that no other transaction changes what is read afterwards. It may leave
    out a topic that another transaction holds.
    """
    topic_row = (await connection.execute(lock, {"topic": topic})).first()
    if topic_row is None:
        return 0
    cut = topic_row.trimmed
    if keep.max_count is not None:
        cut = max(cut, topic_row.latest - keep.max_count)
    if oldest is not None:
        values = {"id": topic_row.id, "oldest": oldest}
        young = (await connection.execute(_FIRST_YOUNG, values)).scalar()
        cut = max(cut, topic_row.latest if young is None else young - 1)
    if keep.max_bytes is not None:
        values = {"id": topic_row.id, "max_bytes": keep.max_bytes}
        cut = max(cut, (await connection.execute(_LAST_BEYOND, values)).scalar() or 0)
    cut = min(cut, topic_row.trimmed + STEP)
    if cut <= topic_row.trimmed:
        return 0
    removed = await connection.execute(_DELETE, {"id": topic_row.id, "cut": cut})
    await connection.execute(_MARK, {"id": topic_row.id, "cut": cut})
    await connection.execute(_COUNT_TRIM)
    return removed.rowcount
